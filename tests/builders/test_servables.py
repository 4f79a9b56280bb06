"""The servables' own code, without Triton: the same functions that training uses."""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support.hostile import many_scans
from tests.support.pictures import encode, huge_png_header, jpeg, noise, png
from tritium_builders import ImagePreprocessing, servables
from tritium_builders.servables import encoders, engine, image_decoder, text_tokenizer
from tritium_client import contract

STRETCH = ImagePreprocessing(size=(20, 30)).servable_spec()
CROP = ImagePreprocessing(size=24, resize="shortest_edge", shortest_edge=32).servable_spec()
QUICK = {**STRETCH, "reducing_gap": 2.0}
SIMD = {"resizer": "fast_image_resize"}


def expected(image: Image.Image) -> Any:
    return np.asarray(image.convert("RGB").resize((30, 20), Image.Resampling.BICUBIC))


class TestImageDecoder:
    def test_stretch_equals_pillows_resize(self) -> None:
        decoded = image_decoder.decode(png(), STRETCH)
        assert decoded.dtype == np.uint8
        assert decoded.shape == (20, 30, 3)
        np.testing.assert_array_equal(decoded, expected(Image.fromarray(noise())))

    def test_shortest_edge_resizes_and_crops_the_centre(self) -> None:
        resized = Image.fromarray(noise(90, 60)).resize((48, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(
            image_decoder.decode(png(90, 60), CROP), np.asarray(resized.crop((12, 4, 36, 28)))
        )

    @pytest.mark.parametrize(
        ("orientation", "turn"),
        [
            (1, None),
            (2, Image.Transpose.FLIP_LEFT_RIGHT),
            (3, Image.Transpose.ROTATE_180),
            (4, Image.Transpose.FLIP_TOP_BOTTOM),
            (5, Image.Transpose.TRANSPOSE),
            (6, Image.Transpose.ROTATE_270),
            (7, Image.Transpose.TRANSVERSE),
            (8, Image.Transpose.ROTATE_90),
        ],
    )
    def test_exif_orientation_is_applied(
        self, orientation: int, turn: Image.Transpose | None
    ) -> None:
        """Source: CIPA DC-008 (EXIF 2.32), tag 0x0112."""
        picture = Image.open(io.BytesIO(jpeg()))
        upright = picture if turn is None else picture.transpose(turn)
        decoded = image_decoder.decode(jpeg(orientation=orientation), STRETCH)
        np.testing.assert_array_equal(decoded, expected(upright))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    @pytest.mark.parametrize("orientation", [1, 6])
    def test_a_large_picture_made_smaller_the_quick_way_looks_the_same(
        self, kind: str, orientation: int
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encode(Image.fromarray(noise(640, 427)), kind, exif=exif)
        quick, exact = (image_decoder.decode(data, spec) for spec in (QUICK, STRETCH))
        assert (quick != exact).any(), "every pixel was filtered"
        assert np.abs(quick.astype(int) - exact).max() <= 6

    def test_a_picture_less_than_four_times_as_large_is_not_touched_first(self) -> None:
        for data in (jpeg(119, 79), png(119, 79), jpeg(79, 59)):
            quick, exact = (image_decoder.decode(data, spec) for spec in (QUICK, STRETCH))
            np.testing.assert_array_equal(quick, exact)

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(1, 300),
        st.integers(1, 300),
        st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
        st.sampled_from([STRETCH, CROP]),
        st.sampled_from(["noise", "black and white"]),
    )
    def test_fast_image_resize_is_within_two_levels_of_pillow(
        self, width: int, height: int, resample: str, spec: dict[str, Any], kind: str
    ) -> None:
        """Of Pillow's own two passes, along the rows and then along the columns."""
        levels = noise(width, height)
        picture = Image.fromarray(levels if kind == "noise" else (levels > 127).astype("u1") * 255)
        spec = {**spec, "resample": resample}
        size, box = (30, 20), (0, 0, 30, 20)
        if spec["resize"] == "shortest_edge":
            scale = 32 / min(width, height)
            size = (max(32, int(width * scale)), max(32, int(height * scale)))
            left, top = (size[0] - 24) // 2, (size[1] - 24) // 2
            box = (left, top, left + 24, top + 24)
        by = image_decoder.RESAMPLING[resample]
        rows = picture.resize((size[0], height), by)
        pillows = np.asarray(rows.resize(size, by).crop(box)).astype(int)
        decoded = image_decoder.decode(encode(picture, "PNG"), {**spec, **SIMD})
        assert np.abs(decoded - pillows).max() <= 2

    @pytest.mark.parametrize("size", [(640, 427), (427, 640), (1201, 97)])
    def test_fast_image_resize_reduces_a_large_picture_as_pillow_does(
        self, size: tuple[int, int]
    ) -> None:
        smooth = Image.fromarray(noise(40, 27)).resize(size, Image.Resampling.BICUBIC)
        data = encode(smooth, "PNG")
        ours, pillows = (image_decoder.decode(data, {**QUICK, **more}) for more in (SIMD, {}))
        assert np.abs(ours.astype(int) - pillows).max() <= 2

    @pytest.mark.parametrize("size", [(3, 12_000), (17_000, 2)])
    def test_lines_are_left_to_pillow(self, size: tuple[int, int]) -> None:
        """Weights so small would be rounded away."""
        data = png(*size)
        ours, pillows = (image_decoder.decode(data, {**STRETCH, **more}) for more in (SIMD, {}))
        np.testing.assert_array_equal(ours, pillows)

    def test_a_missing_package_fails_the_load_and_no_request(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
        with pytest.raises(ImportError, match="cykooz_resizer"):
            image_decoder.ImageDecoder(Path(), {**STRETCH, **SIMD})
        image_decoder.ImageDecoder(Path(), STRETCH)

    def test_a_large_truncated_photo_is_refused(self) -> None:
        with pytest.raises(ValueError, match="the JPEG data is damaged or truncated"):
            image_decoder.decode(jpeg(1200, 900)[:-3000], QUICK)

    def test_transparency_is_laid_over_white(self) -> None:
        clear = Image.new("RGBA", (30, 20), (255, 0, 0, 0))
        assert (image_decoder.decode(encode(clear, "PNG"), STRETCH) == 255).all()
        half = Image.new("RGBA", (30, 20), (255, 0, 0, 128))
        red, green, blue = image_decoder.decode(encode(half, "PNG"), STRETCH)[0, 0]
        assert (red, green, blue) == (255, 127, 127)

    def test_a_transparent_palette_and_grey_with_alpha_are_laid_over_white(self) -> None:
        palette = Image.new("P", (30, 20), 0)
        palette.putpalette([0, 0, 255] * 256)
        clear = encode(palette, "PNG", transparency=0)
        assert (image_decoder.decode(clear, STRETCH) == 255).all()
        grey = encode(Image.new("LA", (30, 20), (0, 0)), "PNG")
        assert (image_decoder.decode(grey, STRETCH) == 255).all()

    def test_sixteen_bits_keep_the_high_byte(self) -> None:
        levels = np.linspace(0, 65535, 30 * 20).reshape(20, 30).astype(np.uint16)
        decoded = image_decoder.decode(encode(Image.fromarray(levels), "PNG"), STRETCH)
        np.testing.assert_array_equal(decoded[..., 0], levels >> 8)

    def test_cmyk_and_grey_become_rgb(self) -> None:
        picture = Image.fromarray(noise())
        for mode in ("CMYK", "L"):
            converted = picture.convert(mode)
            data = encode(converted, "JPEG", quality=95)
            assert image_decoder.decode(data, STRETCH).shape == (20, 30, 3)

    def test_the_first_frame_of_an_animation_is_taken(self) -> None:
        frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
        data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
        assert image_decoder.decode(data, STRETCH)[0, 0].tolist() == [255, 0, 0]

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", r"the image is empty \(0 bytes\)"),
            (b"hello, I am a text", "not a picture in a format that is accepted"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture in a format"),
            (png()[:-40], "the PNG data is damaged or truncated"),
            (jpeg()[:-300], "the JPEG data is damaged or truncated"),
            (huge_png_header(30_000, 20_000), "600000000 pixels; at most 64000000 are accepted"),
            (huge_png_header(5_000, 5_000), "the PNG data is damaged or truncated"),
            (many_scans(side=64, scans=100), "the JPEG has more than 100 scans"),
            (b"x" * (contract.MAX_IMAGE_BYTES + 1), "at most 20971520 are accepted"),
        ],
    )
    def test_what_is_refused_says_why(self, data: bytes, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            image_decoder.decode(data, STRETCH)

    def test_only_scans_that_are_decoded_count(self) -> None:
        """A film behind a phone's photo and a thumbnail within it hold scans of their own."""
        scans = b"\xff\xda\x00\x08" * 1_000
        comment = b"\xff\xfe" + (len(scans) + 2).to_bytes(2, "big") + scans
        photo = encode(Image.fromarray(noise()), "JPEG", progressive=True)
        crowded = photo[:2] + comment + photo[2:] + scans
        np.testing.assert_array_equal(
            image_decoder.decode(crowded, STRETCH), image_decoder.decode(photo, STRETCH)
        )
        np.testing.assert_array_equal(
            image_decoder.decode(many_scans(side=64, scans=99), STRETCH), np.full((20, 30, 3), 128)
        )

    def test_a_bug_fails_its_own_request_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_memory(image: Image.Image, spec: dict[str, Any]) -> Image.Image:
            if image.width == 7:
                raise MemoryError
            return image.resize((30, 20))

        monkeypatch.setattr(image_decoder, "_resize", no_memory)
        requests = [{"image": np.array([[png(width)]], object)} for width in (30, 7, 31)]
        first, bad, last = image_decoder.ImageDecoder(Path(), STRETCH)(requests)
        assert isinstance(bad, MemoryError)
        assert isinstance(first, dict)
        assert isinstance(last, dict)

    @pytest.mark.parametrize("spec", [STRETCH, {**STRETCH, **SIMD}], ids=["pillow", "simd"])
    @pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1), (20, 3_000_000)])
    def test_extreme_shapes_are_answered(self, size: tuple[int, int], spec: dict[str, Any]) -> None:
        picture = encode(Image.new("RGB", size, "red"), "PNG", compress_level=1)
        decoded = image_decoder.decode(picture, spec)
        assert decoded.shape == (20, 30, 3)
        assert (decoded == (255, 0, 0)).all()

    def test_a_line_is_too_elongated_to_be_cropped(self) -> None:
        elongated = encode(Image.new("RGB", (1, 65_000)), "PNG")
        with pytest.raises(ValueError, match="too elongated"):
            image_decoder.decode(elongated, CROP)

    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=200), st.sampled_from([b"", png()[:60], jpeg()[:200]]))
    def test_any_bytes_are_answered_or_refused(self, data: bytes, head: bytes) -> None:
        with contextlib.suppress(ValueError):  # any other exception would fail its neighbours
            assert image_decoder.decode(head + data, STRETCH).shape == (20, 30, 3)

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
    def test_a_broken_exif_block_is_no_reason_to_refuse(self) -> None:
        exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\xff\xff" + b"garbage"
        data = encode(Image.fromarray(noise()), "JPEG", exif=exif)
        assert image_decoder.decode(data, STRETCH).shape == (20, 30, 3)

    def test_one_bad_request_leaves_its_neighbours_alone(self) -> None:
        spec = {**STRETCH, **SIMD, "threads": 3}
        decoder = image_decoder.ImageDecoder(Path(), spec)
        requests = [{"image": np.array([[data]], object)} for data in (png(), b"bad", png(seed=2))]
        first, bad, last = decoder(requests)
        assert isinstance(first, dict)
        assert isinstance(last, dict)
        assert isinstance(bad, image_decoder.InvalidInputError)
        np.testing.assert_array_equal(last["pixels"][0], image_decoder.decode(png(seed=2), spec))


