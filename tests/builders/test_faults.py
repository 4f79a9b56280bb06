"""Seeded faults: each makes the build fail, says where, and publishes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders.test_bundle import edit
from tritium_builders import Bundle, build, components
from tritium_builders.errors import BundleError, CompileError, ParityError, PublishError


def toml(value: float) -> str:
    """The same value for each channel, as bundle.toml writes it."""
    return "[\n" + f"    {value},\n" * 3 + "]"


def assert_nothing_published(repository: Path) -> None:
    assert [path.name for path in repository.iterdir()] == [".tritium"]
    assert not list((repository / ".tritium").glob("staging*"))


def fault(monkeypatch: pytest.MonkeyPatch, servable: str, old: str, new: str) -> None:
    """Change what is published, as a slip in a servable would."""
    original = components.servable_source

    def changed(module: str) -> str:
        source = original(module)
        if module != servable:
            return source
        assert old in source
        return source.replace(old, new)

    monkeypatch.setattr(components, "servable_source", changed)


@pytest.mark.parametrize(
    ("servable", "old", "new", "message"),
    [
        pytest.param(
            "image_decoder", "np.asarray(_resize(rgb, spec))",
            "np.asarray(_resize(rgb, spec))[..., ::-1]",
            r"stage image_decoder, output pixels, sample sample-\d: expected shape \[64, 64, 3\], "
            r"got \[64, 64, 3\], largest difference \d+, tolerance 0; .*channel order",
            id="BGR for RGB",
        ),
        pytest.param(
            "image_decoder", "ImageOps.exif_transpose(image, in_place=True)", "image.load()",
            r"stage image_decoder, output pixels, sample sample-\d: .*EXIF rotation",
            id="no EXIF rotation",
        ),
        pytest.param(
            "text_tokenizer", 'if side == "right"', 'if side == "left"',
            r"stage text_tokenizer, output input_ids \(padded\), .*padding_side",
            id="wrong padding side in the tokenizer",
        ),
        pytest.param(
            "engine", "padded[: len(value)] = value", "padded[length - len(value) :] = value",
            r"stage text_encoder, output text_\w+, .*attention mask, padding",
            id="wrong padding side in the engine",
        ),
        pytest.param(
            "text_tokenizer", 'max_length=spec["max_length"]', "max_length=8",
            r"stage text_tokenizer, output input_ids, .*expected shape \[\d+\], got \[8\], largest "
            r"difference inf",
            id="truncation too early",
        ),
    ],
)  # fmt: skip
def test_a_fault_in_a_servable_fails_parity(
    custom: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    servable: str,
    old: str,
    new: str,
    message: str,
) -> None:
    fault(monkeypatch, servable, old, new)
    with pytest.raises(ParityError, match=message):
        build(custom, target="openvino", repository=tmp_path)
    assert_nothing_published(tmp_path)


def test_another_resampling_in_the_bundle_fails_parity(custom_copy: Path, tmp_path: Path) -> None:
    edit(custom_copy, 'resample = "bicubic"', 'resample = "bilinear"')
    repository = tmp_path / "repository"
    with pytest.raises(ParityError, match=r"stage image_decoder, output pixels, .*resampling"):
        build(custom_copy, target="openvino", repository=repository)
    assert_nothing_published(repository)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param(
            f"mean = {toml(0.5)}\nstd = {toml(0.25)}",
            f"mean = {toml(0.0)}\nstd = {toml(1.0)}",
            r"stage image_encoder, output image_features, .*mean, std", id="missing normalisation",
        ),
        pytest.param(
            '"ant",\n    "bee"', '"bee",\n    "ant"',
            r"output label, .*PyTorch's label 0 is 'ant', bundle\.toml's is 'bee'\); the labels'",
            id="swapped label",
        ),
        pytest.param(
            'padding_side = "right"', 'padding_side = "left"', None, id="padding side is a choice"
        ),
    ],
)  # fmt: skip
def test_a_fault_in_the_bundle_fails_parity(
    known_copy: Path, tmp_path: Path, old: str, new: str, message: str | None
) -> None:
    edit(known_copy, old, new)
    repository = tmp_path / "repository"
    if message is None:  # a consistent choice is no fault
        assert build(known_copy, target="openvino", repository=repository).number == 1
        return
    with pytest.raises(ParityError, match=message):
        build(known_copy, target="openvino", repository=repository)
    assert_nothing_published(repository)


def test_a_truncated_safetensors_file_fails_before_anything_is_built(
    known_copy: Path, tmp_path: Path
) -> None:
    path = known_copy / "text_encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        BundleError, match=r"text_encoder/model\.safetensors: is truncated: 1000 bytes, bundle"
    ):
        build(known_copy, target="openvino", repository=tmp_path / "repository")
    assert not (tmp_path / "repository").exists()


def test_a_crash_in_a_stage_publishes_nothing(
    custom: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch, "engine", "values = [requests", 'raise MemoryError("no room"); [requests')
    with pytest.raises(ParityError, match=r"stage text_encoder, .*raised: no room"):
        build(custom, target="openvino", repository=tmp_path)
    assert_nothing_published(tmp_path)


def test_a_picture_that_the_servable_refuses_is_a_parity_error(
    custom: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(monkeypatch, "image_decoder", '"WEBP", ', "")
    with pytest.raises(ParityError, match=r"sample WebP: .*not a picture in a format"):
        build(custom, target="openvino", repository=tmp_path)
    assert_nothing_published(tmp_path)


def test_a_graph_that_the_target_refuses_names_the_component(
    custom_copy: Path, tmp_path: Path
) -> None:
    from tritium_builders.bundle import file_entry

    path = custom_copy / "image_encoder" / "model.onnx"
    old = file_entry(path)
    path.write_bytes(b"garbage")
    new = file_entry(path)
    edit(custom_copy, f'sha256 = "{old.sha256}"\nbytes = {old.bytes}',
         f'sha256 = "{new.sha256}"\nbytes = {new.bytes}')  # fmt: skip
    with pytest.raises(CompileError, match="image_encoder: OpenVINO refused the graph"):
        build(custom_copy, target="openvino", repository=tmp_path / "repository")
    assert_nothing_published(tmp_path / "repository")


def test_an_unwritable_repository_says_so(custom: Bundle, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(PublishError, match=r"file: .*; nothing was published"):
        build(custom, target="openvino", repository=blocked)
