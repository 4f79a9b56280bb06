"""Measure a candidate beside the live release, on the same server and in turns.

Both are asked through their own ensembles, so neither is what callers get at that moment. A gate
that cannot be measured fails.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tritonclient.grpc import InferenceServerClient

from tritium_builders.errors import BundleError
from tritium_builders.history import GateRecord
from tritium_builders.release import VALIDATION, release_folder
from tritium_builders.samples import Sample, read_samples
from tritium_builders.tasks import answer_tensor
from tritium_builders.verdicts import Verdict, meaning_of, own_is_closest
from tritium_client.contract import Modality
from tritium_deploy.errors import GoldenError
from tritium_deploy.golden import Answer, ask_model
from tritium_deploy.live import AppRelease
from tritium_deploy.rollout.fleet import FleetServer
from tritium_deploy.rollout.settings import GateSettings

ASK_TIMEOUT_S = 30.0
LONGER = 3
"""A latency above its bound is measured so many times as long before it counts."""
ERRORS_ENOUGH = 3
"""Of a candidate: one is too many already, and each may take as long as a request may."""
IMAGE: tuple[Modality, ...] = ("image",)
WARM_UP = 3
"""Requests to each side that are not counted."""


@dataclass
class Side:
    """What one of the two answered."""

    verdicts: list[Verdict | None] = field(default_factory=list)
    """For each sample what was said; None where there was no answer."""
    pictures: list[Verdict | None] = field(default_factory=list)
    """Of an app that embeds: the vector of each sample's picture; `verdicts` are its texts'."""
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def p95_ms(self) -> float:
        """Milliseconds."""
        return float(np.percentile(self.seconds, 95) * 1e3)


@dataclass(frozen=True)
class Comparison:
    """Both sides, asked the same."""

    live: Side
    candidate: Side
    samples: tuple[Sample, ...]
    """What was asked, in order."""

    @property
    def latency_ratio(self) -> float:
        """The candidate's p95 over the live release's."""
        return self.candidate.p95_ms / self.live.p95_ms


def compare(
    server: FleetServer,
    live: AppRelease,
    candidate: AppRelease,
    repository: Path,
    settings: GateSettings,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> Comparison:
    """Ask both about the candidate's held-out samples, in turns, one request at a time.

    Args:
        server: Where.
        live: What callers get.
        candidate: What is measured.
        repository: Where the candidate's samples lie.
        settings: How much is asked.
        on_progress: Told how many pairs are done, of how many.
    """
    samples = _samples(repository, candidate)[: settings.samples]
    modalities = tuple(candidate.release.entry_points[0])
    with server.access.connect(server.endpoint) as client:
        sides = [
            _Asker(client, app, modalities, side)
            for app, side in ((live, Side()), (candidate, Side()))
        ]
        for asker, sample in itertools.product(sides, samples[:WARM_UP]):
            asker.warm_up(sample)
        pairs = max(len(samples), settings.latency_pairs)
        _ask_pairs(sides, samples, 0, pairs, on_progress)
        found = Comparison(sides[0].side, sides[1].side, samples)
        if _is_slow(found, settings):
            _ask_pairs(sides, samples, pairs, LONGER * pairs, on_progress)
    return found


@dataclass(frozen=True)
class Consent:
    """What somebody takes upon themselves."""

    accept: bool = False
    """An app without labels, on its agreement with live alone."""
    new_space: bool = False
    """Embeddings in another space than live's: what callers stored does not compare with them."""


def judge(
    found: Comparison,
    live: AppRelease,
    candidate: AppRelease,
    settings: GateSettings,
    consent: Consent,
) -> list[GateRecord]:
    """Hold what was measured against the bounds.

    Args:
        found: From `compare`.
        live: What callers get.
        candidate: What was measured.
        settings: The bounds.
        consent: What need not be held against it.
    """
    if found.live.errors:
        text = f"cannot be measured, as the live release failed ({found.live.errors[0]})"
        unmeasured = [
            GateRecord(gate=gate, passed=False, found=f"{gate} {text}")
            for gate in ("accuracy", "latency")
        ]
        return [*_space(live, candidate, consent), _errors(found), *unmeasured]
    return [
        *_space(live, candidate, consent),
        _errors(found),
        _accuracy(found, candidate, settings)
        if _is_known(found, candidate)
        else _agreement(found, candidate, settings, accept=consent.accept),
        _latency(found, settings),
    ]


@dataclass(frozen=True)
class _Asker:
    client: InferenceServerClient
    app: AppRelease
    modalities: tuple[Modality, ...]
    side: Side

    def warm_up(self, sample: Sample) -> None:
        try:
            self._ask(sample, self.modalities)
        except GoldenError as error:
            self.side.errors.append(str(error))

    def ask(self, sample: Sample, *, first: bool) -> None:
        """Ask once; what is said is kept of the first time only."""
        verdict = picture = None
        try:
            answer = self._ask(sample, self.modalities)
            verdict = self._read(sample, answer)
            self.side.seconds.append(answer.seconds)
            if first and self.app.release.task == "embedding":
                picture = self._read(sample, self._ask(sample, IMAGE))
        except GoldenError as error:
            self.side.errors.append(str(error))
        if first:
            self.side.verdicts.append(verdict)
            self.side.pictures.append(picture)

    def _ask(self, sample: Sample, given: tuple[Modality, ...]) -> Answer:
        release = self.app.release
        graph = release.graph(list(given))
        return ask_model(self.client, graph, given, sample, ASK_TIMEOUT_S, release.verb)

    def _read(self, sample: Sample, answer: Answer) -> Verdict:
        release = self.app.release
        graph, output = release.graph(list(self.modalities)), answer_tensor(release.task)
        if answer.values is None:
            raise GoldenError(graph, sample.id, f"the answer has no output {output}")
        try:
            return meaning_of(release).says(answer.values[0], answer.offsets)
        except ValueError as error:
            raise GoldenError(graph, sample.id, f"{output}: {error}") from error


