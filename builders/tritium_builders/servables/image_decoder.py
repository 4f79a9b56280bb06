"""Triton servable: an encoded picture -> RGB pixels of the size that the encoder takes.

Copied into a release as `model.py`; training and the parity gate import the same functions, so
what was trained on is what is served. Needs numpy and Pillow, and cykooz-resizer where the
specification says `resizer: fast_image_resize`.

Any picture that Pillow reads as JPEG, PNG, WebP, GIF (first frame) or BMP is accepted: the EXIF
orientation is applied, transparency is laid over the background, palette, grey, CMYK and 16-bit
pictures become 8-bit RGB.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

STAGE = "image_decoder"
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_FILTERS = {"bilinear": "bilinear", "bicubic": "catmull_rom", "lanczos": "lanczos3"}
"""fast_image_resize's names for Pillow's filters."""
MAX_JPEG_SCANS = 100
"""Encoders write about ten. Each goes over the whole picture, and may take but a few bytes."""

Tensors = dict[str, npt.NDArray[Any]]

# A marker and not stuffing (00), padding (FF) or a restart (D0 to D7). Source: ITU-T T.81, B.1.1.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

# The cap on pixels below is ours and travels in the specification; Pillow's own would warn for
# pictures that we accept.
Image.MAX_IMAGE_PIXELS = None


class InvalidInputError(ValueError):
    """An input that this stage refuses; the message is for the caller."""

    def __init__(self, item: int, reason: str) -> None:
        super().__init__(f"tritium.invalid_input stage={STAGE} item={item}: {reason}")
        self.item = item
        self.reason = reason


def decode(data: bytes, spec: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Decode one picture.

    Args:
        data: An encoded picture.
        spec: `ImagePreprocessing.servable_spec()`.

    Returns:
        UINT8 [height, width, 3], RGB.

    Raises:
        ValueError: what is wrong with the picture, in words for the caller.
    """
    if not data:
        raise ValueError("the image is empty (0 bytes)")
    if len(data) > spec["max_image_bytes"]:
        raise ValueError(f"{len(data)} bytes; at most {spec['max_image_bytes']} are accepted")
    image = _open(data)
    if image.width * image.height > spec["max_image_pixels"]:
        raise ValueError(
            f"{image.width}x{image.height} is {image.width * image.height} pixels; "
            f"at most {spec['max_image_pixels']} are accepted"
        )
    _check_scans(data)
    gap = spec.get("reducing_gap")
    if gap is not None:
        # A JPEG decoder can leave out what a half, a quarter or an eighth of the size does not
        # show, in a fraction of the time. Sides may be swapped later: both allow for the longer.
        least = math.ceil(gap * max(spec["height"], spec["width"], _shortest_edge(spec)))
        image.draft(None, (least, least))
    try:
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image, tuple(spec["background"]))
    except Exception as error:
        # Codecs answer hostile bytes with almost any exception; all mean the same to the caller.
        raise ValueError(f"the {image.format} data is damaged or truncated ({error})") from error
    return np.asarray(_resize(rgb, spec))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        accepted = ", ".join(FORMATS)
        raise ValueError(f"not a picture in a format that is accepted ({accepted})") from error
    except Exception as error:
        raise ValueError(f"the picture cannot be opened ({error})") from error


def _check_scans(data: bytes) -> None:
    """Refuse a progressive JPEG of very many scans, which would take minutes to decode."""
    if not data.startswith(b"\xff\xd8"):
        return
    scans, position = 0, 2
    # Marker by marker up to the end of the image: what lies within segments or behind the end, a
    # thumbnail or a film, has scans of its own that nobody decodes.
    while (marker := _JPEG_MARKER.search(data, position)) and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        if scans > MAX_JPEG_SCANS:
            raise ValueError(f"the JPEG has more than {MAX_JPEG_SCANS} scans")
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")


