"""`max_side=`: smaller pictures on request."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tritium_client import Client, InvalidInput, MockApp, MockTransport
from tritium_client._scaling import scale_down


def encode(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, 255 - x], axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 500), st.integers(1, 500), st.integers(1, 400), st.sampled_from(["JPEG", "PNG"])
)
def test_no_side_is_longer_and_the_shape_stays(
    width: int, height: int, max_side: int, kind: str
) -> None:
    data = encode(gradient(width, height), kind)
    small = opened(scale_down(data, max_side))
    assert max(small.size) == min(max_side, max(width, height))
    assert small.format == kind
    longer = max(width, height)
    if longer <= max_side:
        assert scale_down(data, max_side) == data
    else:
        shorter = min(width, height) * max_side / longer
        assert abs(min(small.size) - max(1, shorter)) <= 1


def test_a_large_jpeg_looks_as_if_all_of_it_had_been_scaled() -> None:
    data = encode(gradient(3000, 2000), "JPEG", quality=95)
    small = np.asarray(opened(scale_down(data, 300)), np.int16)
    whole = gradient(3000, 2000).resize((300, 200), Image.Resampling.BICUBIC)
    assert np.abs(small - np.asarray(whole, np.int16)).mean() < 1.5
    assert len(scale_down(data, 300)) < len(data) / 10


def test_a_turned_picture_stays_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    data = encode(gradient(400, 200), "JPEG", exif=exif)
    small = opened(scale_down(data, 100))
    assert small.size == (50, 100)
    assert small.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_pixels(mode: str) -> None:
    picture = gradient(300, 200).convert("L") if mode == "I;16" else gradient(300, 200)
    data = encode(picture.convert(mode), "TIFF" if mode == "CMYK" else "PNG")
    assert opened(scale_down(data, 30)).size == (30, 20)


def test_the_client_scales_only_when_asked() -> None:
    sent: list[bytes] = []

    def answer(text: str | None, image: bytes | None) -> list[float]:
        del text
        sent.append(image or b"")
        return [1.0, 0.0]

    data = encode(gradient(300, 200), "PNG")
    transport = MockTransport({"pets": MockApp(labels=("cat", "dog"), answer=answer)})
    with Client(app="pets", transport=transport) as client:
        client.classify(image=data)
        client.classify(image=data, max_side=100)
        client.classify(image=np.asarray(gradient(300, 200)), max_side=50)
        with pytest.raises(InvalidInput, match="cannot be scaled down") as caught:
            client.classify(image=b"no picture", max_side=100)
        with pytest.raises(ValueError, match="max_side must be at least 1"):
            client.classify(image=data, max_side=0)
        many = list(client.classify_many([(None, data)], max_side=20))
    assert caught.value.stage == "client"
    assert many[0].error is None
    assert sent[0] == data
    assert [opened(one).size for one in sent[1:]] == [(100, 67), (50, 33), (20, 13)]
