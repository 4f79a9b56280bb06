"""The loop that trains a head, and with it the encoders that learn."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from tritium_builders.data.progress import track
from tritium_builders.errors import TrainingError
from tritium_builders.models.fusion.base import Given
from tritium_builders.training.checkpoints import (
    Checkpoint,
    load_optimiser,
    optimiser_tensors,
)
from tritium_builders.training.distributed import ALONE, Processes
from tritium_builders.training.history import Epoch, Stage
from tritium_builders.training.inputs import Feed, Inputs, Part
from tritium_builders.training.network import FusionNetwork, Mix, features_for, logits_of
from tritium_builders.training.objective import Objective
from tritium_builders.training.optimisation import (
    clip,
    computing_in,
    make_optimiser,
    rate_factor,
    set_rates,
)
from tritium_builders.training.recipe import OptimiserTable
from tritium_builders.training.splits import Split


@dataclass(frozen=True)
class Fitted:
    """How a training went."""

    best_epoch: int
    """Counted from 1; its weights were kept."""
    history: Stage


@dataclass
class Progress:
    """Where a training is; with weights and random numbers, all that it depends on."""

    epoch: int = 1
    position: int = 0
    """Batches of the epoch that are done."""
    step: int = 0
    losses: float = 0.0
    """Of the epoch's items so far, summed."""
    best: float | None = None
    best_epoch: int = 0
    history: list[Epoch] = field(default_factory=list)
    finished: bool = False


@dataclass(frozen=True)
class Run:
    """What one training is, beside its network and its data."""

    losses: Mapping[Given, float]
    """Modalities that are given -> weight of the loss with them; the first is watched."""
    seed: int
    """Of augmentation; everything else draws from torch's random numbers."""
    processes: Processes = ALONE
    """Those that train together."""
    checkpoint: Checkpoint | None = None
    """Where it is kept how far this is; a killed training goes on from there."""
    title: str = "Training"
    """For the progress bar and for messages."""
    start_counts: bool = False
    """Whether the weights as they are may turn out to be the best."""


def fit(
    network: FusionNetwork,
    feed: Feed,
    objective: Objective,
    split: Split,
    table: OptimiserTable,
    run: Run,
) -> Fitted:
    """Train until what is watched has not become better for `patience` epochs; keep the best.

    Args:
        network: Ends with its best weights, in evaluation mode.
        feed: Where its inputs come from.
        objective: What is minimised.
        split: Which items are trained on, and which are watched.
        table: How.
        run: Which training it is.

    Raises:
        TrainingError: when the loss is not finite, or a checkpoint cannot be written.
        RecipeError: naming an item that cannot be read.
    """
    return _Fitting(network, feed, objective, split, table, run).train_to_the_end()


