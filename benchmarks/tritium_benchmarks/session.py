"""One run: every contender under every load, in turns, over and over.

record = run(plan, Path("benchmarks/results/bench"), on_step=print)

What one repeat measures stands side by side in time (A B C, A B C, ...), so that a machine which is
slow for a minute is slow for all. After each measurement the record on disk is whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritium_benchmarks import fairness
from tritium_benchmarks.baselines import in_process
from tritium_benchmarks.callers import make_caller
from tritium_benchmarks.contenders import (
    LIMIT,
    TRITIUM,
    Contender,
    Running,
    Subject,
    entry_point,
    running,
)
from tritium_benchmarks.driver import Load, closed_loop, open_loop, pile
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.inputs import Request
from tritium_benchmarks.perf_analyzer import measure as perf_analyzer
from tritium_benchmarks.perf_analyzer.input_data import write_input_data
from tritium_benchmarks.records import Measurement, RunRecord, StepTime, write_record
from tritium_benchmarks.steps import between, read_sums, step_models
from tritium_benchmarks.workload import Closed, Offline, Poisson, Workload
from tritium_builders.bundle import Bundle
from tritium_builders.release import Release
from tritium_client import contract

PEAK_IN_FLIGHT = 32
"""Closed loop whose throughput counts as the peak."""
OnStep = Callable[[str, int, int], None]
"""Told what is measured now, how many steps are done, and how many there are."""


@dataclass(frozen=True)
class Plan:
    """What a run measures."""

    subject: Subject
    bundle: Bundle
    workload: Workload
    requests: Sequence[Request]
    contenders: Sequence[Contender]
    """The first one is Tritium."""
    seconds: float
    repeats: int
    manifest: dict[str, Any]
    release: Release | None = None
    """Tritium's live release; None where it is not known, on a server elsewhere."""
    url: str | None = None
    """Of a Tritium server that runs already; None to start one."""
    limit: bool = False
    """Measure the limit, a loop with no server, too."""
    perf_analyzer: bool = True
    """Ask Tritium with perf_analyzer, too."""
    held_out: int = fairness.ITEMS


@dataclass(frozen=True)
class Point:
    """One load."""

    name: str
    in_flight: int | None = None
    share: float | None = None
    """Open loop: of the contender's own peak."""
    items: int | None = None


def points(workload: Workload) -> list[Point]:
    """The loads that a workload asks for."""
    arrivals = workload.arrivals
    match arrivals:
        case Closed():
            return [Point(f"{count} in flight", in_flight=count) for count in arrivals.in_flight]
        case Poisson():
            shares = arrivals.share_of_peak
            return [Point(f"{share:.0%} of the peak", share=share) for share in shares]
        case Offline():
            name = f"{arrivals.items} items, {arrivals.concurrency} in flight"
            return [Point(name, in_flight=arrivals.concurrency, items=arrivals.items)]


def run(plan: Plan, out: Path, on_step: OnStep = lambda *_: None) -> RunRecord:
    """Measure, and keep what was measured in `out/run.json`, also when it is interrupted.

    Raises:
        BenchmarkError: a contender did not start, answers otherwise than the others, or died; the
            disk is full. What was measured before is kept.
        KeyboardInterrupt: what was measured before is kept.
    """
    book = _Book(plan, out)
    book.save()
    with book.ending():
        _Session(plan, book, _Steps(plan, on_step)).run()
    return book.record


