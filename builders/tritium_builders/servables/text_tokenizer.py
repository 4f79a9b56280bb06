"""Triton servable: a text -> token ids of its true length, or padded to a bucket.

Copied into a release as `model.py`; training and the parity gate import the same functions, so
what was trained on is what is served. Needs numpy and tokenizers only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

STAGE = "text_tokenizer"

Tensors = dict[str, npt.NDArray[Any]]


class InvalidInputError(ValueError):
    """An input that this stage refuses; the message is for the caller."""

    def __init__(self, item: int, reason: str) -> None:
        super().__init__(f"tritium.invalid_input stage={STAGE} item={item}: {reason}")
        self.item = item
        self.reason = reason


def load_tokenizer(file: Path, spec: dict[str, Any]) -> Tokenizer:
    """Load a tokenizer.json, with truncation as the specification says and no padding."""
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.enable_truncation(max_length=spec["max_length"])
    tokenizer.no_padding()
    return tokenizer


def encode(tokenizer: Tokenizer, text: bytes, spec: dict[str, Any]) -> list[int]:
    """Encode one text.

    Args:
        tokenizer: From `load_tokenizer`.
        text: UTF-8.
        spec: `TextPreprocessing.servable_spec()`.

    Returns:
        Token ids, special tokens included, at most `max_length` of them.

    Raises:
        ValueError: what is wrong with the text, in words for the caller.
    """
    if len(text) > spec["max_text_bytes"]:
        raise ValueError(f"{len(text)} bytes; at most {spec['max_text_bytes']} are accepted")
    try:
        words = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid UTF-8 at byte {error.start}") from error
    if not words.strip():
        raise ValueError("the text is empty; to leave the text out, ask for the image alone")
    ids: list[int] = tokenizer.encode(words).ids
    return ids


def pad(
    rows: Sequence[Sequence[int]], side: str, pad_id: int, buckets: Sequence[int] = ()
) -> Tensors:
    """Pad rows of token ids to the longest, or to the smallest bucket that holds it.

    Args:
        rows: Token ids.
        side: `right` or `left`.
        pad_id: What to pad with.
        buckets: Lengths that the encoder was compiled for, ascending; none: any length.

    Returns:
        `input_ids` and `attention_mask`, both INT64 [rows, length].
    """
    longest = max(len(row) for row in rows)
    longest = next((length for length in buckets if length >= longest), longest)
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        span = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[index, span] = row
        mask[index, span] = 1
    return {"input_ids": ids, "attention_mask": mask}


class TextTokenizer:
    """Tokenizes the requests of one Triton batch.

    Args:
        folder: The component's version folder, with `tokenizer.json`.
        spec: `TextPreprocessing.servable_spec()`, and `buckets` where the encoder was compiled for
            certain lengths.
    """

    def __init__(self, folder: Path, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._tokenizer = load_tokenizer(folder / "tokenizer.json", spec)

    def __call__(self, requests: Sequence[Tensors]) -> list[Tensors | Exception]:
        """Answer every request on its own.

        Args:
            requests: Each with `text`, BYTES [N, 1].

        Returns:
            For each request `input_ids` and `attention_mask`, INT64 [N, longest of its texts, or
            the smallest of the specification's `buckets` that holds it], or why it was refused.
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: Tensors) -> Tensors | Exception:
        rows = []
        for item, text in enumerate(request["text"].reshape(-1)):
            try:
                rows.append(encode(self._tokenizer, text, self._spec))
            except ValueError as error:
                return InvalidInputError(item, str(error))
        spec = self._spec
        return pad(rows, spec["padding_side"], spec["pad_id"], spec.get("buckets", ()))


class TritonPythonModel:
    """Triton's side: tensors in, tensors or errors out.

    Source: triton-inference-server/python_backend, README, "Usage".
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Load what the version folder holds, as the config's `spec` parameter says."""
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        self._servable: Callable[[Sequence[Tensors]], list[Tensors | Exception]] = TextTokenizer(
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
