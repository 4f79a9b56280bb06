"""How raw inputs become tensors: the parameters, as users write them and servables read them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tritium_client.contract import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, MAX_TEXT_BYTES


class _Parameters(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextPreprocessing(_Parameters):
    """From text to token ids; the tokenizer itself is the bundle's tokenizer.json."""

    max_length: int = Field(default=128, ge=2)
    """Tokens, special ones included; longer texts are truncated."""
    padding_side: Literal["right", "left"] = "right"
    """Where a request of several texts is padded to its longest."""
    pad_id: int = Field(default=0, ge=0)

    def servable_spec(self) -> dict[str, Any]:
        """The specification that the text_tokenizer servable takes."""
        return {**self.model_dump(), "max_text_bytes": MAX_TEXT_BYTES}


class ImagePreprocessing(_Parameters):
    """From an encoded picture to pixels (in the decoder) and to floats (in the encoder).

    The encoder computes `(pixels * rescale_factor - mean) / std` itself, so that one byte a
    channel travels between the steps. Names follow Hugging Face's image processors.
    """

    size: int | tuple[int, int] = 224
    """Height and width of the pixels that the encoder takes; one number for a square."""
    resize: Literal["stretch", "shortest_edge"] = "stretch"
    """`stretch` ignores the aspect ratio; `shortest_edge` keeps it and crops the centre."""
    shortest_edge: int | None = Field(default=None, ge=1)
    """With resize = "shortest_edge": the shorter side before the crop (default: the size)."""
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    reducing_gap: float | None = Field(default=None, ge=1)
    """To how many times its final size a picture is made smaller the quick way first: a JPEG by
    decoding less of it, others by averaging whole pixels. None filters every pixel; 2 looks nearly
    the same, and a photo of 12 megapixels takes a seventh of the time. What the model was trained
    on must have been made alike. Source: Pillow, `Image.resize` and `Image.draft`."""
    resizer: Literal["pillow", "fast_image_resize"] = "pillow"
    """Which library filters. fast_image_resize (Rust with SIMD; the package cykooz-resizer) takes
    a sixth of Pillow's time; some values differ, by a level of 255 or two. Name the one that the
    model was trained on."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB, 0 to 255: what shows through transparent pixels."""
    rescale_factor: float = 1 / 255
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """RGB, after rescaling."""
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """RGB, after rescaling."""

    @model_validator(mode="after")
    def _consistent(self) -> ImagePreprocessing:
        if min(self.height, self.width) < 1:
            raise ValueError("size must be at least 1")
        if any(value == 0 for value in self.std):
            raise ValueError("std must not be 0")
        if self.shortest_edge is not None and self.shortest_edge < max(self.height, self.width):
            raise ValueError("shortest_edge must be at least the size, or the crop leaves it")
        return self

    @property
    def height(self) -> int:
        """Rows of the pixels that the encoder takes."""
        return self.size if isinstance(self.size, int) else self.size[0]

    @property
    def width(self) -> int:
        """Columns of the pixels that the encoder takes."""
        return self.size if isinstance(self.size, int) else self.size[1]

    def servable_spec(self) -> dict[str, Any]:
        """The specification that the image_decoder servable takes."""
        return {
            "height": self.height,
            "width": self.width,
            "resize": self.resize,
            "shortest_edge": self.shortest_edge or max(self.height, self.width),
            "resample": self.resample,
            "reducing_gap": self.reducing_gap,
            "resizer": self.resizer,
            "background": list(self.background),
            "max_image_bytes": MAX_IMAGE_BYTES,
            "max_image_pixels": MAX_IMAGE_PIXELS,
        }