def _to_rgb(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    if image.mode.startswith(("I", "F")):  # 16-bit grey: keep the high byte, as 8-bit readers do
        levels = np.asarray(image)
        # Not wider than it is: 64 million pixels are accepted.
        levels = (levels.astype(np.int64) if levels.dtype.kind == "f" else levels) >> 8
        image = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        over = image.convert("RGBA")
        canvas = Image.new("RGBA", over.size, (*background, 255))
        return Image.alpha_composite(canvas, over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _shortest_edge(spec: dict[str, Any]) -> int:
    """The shorter side before the crop; nothing where there is none."""
    edge: int = spec["shortest_edge"] if spec["resize"] == "shortest_edge" else 0
    return edge


def _resize(image: Image.Image, spec: dict[str, Any]) -> Image.Image:
    height, width = spec["height"], spec["width"]
    if spec["resize"] == "stretch":
        return _filtered(image, (width, height), spec)
    scale = spec["shortest_edge"] / min(image.size)
    # Truncated, not rounded: what Hugging Face's and torchvision's processors do.
    across, down = (max(spec["shortest_edge"], int(side * scale)) for side in image.size)
    if across * down > spec["max_image_pixels"]:
        raise ValueError(
            f"{image.width}x{image.height} is too elongated: with the shorter side at "
            f"{spec['shortest_edge']} it has {across * down} pixels"
        )
    left, top = (across - width) // 2, (down - height) // 2
    return _filtered(image, (across, down), spec).crop((left, top, left + width, top + height))


def _filtered(image: Image.Image, size: tuple[int, int], spec: dict[str, Any]) -> Image.Image:
    """Another size, (width, height), by the resampling filter."""
    gap = spec.get("reducing_gap")
    by_pillow = partial(image.resize, size, RESAMPLING[spec["resample"]], reducing_gap=gap)
    if spec.get("resizer", "pillow") == "pillow" or spec["resample"] == "nearest":
        return by_pillow()
    if size[0] * image.height > spec["max_image_pixels"] or any(
        side > 500 * least for side, least in zip(image.size, size, strict=True)
    ):
        return by_pillow()  # a line: a plane between the passes, weights too small for 16 bits
    box = (float(image.width), float(image.height))
    if gap is not None:  # as `Image.resize` does it
        across, down = (int(box[side] / size[side] / gap) or 1 for side in (0, 1))
        if (across, down) != (1, 1):
            image, box = image.reduce((across, down)), (box[0] / across, box[1] / down)
    # Two calls, as the library by itself begins with the columns: overshoot that is cut off
    # between the passes would be cut off elsewhere than by Pillow, which begins with the rows
    # (from version 13 on not where a picture is made much lower and hardly narrower).
    middle = _one_pass(image, (size[0], image.height), (box[0], float(image.height)), spec)
    return _one_pass(middle, size, (float(size[0]), box[1]), spec)


def _one_pass(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float], spec: dict[str, Any]
) -> Image.Image:
    """Filter the box from the upper left corner along one direction; the other stays."""
    import cykooz_resizer as library

    options = library.ResizeOptions(
        resize_alg=library.ResizeAlg.convolution(library.FilterType[_FILTERS[spec["resample"]]]),
        crop_box=library.CropBox(0, 0, *box),
        use_alpha=False,
    )
    filtered = Image.new("RGB", size)
    # Not kept: it would keep the largest picture's buffers, and two threads cannot use one.
    library.Resizer().resize_pil(image, filtered, options)
    return filtered


class ImageDecoder:
    """Decodes the requests of one Triton batch side by side.

    Args:
        folder: The component's version folder (not used; every servable takes it).
        spec: `ImagePreprocessing.servable_spec()`, and `threads` that decode side by side where
            they are not to be all that this process may use.
    """

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        del folder
        self._spec = spec
        if spec.get("resizer") == "fast_image_resize":
            import cykooz_resizer  # noqa: F401 - missing, it fails the load and no request

        threads = spec.get("threads") or len(os.sched_getaffinity(0))
        # Both libraries release the GIL while they decode and resize.
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def __call__(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """Answer every request on its own.

        Args:
            requests: Each with `image`, BYTES [N, 1]. The text's features may come along; they
                are not read, this step only waits for them.

        Returns:
            For each request `pixels`, UINT8 [N, height, width, 3], or why it was refused.
        """
        if len(requests) == 1 or self._pool is None:
            return [self._answer(request) for request in requests]
        return list(self._pool.map(self._answer, requests))

    def _answer(self, request: Tensors) -> Tensors | Exception:
        pixels = []
        for item, data in enumerate(request["image"].reshape(-1)):
            try:
                pixels.append(decode(data, self._spec))
            except ValueError as error:
                return InvalidInputError(item, str(error))
            except Exception as error:  # noqa: BLE001 - no memory, say; its neighbours are answered
                return error
        return {"pixels": np.stack(pixels)}


class TritonPythonModel:
    """Triton's side: tensors in, tensors or errors out.

    Source: triton-inference-server/python_backend, README, "Usage".
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load what the version folder holds, as the config's `spec` parameter says."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._servable: Callable[[Sequence[Tensors]], list[Tensors | Exception]] = ImageDecoder(
            folder, json.loads(config["parameters"]["spec"]["string_value"])
        )
        self._inputs = [tensor["name"] for tensor in config["input"]]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answer one batch of requests, each on its own."""
        import triton_python_backend_utils as pb

        def read(request: Any) -> Tensors:
            tensors = ((name, pb.get_input_tensor_by_name(request, name)) for name in self._inputs)
            return {name: tensor.as_numpy() for name, tensor in tensors if tensor is not None}

        def write(answer: Tensors | Exception) -> Any:
            if isinstance(answer, InvalidInputError):
                error = pb.TritonError(str(answer), pb.TritonError.INVALID_ARG)
                return pb.InferenceResponse(error=error)
            if isinstance(answer, Exception):
                error = pb.TritonError(f"{STAGE}: {answer!r}", pb.TritonError.INTERNAL)
                return pb.InferenceResponse(error=error)
            return pb.InferenceResponse([pb.Tensor(name, value) for name, value in answer.items()])

        return [write(answer) for answer in self._servable([read(request) for request in requests])]
