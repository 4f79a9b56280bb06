"""Several processes that train one network, each on its share of every batch.

    torchrun --standalone --nproc_per_node 2 -m tritium_builders.training recipe.toml
    accelerate launch --multi_gpu --num_processes 2 -m tritium_builders.training recipe.toml

On CPUs it takes torchrun: accelerate 1.15 starts a single process there. Both say with
environment variables how many processes there are, and accelerate's `PartialState` joins them:
with gloo on CPUs, with NCCL on GPUs.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from tritium_builders.errors import needs

T = TypeVar("T")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """Which process this is, and of how many."""

    number: int = 0
    count: int = 1
    device: torch.device = CPU
    """Of encoders that learn."""

    @property
    def is_first(self) -> bool:
        """Whether this one writes the files and talks to the user."""
        return self.number == 0

    def share(self, value: T) -> T:
        """What the first process has, in all of them; every process has to call it."""
        if self.count == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """What all processes have, in their order; every process has to call it."""
        if self.count == 1:
            return [value]
        box: list[T | None] = [None] * self.count
        torch.distributed.all_gather_object(box, value)
        return cast("list[T]", box)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()

    @contextlib.contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The first process does this, then the others, who find in the cache what it made."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def shard(self, batch: Tensor) -> Tensor:
        """This process's share of a batch, as large as everybody's.

        Where the batch cannot be divided, some of its items are computed twice, as torch's
        `DistributedSampler` does it.

        Args:
            batch: INT64 [B], items.
        """
        if self.count == 1:
            return batch
        whole = -(-len(batch) // self.count) * self.count
        return batch[torch.arange(whole) % len(batch)][self.number :: self.count]

    def join(self, network: nn.Module) -> nn.Module:
        """Make gradients of all processes one; all start with the first one's weights."""
        if self.count == 1:
            return network
        # A head may leave weights unused for a step, such as those of an absent modality.
        # Buffers are the same everywhere: batch norms keep their pretrained statistics.
        return nn.parallel.DistributedDataParallel(
            network, find_unused_parameters=True, broadcast_buffers=False
        )


ALONE = Processes()
"""No other process trains along."""


@cache
def processes() -> Processes:
    """Join the processes that a launcher has started; without one this process is alone.

    Raises:
        MissingExtraError: when accelerate is not installed and a launcher asks for it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with needs("train"):
        from accelerate import PartialState
    state = PartialState(cpu=not torch.cuda.is_available())
    return Processes(state.process_index, state.num_processes, state.device)
