"""Where a training was, kept so that a killed one goes on from there.

A checkpoint is one safetensors file, with what is no tensor as JSON in its header. It is written
whole, brought to the disk and renamed: a crash leaves the last one or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tritium_builders.data.cache import cache_folder
from tritium_builders.durable import flush_one
from tritium_builders.errors import TrainingError

FACTS = "facts"
KEPT_DAYS = 14
"""Checkpoints of trainings that nobody went on with are removed after so long."""


@dataclass
class Checkpoint:
    """The file of one training.

    Args:
        path: Where it is written.
        every_s: Seconds between two writings.
    """

    path: Path
    every_s: float
    _last: float = field(default_factory=time.monotonic, init=False)

    @property
    def due(self) -> bool:
        """Whether the last writing is so long ago that a new one is worth it."""
        return time.monotonic() - self._last >= self.every_s

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write, and replace what was there.

        Args:
            tensors: Of any names.
            facts: JSON values.

        Raises:
            TrainingError: when the disk is full or cannot be written; the last checkpoint, where
                there was one, is still whole.
        """
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(whole, partial, {FACTS: json.dumps(facts)})
            flush_one(partial)
            partial.replace(self.path)
            flush_one(self.path.parent)
        except (OSError, SafetensorError) as error:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            size = sum(tensor.nbytes for tensor in whole.values()) / 1e6
            raise TrainingError(
                f"{self.path}: the checkpoint of {size:.1f} MB cannot be written "
                f"({error}); free disk space, or set XDG_CACHE_HOME to another disk, and "
                "run again: it goes on from the last whole checkpoint"
            ) from error
        self._last = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Read what was written; None where there is nothing, or nothing whole."""
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()[FACTS])
        except (OSError, SafetensorError, TypeError, KeyError, ValueError):
            return None


def checkpoints_folder(key: str) -> Path:
    """Where the checkpoints of one recipe on one data set lie.

    Args:
        key: From `content_key`.
    """
    return cache_folder() / "checkpoints" / key[:32]


def forget(folder: Path) -> None:
    """Remove checkpoints that are needed no more, and very old ones of others.

    Args:
        folder: From `checkpoints_folder`.
    """
    shutil.rmtree(folder, ignore_errors=True)
    oldest = time.time() - KEPT_DAYS * 24 * 3600
    with contextlib.suppress(OSError):
        for other in folder.parent.iterdir():
            if max((path.stat().st_mtime for path in other.iterdir()), default=0) < oldest:
                shutil.rmtree(other, ignore_errors=True)


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name what an optimiser remembers of each weight: `<number>.<name>` -> tensor."""
    state: Mapping[int, Mapping[str, Any]] = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": value
        for number, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def load_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser back what `optimiser_tensors` named.

    Args:
        optimiser: A new one of the same weights.
        tensors: What it remembered.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": groups})