class _Book:
    """The record that grows."""

    def __init__(self, plan: Plan, out: Path) -> None:
        titles = {contender.name: contender.title for contender in plan.contenders}
        if plan.limit:
            titles[LIMIT] = "In-process limit"
        self._out = out
        self.record = RunRecord(
            app=plan.subject.app,
            workload=plan.workload,
            manifest=plan.manifest,
            contenders=titles,
            ended="under way",
        )

    def save(self, **changed: Any) -> None:
        """Change fields, and write the record."""
        self.record = self.record.model_copy(update=changed)
        write_record(self.record, self._out)

    def add(self, *measurements: Measurement) -> None:
        """Keep measurements."""
        self.save(measurements=(*self.record.measurements, *measurements))

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Say at the end how it ended."""
        try:
            yield
        except KeyboardInterrupt:
            self.save(ended="interrupted")
            raise
        except BaseException as error:
            # The disk may be what failed; what is there then says that the run is under way.
            with contextlib.suppress(BenchmarkError):
                self.save(ended=f"failed: {error}")
            raise
        self.save(ended="complete")


class _Steps:
    """How far it is."""

    def __init__(self, plan: Plan, on_step: OnStep) -> None:
        loads = len(points(plan.workload))
        open_loop_peaks = len(plan.contenders) if isinstance(plan.workload.arrivals, Poisson) else 0
        each = len(plan.contenders) * loads + open_loop_peaks + plan.limit
        each += loads * asks_with_perf_analyzer(plan)
        self._total = 2 * len(plan.contenders) + plan.repeats * each + plan.limit
        self._done = 0
        self._tell = on_step

    def next(self, text: str) -> None:
        """Say what comes now."""
        self._tell(text, self._done, self._total)
        self._done += 1


@dataclass
class _Session:
    """A run under way."""

    plan: Plan
    book: _Book
    steps: _Steps
    servers: list[Running] = field(default_factory=list)

    def run(self) -> None:
        """Start everybody, compare their answers, and measure."""
        plan = self.plan
        with ExitStack() as stack:
            for contender in plan.contenders:
                self.steps.next(f"starting {contender.title}")
                server = self._start(contender, stack)
                server.sleep()
                self.servers.append(server)
            self._compare_answers()
            data = None
            if asks_with_perf_analyzer(plan):
                folder = stack.enter_context(_scratch())
                data = write_input_data(plan.requests, folder / "input.json")
            way = self._best_way() if plan.limit else None
            for repeat in range(plan.repeats):
                self._repeat(repeat, data, way)

    def _start(self, contender: Contender, stack: ExitStack) -> Running:
        if contender.name == TRITIUM and self.plan.url is not None:
            return Running(contender, self.plan.url)
        return stack.enter_context(running(contender, self.plan.subject))

    def _compare_answers(self) -> None:
        samples = fairness.held_out(self.plan.bundle, self.plan.held_out)
        truth = fairness.expected_labels(self.plan.bundle, samples)
        labels = self.plan.bundle.manifest.labels
        found = []
        for server in self.servers:
            self.steps.next(f"{server.contender.title} answers {len(samples)} held-out items")
            with server.awake():
                found.append(fairness.check(server, self.plan.subject.app, labels, samples, truth))
        self.book.save(fairness=tuple(found))
        release = self.plan.manifest.get("release") or {}
        unfair = fairness.problems(found, release.get("precision", "fp32"))
        if unfair:
            raise BenchmarkError(
                f"the comparison would not be fair: {'; '.join(unfair)}. Build the release from "
                f"the bundle that the baselines serve ({self.plan.subject.bundle})"
            )

    def _best_way(self) -> in_process.Job:
        self.steps.next("looking for the best way with no server")
        return in_process.best_way(
            self.plan.subject.bundle, self.plan.subject.graphs, tuple(self.plan.requests)
        )

    def _repeat(self, repeat: int, data: Path | None, way: in_process.Job | None) -> None:
        peaks: dict[str, float] = {}
        if isinstance(self.plan.workload.arrivals, Poisson):
            for server in self.servers:
                self.steps.next(f"{server.contender.title}: peak")
                measured = self._drive(server, Point("peak", in_flight=PEAK_IN_FLIGHT), repeat)
                peaks[server.contender.name] = measured.per_second
        for point in points(self.plan.workload):
            for server in self.servers:
                self.steps.next(f"{server.contender.title}, {point.name}")
                rate = None
                if point.share is not None:
                    rate = peaks[server.contender.name] * point.share
                self._drive(server, point, repeat, rate)
            if data is not None:
                self.steps.next(f"Tritium, {point.name}, by perf_analyzer")
                self._perf_analyzer(self.servers[0], point, repeat, data)
        if way is not None:
            self.steps.next("the limit: no server")
            self.book.add(_limit(way, repeat, self.plan.seconds))

    def _drive(
        self, server: Running, point: Point, repeat: int, rate: float | None = None
    ) -> Measurement:
        """Measure with the driver; of Tritium also where the time went."""
        models = self._models(server, point)
        before = read_sums(server.url, models) if models else {}
        cpu, began = server.cpu_s(), time.perf_counter()
        with server.awake():
            load = asyncio.run(self._load(server, point, rate))
        elapsed = time.perf_counter() - began
        if not len(load.latencies_ms):
            kinds = ", ".join(load.failures) or "nothing came back"
            raise BenchmarkError(
                f"{server.contender.title} answered no request ({kinds}); measure longer, with "
                "--seconds, or look at its log"
            )
        measured = Measurement.of_load(
            load,
            contender=server.contender.name,
            load=point.name,
            in_flight=None if rate else point.in_flight,
            rate=None if rate is None else round(rate, 2),
            repeat=repeat,
            server_cpu=round((server.cpu_s() - cpu) / elapsed, 3),
        )
        lines: list[StepTime] = []
        if models and point.in_flight is not None:
            lines = between(before, read_sums(server.url, models), point.in_flight)
        record = self.book.record
        self.book.save(measurements=(*record.measurements, measured), steps=(*record.steps, *lines))
        return measured

    def _models(self, server: Running, point: Point) -> dict[str, str]:
        both = _homogeneous(self.plan.requests) == (True, True)
        if server.contender.name != TRITIUM or point.in_flight is None or not both:
            return {}
        if self.plan.release is None:
            return {}
        return step_models(self.plan.release)

    async def _load(self, server: Running, point: Point, rate: float | None) -> Load:
        labels = self.plan.bundle.manifest.labels
        caller = make_caller(server, self.plan.subject.app, labels, self.plan.requests)
        seconds = self.plan.seconds
        async with caller:
            if rate is not None:
                seed = self.plan.workload.seed
                return await open_loop(caller, rate=rate, seconds=seconds, seed=seed)
            in_flight = point.in_flight or PEAK_IN_FLIGHT
            if point.items is not None:
                return await pile(caller, items=point.items, in_flight=in_flight)
            return await closed_loop(caller, in_flight=in_flight, seconds=seconds)

    def _perf_analyzer(self, server: Running, point: Point, repeat: int, data: Path) -> None:
        if point.in_flight is None:
            return
        cpu, began = server.cpu_s(), time.perf_counter()
        measured = perf_analyzer.measure(
            _entry_point(self.plan), server.url, data,
            in_flight=point.in_flight, seconds=self.plan.seconds,
        )  # fmt: skip
        elapsed = time.perf_counter() - began
        self.book.add(
            Measurement.of_perf_analyzer(
                measured,
                contender=TRITIUM,
                load=point.name,
                repeat=repeat,
                server_cpu=round((server.cpu_s() - cpu) / elapsed, 3),
            )
        )


def _limit(way: in_process.Job, repeat: int, seconds: float) -> Measurement:
    return Measurement(
        contender=LIMIT,
        tool="in_process",
        load=f"{way.runtime}, batch {way.batch}",
        repeat=repeat,
        seconds=seconds,
        per_second=round(in_process.items_per_second(way, seconds), 2),
    )


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tritium-bench-") as folder:
        yield Path(folder)


def _homogeneous(requests: Sequence[Request]) -> tuple[bool, bool] | None:
    """Whether all requests have a text, and whether all have a picture; None where they differ."""
    kinds = {(request.text is not None, request.image is not None) for request in requests}
    return kinds.pop() if len(kinds) == 1 else None


def asks_with_perf_analyzer(plan: Plan) -> bool:
    """It asks one entry point at a time, in a closed loop."""
    closed = isinstance(plan.workload.arrivals, Closed)
    return plan.perf_analyzer and closed and _homogeneous(plan.requests) is not None


def _entry_point(plan: Plan) -> str:
    kinds = _homogeneous(plan.requests)
    if kinds in {None, (True, True)}:
        return entry_point(plan.subject.app)
    given: tuple[contract.Modality, ...] = ("text",) if kinds == (True, False) else ("image",)
    return contract.entry_point(plan.subject.app, "classify", given)
