"""Triton servable: a text -> token ids of its true length, or padded to a bucket.

Copied into a release as `model.py`; training and the parity gate import the same functions, so
what was trained on is what is served. Needs numpy and tokenizers only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    ids: list[int] = _encoding(tokenizer, text, spec).ids
    return ids


def _encoding(tokenizer: Tokenizer, text: bytes, spec: dict[str, Any]) -> Any:
    if len(text) > spec["max_text_bytes"]:
        raise ValueError(f"{len(text)} bytes; at most {spec['max_text_bytes']} are accepted")
    try:
        words = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not valid UTF-8 at byte {error.start}") from error
    if not words.strip():
        raise ValueError("the text is empty; to leave the text out, ask for the image alone")
    return tokenizer.encode(words)


@dataclass(frozen=True)
class Words:
    """A text whose words are told apart."""

    ids: list[int]
    """Token ids, special tokens included."""
    starts: list[int]
    """Index of each word's first token."""
    offsets: list[tuple[int, int]]
    """Of each word: its first character in the text, and the one after its last."""


def encode_words(tokenizer: Tokenizer, text: bytes, spec: dict[str, Any]) -> Words:
    """Encode one text and find its words, as the tokenizer's pre-tokenizer splits it.

    Raises:
        ValueError: as `encode`; or none of its words can be read.
    """
    encoding = _encoding(tokenizer, text, spec)
    starts: list[int] = []
    offsets: list[tuple[int, int]] = []
    before = None
    for index, (word, (begin, end)) in enumerate(
        zip(encoding.word_ids, encoding.offsets, strict=True)
    ):
        if word is None:  # a special token
            continue
        if word != before:
            starts.append(index)
            offsets.append((begin, end))
        else:
            offsets[-1] = (offsets[-1][0], end)
        before = word
    if not starts:
        raise ValueError("the text holds no word that the tokenizer knows")
    decoded = text.decode("utf-8")
    return Words(encoding.ids, starts, [_without_blanks(decoded, *place) for place in offsets])


def _without_blanks(text: str, begin: int, end: int) -> tuple[int, int]:
    """Some tokenizers count the blank before a word as a part of it."""
    own = text[begin:end]
    return begin + len(own) - len(own.lstrip()), end - len(own) + len(own.rstrip())


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


def pad_words(words: Sequence[Words], mask: npt.NDArray[np.int64]) -> Tensors:
    """Pad what is known of words to the text with the most of them.

    Args:
        words: Of each text.
        mask: INT64 [texts, tokens], as `pad` made it: where each text's own tokens begin.

    Returns:
        `word_starts`, INT64 [texts, words], -1 for padding; `offsets`, INT64 [texts, words, 2].
    """
    most = max(len(one.starts) for one in words)
    starts = np.full((len(words), most), -1, dtype=np.int64)
    offsets = np.zeros((len(words), most, 2), dtype=np.int64)
    for index, one in enumerate(words):
        starts[index, : len(one.starts)] = np.array(one.starts) + mask[index].argmax()
        offsets[index, : len(one.offsets)] = one.offsets
    return {"word_starts": starts, "offsets": offsets}


class TextTokenizer:
    """Tokenizes the requests of one Triton batch.

    Args:
        folder: The component's version folder, with `tokenizer.json`.
        spec: `TextPreprocessing.servable_spec()`, and `buckets` where the encoder was compiled for
            certain lengths, or `words` where words are tagged.
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
            With `words` also `word_starts`, INT64 [N, most words], -1 for padding, and `offsets`,
            INT64 [N, most words, 2].
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: Tensors) -> Tensors | Exception:
        spec, rows, words = self._spec, [], []
        for item, text in enumerate(request["text"].reshape(-1)):
            try:
                if spec.get("words"):
                    words.append(encode_words(self._tokenizer, text, spec))
                    rows.append(words[-1].ids)
                else:
                    rows.append(encode(self._tokenizer, text, spec))
            except ValueError as error:
                return InvalidInputError(item, str(error))
        answer = pad(rows, spec["padding_side"], spec["pad_id"], spec.get("buckets", ()))
        return {**answer, **pad_words(words, answer["attention_mask"])} if words else answer


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
