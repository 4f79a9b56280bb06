"""What the client takes, and what it refuses before anything is sent."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tritium_client import InvalidInput
from tritium_client._inputs import inputs_to_bytes
from tritium_client.contract import MAX_IMAGE_BYTES, MAX_TEXT_BYTES


def image_bytes(image: Any) -> bytes:
    return inputs_to_bytes(None, image)["image"]


def refusal(text: Any = None, image: Any = None) -> str:
    with pytest.raises(InvalidInput) as caught:
        inputs_to_bytes(text, image)
    assert (caught.value.stage, caught.value.index) == ("client", 0)
    return caught.value.reason


def jpeg(orientation: int | None = None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.effect_noise((40, 20), 60).convert("RGB").save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@given(st.text(min_size=1, max_size=200).filter(str.strip))
def test_a_text_travels_as_utf8(text: str) -> None:
    assert inputs_to_bytes(text, None) == {"text": text.encode()}
    assert inputs_to_bytes(text.encode(), None) == {"text": text.encode()}


def test_both_modalities_keep_the_order_of_the_entry_point() -> None:
    assert list(inputs_to_bytes("a", b"b")) == ["text", "image"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        (b"", "empty"),
        (b"ab\xff", "not valid UTF-8 at byte 2"),
        ("a\ud800", "half a surrogate pair at character 1"),
        ("a" * (MAX_TEXT_BYTES + 1), "65,537 characters; at most 65,536 bytes"),
        ("é" * MAX_TEXT_BYTES, "131,072 bytes in UTF-8; at most 65,536"),
        (7, "must be str or bytes, not int"),
    ],
)
def test_a_text_that_no_server_takes_is_refused(text: Any, reason: str) -> None:
    assert reason in refusal(text=text)


def test_the_longest_text_is_taken() -> None:
    assert len(inputs_to_bytes("a" * MAX_TEXT_BYTES, None)["text"]) == MAX_TEXT_BYTES


def test_nothing_given_is_refused() -> None:
    assert "give a text, an image, or both" in refusal()


def test_encoded_pictures_travel_untouched(tmp_path: Path) -> None:
    data = jpeg()
    path = tmp_path / "apple.jpg"
    path.write_bytes(data)
    with path.open("rb") as file:
        given = [data, bytearray(data), memoryview(data), path, str(path), file, io.BytesIO(data)]
        assert [image_bytes(image) for image in given] == [data] * len(given)


class Endless(io.RawIOBase):
    """A file that never ends; counts what is asked of it."""

    asked = 0

    def read(self, size: int = -1, /) -> bytes:
        self.asked += size
        return bytes(size)


def test_a_file_is_not_read_beyond_the_cap() -> None:
    file = Endless()
    assert "more than 20,971,520 bytes" in refusal(image=file)
    assert file.asked == MAX_IMAGE_BYTES + 1


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (b"", "empty (0 bytes)"),
        (bytes(MAX_IMAGE_BYTES + 1), "20,971,521 bytes; at most 20,971,520"),
        ("no/such.png", "cannot read the image no/such.png: No such file or directory (a str is"),
        (Path("/"), "cannot read the image /: Is a directory"),
        ("nul\0.png", "null byte"),
        (io.StringIO("text"), "open it in binary mode"),
        (io.BytesIO(b""), "empty"),
        (3.5, "not float"),
        ([1, 2], "not list"),
        (np.zeros((2, 2), np.uint8), "uint8 [2, 2]"),
        (np.zeros((2, 2, 4), np.uint8), "uint8 [2, 2, 4]"),
        (np.zeros((2, 2, 3), np.float32), "float32 [2, 2, 3]"),
        (np.zeros((0, 2, 3), np.uint8), "no pixels"),
        (np.broadcast_to(np.uint8(0), (8001, 8000, 3)), "64,008,000 pixels; at most 64,000,000"),
        (Image.new("F", (2, 2)), "mode F"),
    ],
)
def test_a_picture_that_no_server_takes_is_refused(image: Any, reason: str) -> None:
    assert reason in refusal(image=image)


def test_a_picture_that_grows_beyond_the_cap_as_png_is_refused() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2700, 2700, 3), np.uint8)
    assert "at most 20,971,520" in refusal(image=noise)


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
def test_pixels_arrive_exactly(pixels: npt.NDArray[np.uint8]) -> None:
    for given_pixels in (pixels, np.asfortranarray(pixels), Image.fromarray(pixels)):
        arrived = np.asarray(Image.open(io.BytesIO(image_bytes(given_pixels))))
        assert np.array_equal(arrived, pixels)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "RGBa"]
)
def test_pillow_images_of_every_mode_keep_their_colours(mode: str) -> None:
    gradient = Image.linear_gradient("L").resize((16, 16))
    image = Image.merge("RGBA", [gradient] * 4)
    image = gradient.convert("I;16") if mode == "I;16" else image.convert(mode)
    arrived = Image.open(io.BytesIO(image_bytes(image)))
    assert np.array_equal(np.asarray(arrived.convert("RGBA")), np.asarray(image.convert("RGBA")))


def test_a_pillow_image_is_turned_upright_as_its_file_would_be() -> None:
    turned = Image.open(io.BytesIO(jpeg(orientation=6)))
    assert turned.size == (40, 20)
    assert Image.open(io.BytesIO(image_bytes(turned))).size == (20, 40)


def test_a_damaged_pillow_image_is_refused() -> None:
    assert "cannot be encoded" in refusal(image=Image.open(io.BytesIO(jpeg()[:-200])))


def test_without_pillow_an_array_is_refused_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install pillow" in refusal(image=np.zeros((2, 2, 3), np.uint8))
    assert image_bytes(b"\xff\xd8") == b"\xff\xd8"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(b"x")
    path.chmod(0)
    assert "Permission denied" in refusal(image=path)