def test_one_row_at_a_time_where_the_weights_are_few_and_so_are_the_threads() -> None:
    runtime = _Doubling()
    requests = [{"input_ids": np.full((items, 3), items)} for items in (1, 2)]
    for threads, shapes in ((1, [(1, 3)] * 3), (2, [(3, 3)])):
        runtime.shapes.clear()
        with engine_over(runtime, one_by_one=True, threads=threads) as run:
            answers = [a for a in run(requests) if isinstance(a, dict)]
        assert runtime.shapes == shapes
        assert [answer["sum"].tolist() for answer in answers] == [[3], [6, 6]]


class TestPacking:
    @settings(deadline=None)
    @given(
        st.lists(st.integers(1, 128), max_size=80),
        st.integers(1, 32),
        st.integers(0, 200),
    )
    def test_every_row_comes_once_within_the_limits(
        self, lengths: list[int], max_batch: int, call_tokens: int
    ) -> None:
        rows = [engine.Row(index, 0, length) for index, length in enumerate(lengths)]
        groups = engine.pack(rows, max_batch, call_tokens)
        assert sorted(row.request for group in groups for row in group) == list(range(len(rows)))
        for group in groups:
            assert len(group) <= max_batch
            assert [row.length for row in group] == sorted(row.length for row in group)

    @settings(deadline=None)
    @given(
        st.lists(st.integers(1, 60), min_size=1, max_size=7), st.integers(1, 7), st.integers(0, 40)
    )
    def test_no_other_groups_cost_less(
        self, lengths: list[int], max_batch: int, call_tokens: int
    ) -> None:
        def cost(groups: Sequence[Sequence[int]]) -> int:
            return sum(max(group) * len(group) + call_tokens for group in groups)

        rows = [engine.Row(index, 0, length) for index, length in enumerate(lengths)]
        found = [
            [row.length for row in group] for group in engine.pack(rows, max_batch, call_tokens)
        ]
        in_order = sorted(lengths)
        others = []
        for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
            ends = [index + 1 for index, cut in enumerate(cuts) if cut]
            groups = [in_order[a:b] for a, b in itertools.pairwise([0, *ends, len(lengths)])]
            if all(len(group) <= max_batch for group in groups):
                others.append(cost(groups))
        assert cost(found) == min(others)

    def test_equal_lengths_are_one_group(self) -> None:
        rows = [engine.Row(index, 0, 9) for index in range(8)]
        assert len(engine.pack(rows, 32, 0)) == 1
        assert [len(group) for group in engine.pack([*rows, engine.Row(8, 0, 10)], 32, 0)] == [8, 1]