class _Fitting:
    def __init__(
        self,
        network: FusionNetwork,
        feed: Feed,
        objective: Objective,
        split: Split,
        table: OptimiserTable,
        run: Run,
    ) -> None:
        self.network, self.feed, self.objective, self.table = network, feed, objective, table
        self.own, self.processes, self.checkpoint = run, run.processes, run.checkpoint
        self.train, self.validation = (
            torch.from_numpy(side) for side in (split.train, split.validation)
        )
        self.optimiser = make_optimiser(network, table)
        self.steps = table.max_epochs * -(-len(split.train) // table.batch_size)
        self.progress = Progress()
        self.order = self.train
        self.best_weights = self._weights()
        self.kept = "there is none"
        """The last checkpoint, for messages."""

    def train_to_the_end(self) -> Fitted:
        """Train to the end, from the start or from where a killed training was."""
        if self.processes.number > 0:
            # Dropout of its own; what all have to do alike is drawn by the first process.
            torch.manual_seed(self.own.seed + 1_000_003 * self.processes.number)
        self._resume()
        self.joined = self.processes.join(self.network)
        if self.own.start_counts and self.progress.step == 0:
            self.progress.best = self._judge()[-1]
            self.best_weights = self._weights()
        while not self.progress.finished:
            self._train_epoch()
            self._judge_epoch()
            if (self.progress.finished and self.network.encoders) or self._is_due():
                self._save()
        self.network.load_learned(self.best_weights)
        self.network.eval()
        return Fitted(self.progress.best_epoch, tuple(self.progress.history))

    def _train_epoch(self) -> None:
        progress = self.progress
        self.network.train()
        if progress.position == 0:
            self.order = self.processes.share(self.objective.epoch(self.train))
        batches = torch.split(self.order, self.table.batch_size)
        steps = [self._parts(number, batch) for number, batch in enumerate(batches)]
        todo: Any = steps[progress.position :]
        stream = self.feed.stream([part for parts in todo for part in parts], self.network.device)
        if self.network.encoders and self.processes.is_first:
            todo = track(todo, f"{self.own.title}, epoch {progress.epoch}", total=len(todo))
        for parts in todo:
            self._step(parts, stream)
            progress.step += 1
            progress.position += 1
            if progress.position < len(steps) and self._is_due():
                self._save()

    def _parts(self, number: int, batch: Tensor) -> list[Part]:
        """This process's share of a batch, in as many parts as the recipe says."""
        own = self.processes.shard(batch)
        size = -(-len(own) // self.table.gradient_accumulation)
        draw = (self.own.seed, self.progress.epoch, number)
        return [Part(indices, draw) for indices in torch.split(own, size)]

    def _step(self, parts: Sequence[Part], stream: Iterator[Inputs]) -> None:
        set_rates(self.optimiser, rate_factor(self.progress.step, self.steps, self.table))
        self.optimiser.zero_grad()
        items, total = sum(len(part.indices) for part in parts), 0.0
        for number, part in enumerate(parts):
            with self._gradients_stay_here(number < len(parts) - 1):
                loss = self._loss(next(stream), part) * (len(part.indices) / items)
                total += self._checked(loss, part)
                loss.backward()  # type: ignore[no-untyped-call]
        clip(self.network.parameters(), self.table.gradient_clip)
        self.optimiser.step()
        self.progress.losses += total * items

    def _gradients_stay_here(self, more_to_come: bool) -> contextlib.AbstractContextManager[Any]:
        """Until the last part of a step, processes have nothing to tell each other."""
        if more_to_come and self.joined is not self.network:
            context: contextlib.AbstractContextManager[Any] = self.joined.no_sync()  # type: ignore[operator]
            return context
        return contextlib.nullcontext()

    def _loss(self, inputs: Inputs, part: Part) -> Tensor:
        targets = self.objective.targets[part.indices].to(self.network.device)
        mix = _draw_mix(len(targets), self.table.mixup, self.network.device)
        with computing_in(self.table, self.network):
            logits = self.joined(inputs, tuple(self.own.losses), mix)
        loss: Any = sum(
            weight * self._mixed_loss(own.float(), targets, mix)
            for own, weight in zip(logits, self.own.losses.values(), strict=True)
        )
        found: Tensor = loss
        return found

    def _mixed_loss(self, logits: Tensor, targets: Tensor, mix: Mix | None) -> Tensor:
        loss = self.objective.loss(logits, targets)
        if mix is None:
            return loss
        share, others = mix
        return share * loss + (1 - share) * self.objective.loss(logits, targets[others])

    def _checked(self, loss: Tensor, part: Part) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            items = ", ".join(self.feed.ids[index] for index in part.indices.tolist())
            where = f"epoch {self.progress.epoch}, step {self.progress.step + 1}"
            raise TrainingError(
                f"{self.own.title}: {where}: the loss is {value}; the batch's items: {items}; the "
                f"last good checkpoint: {self.kept}; look for odd values in these items, lower the "
                "learning rates, or set optimiser.gradient_clip"
            )
        return value

    @torch.inference_mode()
    def _judge(self) -> tuple[float, float, float]:
        """Validation loss, the task's score, and what is watched; more of that is better."""
        given = next(iter(self.own.losses))
        self.network.eval()
        features = features_for(self.network, self.feed, self.validation, [given])
        logits = logits_of(self.network.head, features, given).cpu()
        targets = self.objective.targets[self.validation]
        loss = float(self.objective.validation_loss(logits, targets))
        score = self.objective.score(logits, targets)
        watched = -loss
        if self.table.metric != "loss":
            watched = self.objective.figure(self.table.metric, logits, targets)
        # One decision for all processes, whatever their last bits.
        return self.processes.share((loss, score, watched))

    def _judge_epoch(self) -> None:
        """Look at the validation side; decide what is kept and whether to go on."""
        progress = self.progress
        loss, score, watched = self._judge()
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.own.title}: epoch {progress.epoch}, step {progress.step}: the validation "
                f"loss is {loss}; the last good checkpoint: {self.kept}; lower the learning rates "
                "or set optimiser.gradient_clip"
            )
        mean = progress.losses * self.processes.count / len(self.order)
        progress.history.append(Epoch(progress.epoch, mean, loss, score))
        if progress.best is None or watched > progress.best:
            progress.best, progress.best_epoch = watched, progress.epoch
            self.best_weights = self._weights()
        elif progress.epoch - progress.best_epoch >= self.table.patience:
            progress.finished = True
        progress.finished = progress.finished or progress.epoch == self.table.max_epochs
        progress.epoch += 1
        progress.position, progress.losses = 0, 0.0

    def _weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.network.learned().items()}

    def _is_due(self) -> bool:
        return self.checkpoint is not None and self.processes.share(self.checkpoint.due)

    def _save(self) -> None:
        """Keep where this is. Weights that are not finite are never kept as good."""
        if self.checkpoint is None:
            return
        device = self.network.device
        randoms = self.processes.gather(_random_states(device))
        learned = self.network.learned()
        if not all(bool(weights.isfinite().all()) for weights in learned.values()):
            return  # the next loss says so
        progress = self.progress
        tensors = {f"best.{name}": tensor for name, tensor in self.best_weights.items()}
        if not progress.finished:
            tensors |= {f"weights.{name}": tensor for name, tensor in learned.items()}
            tensors |= {
                f"optimiser.{name}": tensor
                for name, tensor in optimiser_tensors(self.optimiser).items()
            }
            tensors |= {
                f"random.{number}.{name}": state
                for number, states in enumerate(randoms)
                for name, state in states.items()
            }
            tensors["order"] = self.order
        if self.processes.is_first:
            self.checkpoint.save(tensors, asdict(progress))
        self.kept = f"{self.checkpoint.path} (epoch {progress.epoch}, step {progress.step})"

    def _resume(self) -> None:
        """Go on where a killed training was, if there was one."""
        kept = self.checkpoint.load() if self.checkpoint and self.processes.is_first else None
        kept = self.processes.share(kept)
        if kept is None:
            return
        tensors, facts = kept
        history = [Epoch(**one) for one in facts.pop("history")]
        self.progress = Progress(**facts, history=history)
        self.best_weights = _under("best.", tensors)
        if self.progress.finished:
            return
        self.order = tensors["order"]
        self.network.load_learned(_under("weights.", tensors))
        load_optimiser(self.optimiser, _under("optimiser.", tensors))
        _set_random_states(_under(f"random.{self.processes.number}.", tensors), self.network.device)
        assert self.checkpoint is not None  # noqa: S101 - it was read
        self.kept = (
            f"{self.checkpoint.path} (epoch {self.progress.epoch}, step {self.progress.step})"
        )


def _draw_mix(items: int, mixup: float, device: torch.device) -> Mix | None:
    if mixup == 0:
        return None
    share = float(torch.distributions.Beta(mixup, mixup).sample())
    return share, torch.randperm(items).to(device)


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


@contextlib.contextmanager
def reproducible(
    seed: int,
    *,
    threads: int = 1,
    device: torch.device = torch.device("cpu"),  # noqa: B008
) -> Iterator[None]:
    """Seed torch and pin what changes the order of additions; restore everything after.

    Args:
        seed: Of all random numbers.
        threads: How many compute; another number gives other last bits.
        device: Where the network will be.
    """
    before, deterministic = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    on_gpu = device.type == "cuda"
    if on_gpu:  # what cuBLAS wants to be told before it is used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        # Some of a GPU's operations exist in no deterministic way. Called by its other name,
        # because `use_deterministic_algorithms` imports torch's compiler, which takes seconds.
        torch.set_deterministic_debug_mode("warn" if on_gpu else "error")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(deterministic)
            torch.set_num_threads(before)
