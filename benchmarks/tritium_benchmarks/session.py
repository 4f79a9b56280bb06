"""One run: every contender under every load, in turns, over and over.

record = run(plan, Path("benchmarks/results/bench"), on_step=print)

What one repeat measures stands side by side in time (A B C, A B C, ...), so that a machine which is
slow for a minute is slow for all. After each measurement the record on disk is whole.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tritium_benchmarks import fairness
from tritium_benchmarks.baselines import in_process
from tritium_benchmarks.callers import Caller
from tritium_benchmarks.contenders import LIMIT, TRITIUM, Contender, Running, running
from tritium_benchmarks.driver import Load, closed_loop, hold, open_loop, pile
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.inputs import common_modalities
from tritium_benchmarks.perf_analyzer import measure as perf_analyzer
from tritium_benchmarks.perf_analyzer.input_data import write_input_data
from tritium_benchmarks.planning import Plan
from tritium_benchmarks.records import Measurement, RunRecord, StepTime, write_record
from tritium_benchmarks.steps import between, read_sums, step_models
from tritium_benchmarks.workload import Closed, Offline, Poisson, Workload
from tritium_client import contract

PEAK_IN_FLIGHT = 32
"""Closed loop whose throughput counts as the peak."""
OnStep = Callable[[str, int, int], None]
"""Told what is measured now, how many steps are done, and how many there are."""


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
        _Session(plan, book, _Progress(plan, on_step)).run()
    return book.record


class _Book:
    """The record that grows."""

    def __init__(self, plan: Plan, out: Path) -> None:
        titles = {contender.name: contender.title for contender in plan.contenders}
        if plan.asked.limit:
            titles[LIMIT] = "In-process limit"
        self._out = out
        self.record = RunRecord(
            app=plan.asked.app,
            workload=plan.asked.workload,
            manifest=plan.manifest,
            contenders=titles,
            ended="under way",
        )

    def save(self, **changed: Any) -> None:
        """Change fields, and write the record."""
        self.record = self.record.model_copy(update=changed)
        write_record(self.record, self._out)

    def add(self, measurement: Measurement, steps: Sequence[StepTime] = ()) -> None:
        """Keep a measurement, and where its time went."""
        record = self.record
        self.save(measurements=(*record.measurements, measurement), steps=(*record.steps, *steps))

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


class _Progress:
    """How far it is."""

    def __init__(self, plan: Plan, on_step: OnStep) -> None:
        asked, everybody = plan.asked, len(plan.contenders)
        loads = len(points(asked.workload))
        peaks = everybody if isinstance(asked.workload.arrivals, Poisson) else 0
        each = everybody * loads + peaks + asked.limit + loads * plan.asks_with_perf_analyzer
        self._total = 2 * everybody + asked.repeats * each + asked.limit
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
    progress: _Progress
    servers: list[Running] = field(default_factory=list)

    def run(self) -> None:
        """Start everybody, compare their answers, and measure."""
        plan = self.plan
        with ExitStack() as stack:
            for contender in plan.contenders:
                self.progress.next(f"starting {contender.title}")
                server = self._start(contender, stack)
                server.sleep()
                self.servers.append(server)
            self._compare_answers()
            data = None
            if plan.asks_with_perf_analyzer:
                data = write_input_data(plan.requests, plan.scratch / "input.json")
            way = self._best_way() if plan.asked.limit else None
            for repeat in range(plan.asked.repeats):
                self._repeat(repeat, data, way)

    def _start(self, contender: Contender, stack: ExitStack) -> Running:
        if contender.name == TRITIUM and self.plan.asked.url is not None:
            return Running(contender, self.plan.asked.url)
        return stack.enter_context(running(contender, self.plan.subject))

    def _compare_answers(self) -> None:
        samples = fairness.held_out(self.plan.bundle, self.plan.asked.held_out)
        truth = fairness.expected_labels(self.plan.bundle, samples)
        labels = self.plan.bundle.manifest.labels
        found = []
        for server in self.servers:
            self.progress.next(f"{server.contender.title} answers {len(samples)} held-out items")
            with server.awake():
                found.append(fairness.check(server, self.plan.asked.app, labels, samples, truth))
        self.book.save(fairness=tuple(found))
        release = self.plan.manifest.get("release") or {}
        unfair = fairness.problems(found, release.get("precision", "fp32"))
        if unfair:
            raise BenchmarkError(
                f"the comparison would not be fair: {'; '.join(unfair)}. Build the release from "
                f"the bundle that the baselines serve ({self.plan.subject.bundle})"
            )

    def _best_way(self) -> in_process.Job:
        self.progress.next("looking for the best way with no server")
        return in_process.best_way(
            self.plan.subject.bundle,
            self.plan.subject.graphs,
            tuple(self.plan.requests),
            bf16=self.plan.subject.bf16,
        )

    def _repeat(self, repeat: int, data: Path | None, way: in_process.Job | None) -> None:
        peaks: dict[str, float] = {}
        if isinstance(self.plan.asked.workload.arrivals, Poisson):
            for server in self.servers:
                self.progress.next(f"{server.contender.title}: peak")
                measured = self._drive(server, Point("peak", in_flight=PEAK_IN_FLIGHT), repeat)
                peaks[server.contender.name] = measured.per_second
        for point in points(self.plan.asked.workload):
            for server in self.servers:
                self.progress.next(f"{server.contender.title}, {point.name}")
                rate = None
                if point.share is not None:
                    rate = peaks[server.contender.name] * point.share
                self._drive(server, point, repeat, rate)
            if data is not None:
                self.progress.next(f"Tritium, {point.name}, by perf_analyzer")
                self._perf_analyzer(self.servers[0], point, repeat, data)
        if way is not None:
            self.progress.next("the limit: no server")
            self.book.add(_limit(way, repeat, self.plan.asked.seconds))

    def _drive(
        self, server: Running, point: Point, repeat: int, rate: float | None = None
    ) -> Measurement:
        """Measure with the driver; of Tritium also where the time went."""
        models = self._models(server, point)
        before = read_sums(server.url, models, server.step_metrics_url) if models else {}
        cpu, began = server.cpu_s(), time.perf_counter()
        with server.awake():
            load = hold(
                server, self.plan.asked.app, self.plan.bundle.manifest.labels, self.plan.requests,
                lambda caller: self._load(caller, point, rate),
            )  # fmt: skip
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
            after = read_sums(server.url, models, server.step_metrics_url)
            lines = between(before, after, point.in_flight)
        self.book.add(measured, lines)
        return measured

    def _models(self, server: Running, point: Point) -> dict[str, str]:
        """Triton's models of the graph; none where it is not known which ones answer."""
        both = common_modalities(self.plan.requests) == contract.MODALITIES
        known = server.contender.name == TRITIUM and point.in_flight is not None and both
        release = self.plan.release
        return step_models(release) if known and release is not None else {}

    async def _load(self, caller: Caller, point: Point, rate: float | None) -> Load:
        seconds = self.plan.asked.seconds
        if rate is not None:
            seed = self.plan.asked.workload.seed
            return await open_loop(caller, rate=rate, seconds=seconds, seed=seed)
        in_flight = point.in_flight or PEAK_IN_FLIGHT
        if point.items is not None:
            return await pile(caller, items=point.items, in_flight=in_flight)
        return await closed_loop(caller, in_flight=in_flight, seconds=seconds)

    def _perf_analyzer(self, server: Running, point: Point, repeat: int, data: Path) -> None:
        given = common_modalities(self.plan.requests)
        if point.in_flight is None or given is None:
            return
        cpu, began = server.cpu_s(), time.perf_counter()
        measured = perf_analyzer.measure(
            contract.entry_point(self.plan.asked.app, "classify", given), server.url, data,
            in_flight=point.in_flight, seconds=self.plan.asked.seconds,
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
        load=str(way),
        repeat=repeat,
        seconds=seconds,
        per_second=round(in_process.items_per_second(way, seconds), 2),
    )