class _Doubling:
    """A runtime whose answer shows what it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        self.shapes.append(inputs["input_ids"].shape)
        if (inputs["input_ids"] == 666).any():
            raise RuntimeError("boom")
        return {"sequence": inputs["input_ids"] * 2, "sum": inputs["input_ids"].sum(1)}


@contextlib.contextmanager
def engine_over(runtime: _Doubling, streams: int = 1, **more: Any) -> Iterator[engine.Engine]:
    spec = {
        "stage": "text_encoder", "runtime": "test", "file": "-", "threads": 0, "streams": streams,
        "max_batch": 4, "call_tokens": 4,
        "inputs": [{"name": "input_ids", "ragged": True, "pad": 0}],
        "outputs": [{"name": "sequence", "ragged": True}, {"name": "sum", "ragged": False}],
        **more,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(engine.RUNTIMES, "test", lambda file, spec: runtime)
        yield engine.Engine(Path(), spec)


class TestEngine:
    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(st.tuples(st.integers(1, 3), st.integers(1, 20)), min_size=1, max_size=12),
        st.integers(1, 3),
    )
    def test_answers_go_back_to_their_requests(
        self, shapes: list[tuple[int, int]], streams: int
    ) -> None:
        random = np.random.default_rng(0)
        requests = [{"input_ids": random.integers(1, 99, shape)} for shape in shapes]
        with engine_over(_Doubling(), streams) as run:
            answers = run(requests)
        for request, answer in zip(requests, answers, strict=True):
            assert isinstance(answer, dict)
            np.testing.assert_array_equal(answer["sequence"], request["input_ids"] * 2)
            np.testing.assert_array_equal(answer["sum"], request["input_ids"].sum(1))

    def test_outputs_by_words_are_cut_to_their_own_words(self) -> None:
        class Words(_Doubling):
            def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
                return {"rows": inputs["word_starts"] * 2}

        inputs = [
            {"name": "input_ids", "ragged": True, "pad": 0},
            {"name": "word_starts", "ragged": True, "pad": -1},
        ]
        outputs = [{"name": "rows", "ragged": True, "ragged_as": "word_starts"}]
        requests = [
            {"input_ids": np.ones((1, tokens), np.int64), "word_starts": np.arange(words)[None]}
            for tokens, words in ((9, 2), (9, 7), (4, 3), (10, 1))
        ]
        with engine_over(Words(), inputs=inputs, outputs=outputs) as run:
            answers = run(requests)
        for request, answer in zip(requests, answers, strict=True):
            assert isinstance(answer, dict)
            np.testing.assert_array_equal(answer["rows"], request["word_starts"] * 2)

    def test_similar_lengths_share_a_batch_and_different_ones_do_not(self) -> None:
        runtime = _Doubling()
        lengths = (5, 20, 5, 6, 19)
        with engine_over(runtime) as run:
            run([{"input_ids": np.ones((1, length), np.int64)} for length in lengths])
        assert sorted(runtime.shapes) == [(2, 20), (3, 6)]

    def test_streams_share_a_batch_and_run_side_by_side(self) -> None:
        both = threading.Barrier(2, timeout=10)

        class Meeting(_Doubling):
            def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
                both.wait()  # breaks where the second call waits for the first one's end
                return super().__call__(inputs)

        runtime = Meeting()
        with engine_over(runtime, streams=2) as run:
            answers = run([{"input_ids": np.ones((1, 5), np.int64)}] * 4)
        assert runtime.shapes == [(2, 5), (2, 5)]
        assert all(isinstance(answer, dict) for answer in answers)

    def test_a_failing_batch_does_not_take_the_others_along(self) -> None:
        with engine_over(_Doubling()) as run:
            bad, good = run(
                [{"input_ids": np.full((1, 3), 666)}, {"input_ids": np.ones((1, 20), np.int64)}]
            )
        assert isinstance(bad, RuntimeError)
        assert isinstance(good, dict)


def test_servables_write_errors_in_the_contracts_format() -> None:
    for module in (image_decoder, text_tokenizer):
        error = module.InvalidInputError(3, "no: reason")
        wire = contract.WireError(module.STAGE, 3, "no: reason")
        assert str(error) == contract.format_error(wire)
        assert contract.parse_error(f"in ensemble 'a', {error}") == wire
        assert str(error).startswith(encoders.REFUSED), "not taken for a failure of the server"


def test_tritons_side_is_the_same_in_every_servable() -> None:
    """The files are self-contained, so they repeat it; the copies must not drift apart."""
    bodies = []
    for module in (image_decoder, text_tokenizer):
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text())
        (body,) = [
            node for node in tree.body
            if isinstance(node, ast.ClassDef) and node.name == "TritonPythonModel"
        ]  # fmt: skip
        source = ast.unparse(body)
        bodies.append(source.replace("ImageDecoder", "_").replace("TextTokenizer", "_"))
    assert bodies[0] == bodies[1]
    assert servables.__doc__
