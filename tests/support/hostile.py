"""Hostile inputs: what each is, how it is made, and what has to come back.

docs/hostile-inputs.md is the same list for people; a test compares the two.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from PIL import Image, ImageOps

from tests.support.pictures import encode, huge_png_header, jpeg, noise, png
from tritium_client import contract
from tritium_client.contract import Modality

GOOD_TEXT = b"red apple"
GOOD_IMAGE = png()
ANSWERED = "answered"
REQUEST = "request"
"""Refused by Triton itself, before any stage ran."""


@dataclass(frozen=True)
class Content:
    """A text or a picture that is not what it should be, in a request that is."""

    name: str
    modality: Modality
    make: Callable[[], bytes]
    reason: str = ""
    """Words of the server's error; empty: it is answered."""
    sdk_reason: str = ""
    """Words of the SDK's own error; empty: the SDK sends it."""
    like: Callable[[], bytes] | None = None
    """A plain input that gets the same answer."""

    @property
    def stage(self) -> str:
        """Who refuses it when it is sent raw, or `answered`."""
        stages = {contract.TEXT: "text_tokenizer", contract.IMAGE: "image_decoder"}
        return stages[self.modality] if self.reason else ANSWERED

    @property
    def sdk_stage(self) -> str:
        """Who refuses it when it goes through the SDK, or `answered`."""
        return "client" if self.sdk_reason else self.stage


@dataclass(frozen=True)
class Tensor:
    """One input as it stands in Triton's request."""

    name: str
    content: bytes
    """As it travels; `element` writes an element of BYTES."""
    shape: tuple[int, ...] = (1, 1)
    datatype: str = "BYTES"


@dataclass(frozen=True)
class Wire:
    """A request that the SDK would never write."""

    name: str
    tensors: tuple[Tensor, ...]
    reason: str = ""
    """Words of the server's error; empty: it is answered."""
    stage: str = REQUEST
    """Who refuses it, or `answered`."""
    item: int = 0
    """Which item of the request is refused."""
    output: str = contract.PROBABILITIES
    """What is asked for."""