def _ask_pairs(
    sides: Sequence[_Asker],
    samples: Sequence[Sample],
    begin: int,
    end: int,
    on_progress: Callable[[int, int], None],
) -> None:
    for index in range(begin, end):
        sample = samples[index % len(samples)]
        # Whoever is asked second finds the caches of the first: they take turns at that, too.
        for asker in sides if index % 2 else reversed(sides):
            asker.ask(sample, first=index < len(samples))
        if len(sides[1].side.errors) >= ERRORS_ENOUGH:
            return
        on_progress(index + 1, end)


def _is_slow(found: Comparison, settings: GateSettings) -> bool:
    if not found.live.seconds or not found.candidate.seconds:
        return False
    return found.latency_ratio > settings.latency_ratio


def _samples(repository: Path, candidate: AppRelease) -> tuple[Sample, ...]:
    """The held-out samples of a release; where it has none, its golden ones."""
    folder = release_folder(repository, candidate.name, candidate.release.number)
    try:
        return read_samples(folder, VALIDATION) or candidate.golden
    except BundleError:
        return candidate.golden


def _space(live: AppRelease, candidate: AppRelease, consent: Consent) -> list[GateRecord]:
    """Nothing for an app that embeds nothing."""
    ours, theirs = live.release.space, candidate.release.space
    if ours is None and theirs is None:
        return []
    if ours == theirs:
        return [GateRecord(gate="space", passed=True, found=f"live's space, {theirs}")]
    text = f"its space is {theirs or 'none'} and live's is {ours or 'none'}"
    if not consent.new_space:
        text += (
            ": vectors that callers have stored do not compare with its own; have them embed all "
            "of it anew, and give --new-space"
        )
    return [GateRecord(gate="space", passed=consent.new_space, found=text)]


def _errors(found: Comparison) -> GateRecord:
    errors = found.candidate.errors
    asked = len(found.candidate.seconds) + len(errors)
    text = f"{len(errors)} of {asked} requests failed"
    if errors:
        text += f" ({errors[0]})"
    return GateRecord(gate="errors", passed=not errors, found=text)


def _is_known(found: Comparison, candidate: AppRelease) -> bool:
    """Whether somebody said what is right; which picture belongs to a text is known anyway."""
    if candidate.release.task == "embedding":
        return True
    return any(sample.is_labelled for sample in found.samples)


def _accuracy(found: Comparison, candidate: AppRelease, settings: GateSettings) -> GateRecord:
    if candidate.release.task == "embedding":
        known, count = len(found.samples), _closest
    else:
        known, count = sum(sample.is_labelled for sample in found.samples), _right
    shares = [100 * count(side, found.samples) / known for side in (found.candidate, found.live)]
    text = (
        f"{meaning_of(candidate.release).right} {shares[0]:.1f}%, live {shares[1]:.1f}%, on "
        f"{known} held-out samples; may be {settings.accuracy_margin:g} points below"
    )
    # Rounded: three samples of a hundred are three points, whatever binary fractions make of it.
    passed = round(shares[1] - shares[0], 9) <= settings.accuracy_margin
    return GateRecord(gate="accuracy", passed=passed, found=text)


def _right(side: Side, samples: Sequence[Sample]) -> int:
    """How many answers are right; one that is missing, as asking ended with errors, is not."""
    pairs = zip(side.verdicts, samples, strict=False)
    return sum(
        verdict.is_right(sample)
        for verdict, sample in pairs
        if verdict is not None and sample.is_labelled
    )


def _closest(side: Side, samples: Sequence[Sample]) -> int:
    """How many texts have their own picture as the closest, among those that were answered."""
    pairs = [
        (text.vector, picture.vector)
        for _, text, picture in zip(samples, side.verdicts, side.pictures, strict=False)
        if text is not None and picture is not None
    ]
    return sum(own_is_closest(*zip(*pairs, strict=True))) if pairs else 0


def _agreement(
    found: Comparison, candidate: AppRelease, settings: GateSettings, *, accept: bool
) -> GateRecord:
    pairs = list(zip(found.candidate.verdicts, found.live.verdicts, strict=True))
    agreed = sum(a is not None and b is not None and a.agrees(b) for a, b in pairs)
    share = agreed / max(1, len(pairs))
    text = (
        f"{100 * share:.1f}% of {len(pairs)} answers equal live's, at least "
        f"{100 * settings.agreement:g}% must; {candidate.name} has no labels to know who is right"
    )
    if not accept:
        text += ": look at it, and give --accept"
    return GateRecord(gate="agreement", passed=accept and share >= settings.agreement, found=text)


def _latency(found: Comparison, settings: GateSettings) -> GateRecord:
    if not found.live.seconds or not found.candidate.seconds:
        return GateRecord(gate="latency", passed=False, found="latency could not be measured")
    text = (
        f"p95 {found.candidate.p95_ms:.1f} ms, live {found.live.p95_ms:.1f} ms, ratio "
        f"{found.latency_ratio:.2f} of at most {settings.latency_ratio:g} "
        f"({len(found.candidate.seconds)} requests each, in turns)"
    )
    return GateRecord(gate="latency", passed=not _is_slow(found, settings), found=text)
