"""Adapted encoders on disk: what training names as a source, and what it must not hold out.

A text encoder is a Hugging Face folder. An image encoder is encoder.json and safetensors. Beside
each lies `seen.txt`: a line for each item that it was adapted to. A training that holds one of
them out is refused, because its figures would not be honest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tritium_builders.data import Dataset, Item
from tritium_builders.errors import RecipeError
from tritium_builders.models import LoadedImageEncoder
from tritium_builders.models.huggingface import quiet
from tritium_builders.models.image_encoders import save_image_encoder
from tritium_builders.preprocessing import TextPreprocessing
from tritium_builders.training.splits import Indices

SEEN = "seen.txt"
SENTENCE_LIMIT = "sentence_bert_config.json"
"""sentence-transformers' name for the file with the longest text, which loading respects."""
DIGITS = 16
"""Of an item's hash: enough to tell any two items of a data set apart."""


def write_text_encoder(
    model: Any, tokenizer: Any, preprocessing: TextPreprocessing, folder: Path
) -> None:
    """Write a Hugging Face folder: config, safetensors, tokenizer.

    Args:
        model: A transformers encoder.
        tokenizer: Its fast tokenizer.
        preprocessing: How long texts may be; the same as before.
        folder: Made when it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    limit = {"max_seq_length": preprocessing.max_length, "do_lower_case": False}
    (folder / SENTENCE_LIMIT).write_text(json.dumps(limit) + "\n", encoding="utf-8")


def write_image_encoder(image: LoadedImageEncoder, folder: Path) -> None:
    """Write encoder.json and safetensors.

    Args:
        image: The encoder with its preprocessing.
        folder: Made when it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_image_encoder(image, folder)


def write_seen(items: Iterable[Item], folder: Path) -> None:
    """Write what an encoder was adapted to.

    Args:
        items: The training side.
        folder: The encoder's.
    """
    lines = sorted({_digits(item) for item in items})
    (folder / SEEN).write_text("\n".join(lines) + "\n", encoding="ascii")


def refuse_seen(sources: Iterable[str], dataset: Dataset, held_out: Indices) -> None:
    """Refuse to hold out what an encoder was adapted to.

    Args:
        sources: The encoders' sources.
        dataset: The items.
        held_out: Indices of those that are held out.

    Raises:
        RecipeError: naming the encoder, the first such item and the fix.
    """
    for source in sources:
        path = Path(source).expanduser() / SEEN
        if not path.is_file():
            continue
        seen = set(path.read_text(encoding="ascii").split())
        leaks = [
            dataset.items[index]
            for index in held_out.tolist()
            if _digits(dataset.items[index]) in seen
        ]
        if leaks:
            raise RecipeError(
                f"{source}: was adapted to {len(leaks)} of the {len(held_out)} held-out items "
                f"({leaks[0].id} is the first), so accuracy on them would not be honest; run "
                "tritium pretrain with this recipe's [data] and [split]"
            )


def _digits(item: Item) -> str:
    return item.content_hash[:DIGITS]