# --- how pictures are made ---------------------------------------------------------------------


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _zeros(megabytes: int) -> bytes:
    """Zeros, packed; never held unpacked."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()


def _grey_png(width: int, height: int, *extra: bytes) -> bytes:
    """A black PNG of one bit a pixel, with chunks of any kind before its pixels."""
    packer = zlib.compressobj(1)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [_chunk(b"IHDR", header), *extra, _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def many_scans(side: int = 4_000, scans: int = 5_000) -> bytes:
    """A progressive JPEG that goes over its whole picture again and again.

    Source: the first of libjpeg-turbo's "Two Issues with the JPEG Standard"; ITU-T T.81, annex G.
    """

    def segment(marker: int, data: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, 2 + len(data)) + data

    def table(kind: int, symbol: int) -> bytes:
        """A Huffman table of one code, `0`."""
        return segment(0xC4, bytes([kind, 1, *[0] * 15, symbol]))

    blocks = (-(-side // 8)) ** 2
    # 15 zeros are "this and the next 16,383 blocks have ended".
    ended = bytes(2 * -(-blocks // (1 << 14)))
    scan = segment(0xDA, bytes([1, 1, 0, 1, 63, 1])) + ended
    return b"".join(
        [
            b"\xff\xd8",
            segment(0xDB, bytes([0, *[1] * 64])),
            segment(0xC2, struct.pack(">BHHB", 8, side, side, 1) + bytes([1, 0x11, 0])),
            table(0x00, 0x00),
            table(0x10, 0xE0),
            segment(0xDA, bytes([1, 1, 0, 0, 0, 1])) + bytes(-(-blocks // 8)),
            scan * scans,
            b"\xff\xd9",
        ]
    )


def _animation(kind: str) -> bytes:
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(5)]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


def _noisy_middle() -> bytes:
    data = bytearray(jpeg())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(range(40))
    return bytes(data)


def _wrong_checksum() -> bytes:
    data = bytearray(png())
    data[data.index(b"IDAT") + 30] ^= 0xFF
    return bytes(data)


def _webp() -> bytes:
    return encode(Image.fromarray(noise()), "WEBP")


def _broken_webp() -> bytes:
    data = bytearray(_webp())
    size = data.index(b"VP8 ") + 4
    data[size : size + 4] = b"\xff\xff\xff\x7f"
    return bytes(data)


def _large_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "x" * 60_000
    return encode(Image.fromarray(noise()), "JPEG", exif=exif)


def _broken_exif() -> bytes:
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(50)
    return encode(Image.fromarray(noise()), "JPEG", exif=exif)


def _without_exif() -> bytes:
    return encode(Image.fromarray(noise()), "JPEG")


def _phone_photo() -> bytes:
    first, second = (Image.fromarray(noise(seed=seed)) for seed in (1, 2))
    return encode(first, "MPO", save_all=True, append_images=[second])


def _sixteen_bits() -> bytes:
    return encode(Image.fromarray(noise()[..., 0].astype("uint16") * 257), "PNG")


def _transparent_palette() -> bytes:
    return encode(Image.fromarray(noise()).quantize(), "PNG", transparency=0)


def _cmyk() -> bytes:
    return encode(Image.fromarray(noise()).convert("CMYK"), "JPEG")


def _huge_gif() -> bytes:
    data = bytearray(encode(Image.new("P", (4, 4)), "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def _plain(make: Callable[[], bytes]) -> Callable[[], bytes]:
    """What a person sees of a picture: its first frame, upright, in RGB."""

    def opened() -> bytes:
        upright = ImageOps.exif_transpose(Image.open(io.BytesIO(make())))
        return encode(upright.convert("RGB"), "PNG")

    return opened


def _just(data: bytes) -> Callable[[], bytes]:
    return lambda: data


_NO_PICTURE = "not a picture in a format that is accepted"
_DAMAGED = "data is damaged or truncated"
_TOO_MANY = "pixels; at most 64000000 are accepted"
_CANNOT_OPEN = "the picture cannot be opened"

PICTURES: tuple[Content, ...] = (
    Content("empty bytes", "image", bytes, "the image is empty", "the image is empty"),
    Content("text in place of an image", "image", _just(b"hello, I am a text"), _NO_PICTURE),
    Content("an SVG", "image", _just(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), _NO_PICTURE),
    Content("a TIFF", "image", lambda: encode(Image.new("L", (9, 9)), "TIFF"), _NO_PICTURE),
    Content("a truncated JPEG", "image", lambda: jpeg()[:-300], f"the JPEG {_DAMAGED}"),
    Content("a truncated PNG", "image", lambda: png()[:-40], f"the PNG {_DAMAGED}"),
    Content("a PNG cut within its header", "image", lambda: png()[:20], _CANNOT_OPEN),
    Content("a PNG with a wrong checksum", "image", _wrong_checksum, f"the PNG {_DAMAGED}"),
    Content("a truncated WebP", "image", lambda: _webp()[:-100], _CANNOT_OPEN),
    Content("a WebP with a broken chunk", "image", _broken_webp, _CANNOT_OPEN),
    Content("a JPEG with noise in its middle", "image", _noisy_middle),
    Content("a 600-megapixel PNG", "image", partial(_grey_png, 30_000, 20_000), _TOO_MANY),
    Content(
        "a PNG whose header claims 600 megapixels",
        "image",
        lambda: huge_png_header(30_000, 20_000),
        _TOO_MANY,
    ),
    Content(
        "a PNG whose header claims 25 megapixels",
        "image",
        lambda: huge_png_header(5_000, 5_000),
        f"the PNG {_DAMAGED}",
    ),
    Content("a GIF that claims 65,535 x 65,535", "image", _huge_gif, _TOO_MANY),
    Content("a 1x1 image", "image", lambda: png(1, 1)),
    Content("a 1x10000 image", "image", lambda: png(1, 10_000)),
    Content(
        "an animated GIF",
        "image",
        partial(_animation, "GIF"),
        like=_plain(partial(_animation, "GIF")),
    ),
    Content(
        "an animated WebP",
        "image",
        partial(_animation, "WEBP"),
        like=_plain(partial(_animation, "WEBP")),
    ),
    Content(
        "an animated PNG",
        "image",
        partial(_animation, "PNG"),
        like=_plain(partial(_animation, "PNG")),
    ),
    Content(
        "a PNG with a comment that unpacks to 100 MB",
        "image",
        lambda: _grey_png(4, 4, _chunk(b"zTXt", b"Comment\0\0" + _zeros(100))),
        _CANNOT_OPEN,
    ),
    Content(
        "a PNG with a colour profile that unpacks to 100 MB",
        "image",
        lambda: _grey_png(4, 4, _chunk(b"iCCP", b"profile\0\0" + _zeros(100))),
        _CANNOT_OPEN,
    ),
    Content("a progressive JPEG of 5,000 scans", "image", many_scans, "has more than 100 scans"),
    Content("a 16-bit PNG", "image", _sixteen_bits),
    Content("a CMYK JPEG", "image", _cmyk, like=_plain(_cmyk)),
    Content("a PNG with a transparent palette", "image", _transparent_palette),
    Content("a JPEG with 60 kB of EXIF", "image", _large_exif, like=_plain(_large_exif)),
    Content("a JPEG with a broken EXIF block", "image", _broken_exif, like=_without_exif),
    Content("a phone's JPEG of two pictures", "image", _phone_photo, like=_plain(_phone_photo)),
    Content(
        "21 MiB of zeros",
        "image",
        lambda: bytes(21 * 1024 * 1024),
        "22020096 bytes; at most 20971520 are accepted",
        "22,020,096 bytes; at most 20,971,520 are accepted",
    ),
)

# --- texts -------------------------------------------------------------------------------------

_EMPTY = "the text is empty"
_UTF8 = "not valid UTF-8 at byte"
_LONG = "bytes; at most 65536 are accepted"
_SDK_LONG = "at most 65,536 bytes are accepted"

TEXTS: tuple[Content, ...] = (
    Content("empty text", "text", bytes, _EMPTY, _EMPTY),
    Content("whitespace", "text", _just(b" \t\r\n\xe3\x80\x80"), _EMPTY, _EMPTY),
    Content("a megabyte of text", "text", lambda: b"word " * 200_000, _LONG, _SDK_LONG),
    Content("100,000 emoji", "text", lambda: "🍎".encode() * 100_000, _LONG, _SDK_LONG),
    Content("invalid UTF-8", "text", _just(b"red \xff apple"), _UTF8, _UTF8),
    Content("half a surrogate pair", "text", _just(b"red \xed\xa0\x80"), _UTF8, _UTF8),
    Content("an overlong null", "text", _just(b"red \xc0\x80"), _UTF8, _UTF8),
    Content("UTF-16", "text", lambda: "red apple".encode("utf-16"), _UTF8, _UTF8),
    Content("a null byte", "text", _just(b"red \0 apple"), like=_just(GOOD_TEXT)),
    Content("only null bytes", "text", _just(bytes(5))),
    Content("control characters", "text", lambda: bytes(range(1, 32)) + b"red", like=_just(b"red")),
    Content(
        "right-to-left and override marks",
        "text",
        "\u202e\u062a\u0641\u0627\u062d \u2066red".encode,
    ),
    Content(
        "stacked combining marks",
        "text",
        lambda: ("e" + "\u0301" * 500).encode() * 30,
        like=lambda: b"e" * 30,
    ),
    Content("only zero-width characters", "text", "\u200b\u200d\ufeff".encode),
    Content(
        "one word of 64 KiB", "text", lambda: b"a" * contract.MAX_TEXT_BYTES, like=_just(b"[UNK]")
    ),
    Content("64 KiB of Chinese", "text", lambda: "苹果".encode() * 10_922),
    Content("special tokens spelled out", "text", _just(b"[CLS] [SEP] [PAD] [MASK] [UNK]")),
)

# --- requests ----------------------------------------------------------------------------------


def element(data: bytes) -> bytes:
    """An element of BYTES: its length, 4 bytes little-endian, and its content."""
    return struct.pack("<I", len(data)) + data


_TEXT = Tensor("text", element(GOOD_TEXT))
_IMAGE = Tensor("image", element(GOOD_IMAGE))


def _texts(*texts: bytes) -> Tensor:
    return Tensor("text", b"".join(map(element, texts)), (len(texts), 1))


def _images(*images: bytes) -> Tensor:
    return Tensor("image", b"".join(map(element, images)), (len(images), 1))


_OTHER_BATCH = "batch size does not match other inputs"
_SHAPE = "unexpected shape for input 'text'"
_DATATYPE = "data-type is"

REQUESTS: tuple[Wire, ...] = (
    Wire("no input", (), "expected 2 inputs but got 0 inputs"),
    Wire("one input of two", (_TEXT,), "missing required input(s) ['image']"),
    Wire(
        "an input too many",
        (_TEXT, _IMAGE, Tensor("audio", element(b"moo"))),
        "expected 2 inputs but got 3 inputs",
    ),
    Wire("an input twice", (_TEXT, _TEXT, _IMAGE), "input 'text' already exists in request"),
    Wire(
        "wrong tensor name",
        (replace(_TEXT, name="words"), _IMAGE),
        "unexpected inference input 'words'",
    ),
    Wire(
        "wrong output name",
        (_TEXT, _IMAGE),
        "unexpected inference output 'logits'",
        output="logits",
    ),
    Wire("wrong shape: no shape", (replace(_TEXT, shape=()), _IMAGE), "input 'text' has no shape"),
    Wire("wrong shape: no batch axis", (replace(_TEXT, shape=(1,)), _IMAGE), _SHAPE),
    Wire("wrong shape: an axis too many", (replace(_TEXT, shape=(1, 1, 1)), _IMAGE), _SHAPE),
    Wire("wrong shape: [1, 10^12]", (replace(_TEXT, shape=(1, 10**12)), _IMAGE), _SHAPE),
    Wire("wrong shape: [10^12, 1]", (replace(_TEXT, shape=(10**12, 1)), _IMAGE), _OTHER_BATCH),
    Wire("wrong shape: [-1, 1]", (replace(_TEXT, shape=(-1, 1)), _IMAGE), _OTHER_BATCH),
    Wire("wrong shape: two texts, one image", (_texts(GOOD_TEXT, b"x"), _IMAGE), _OTHER_BATCH),
    Wire(
        "wrong shape: a batch of none",
        (replace(_TEXT, shape=(0, 1), content=b""), replace(_IMAGE, shape=(0, 1), content=b"")),
        "expected 1 string elements",
    ),
    Wire(
        "wrong shape: a batch of 33",
        (_texts(*[GOOD_TEXT] * 33), _images(*[GOOD_IMAGE] * 33)),
        "batch-size must be <= 32",
    ),
    Wire("wrong type: FP32", (Tensor("text", bytes(4), datatype="FP32"), _IMAGE), _DATATYPE),
    Wire("wrong type: UINT8", (Tensor("text", b"a", datatype="UINT8"), _IMAGE), _DATATYPE),
    Wire("wrong type: STRING", (replace(_TEXT, datatype="STRING"), _IMAGE), _DATATYPE),
    Wire(
        "no element where there should be one",
        (replace(_TEXT, content=b""), _IMAGE),
        "expected 1 string elements for inference input 'text'",
    ),
    Wire(
        "two elements where there should be one",
        (replace(_TEXT, content=_TEXT.content * 2), _IMAGE),
        "unexpected number of string elements 2",
    ),
    Wire(
        "an element that claims 4 GB",
        (replace(_TEXT, content=b"\xff\xff\xff\xffred"), _IMAGE),
        "expecting string of length 4294967295 but only 3 bytes available",
    ),
    Wire(
        "an element with bytes left over",
        (replace(_TEXT, content=struct.pack("<I", 2) + b"red"), _IMAGE),
        "incomplete string length indicator",
    ),
    Wire(
        "a batch of two good items",
        (_texts(GOOD_TEXT, b"x"), _images(GOOD_IMAGE, GOOD_IMAGE)),
        stage=ANSWERED,
    ),
    Wire(
        "a batch of two, the second text bad",
        (_texts(GOOD_TEXT, b"\xff"), _images(GOOD_IMAGE, GOOD_IMAGE)),
        _UTF8,
        "text_tokenizer",
        item=1,
    ),
    Wire(
        "a batch of two, the second image bad",
        (_texts(GOOD_TEXT, b"x"), _images(GOOD_IMAGE, b"junk")),
        _NO_PICTURE,
        "image_decoder",
        item=1,
    ),
    Wire("a bad text and a bad image", (_texts(b""), _images(b"junk")), _EMPTY, "text_tokenizer"),
)
"""To the entry point for text and picture."""
