"""What a served app does besides answering fast: `make serving-table` writes serving.md.

    python -m tritium_benchmarks.serving_table openmoji benchmarks/results --page PAGE

Latency of a request alone beside the same work with no server, the tail under arrivals by chance,
long texts among short ones, large pictures, overload, the response cache, start and memory. Ratios
are of figures that were measured in turns, in one run; `make bench` has the comparison with others.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil

from tritium_benchmarks.baselines.engine_model import RUNTIMES, EngineModel
from tritium_benchmarks.callers import Caller
from tritium_benchmarks.contenders import CONTENDERS, TRITIUM, Running
from tritium_benchmarks.curves.axes import workload
from tritium_benchmarks.driver import Load, closed_loop, hold, open_loop
from tritium_benchmarks.inputs import Request, make_requests
from tritium_benchmarks.manifest import make_manifest
from tritium_benchmarks.perf_analyzer import measure as perf_analyzer
from tritium_benchmarks.perf_analyzer.input_data import write_input_data
from tritium_benchmarks.planning import live_release_of
from tritium_benchmarks.report.pages import fill_places
from tritium_benchmarks.report.tables import Table
from tritium_benchmarks.results import write_results
from tritium_benchmarks.steps import WHOLE, read_sums, step_models
from tritium_benchmarks.workload import Mix, Words, load_workload
from tritium_builders.bundle import Bundle
from tritium_builders.graphs import write_graphs
from tritium_builders.release import Release
from tritium_client import contract
from tritium_deploy import Ports, Server, serve

CROWD = 64
CACHE_MIB = 64
SHARE = 0.7
OVERLOAD = 3.0
PAUSE_S = 1.0
MEBIBYTE = 2**20
CALLS = 100
"""Of each turn of a request alone."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: str
    how: str
    """From what it was made."""


@dataclass
class Bench:
    """A server, and who asks it."""

    server: Server
    release: Release
    seconds: float
    repeats: int

    @property
    def running(self) -> Running:
        """As the load generator takes it."""
        return Running(CONTENDERS[TRITIUM], self.server.grpc_url, self.server.step_metrics_url)

    def closed(self, requests: Sequence[Request], in_flight: int, seconds: float = 0) -> Load:
        """Keep so many requests under way."""
        held = seconds or self.seconds
        return self._hold(
            requests, lambda caller: closed_loop(caller, in_flight=in_flight, seconds=held)
        )

    def open(self, requests: Sequence[Request], rate: float, seed: int) -> Load:
        """Send requests when they are due."""
        return self._hold(
            requests,
            lambda caller: open_loop(caller, rate=rate, seconds=2 * self.seconds, seed=seed),
        )

    def _hold(self, requests: Sequence[Request], load: Callable[[Caller], Awaitable[Load]]) -> Load:
        return hold(self.running, self.release.app, self.release.labels, requests, load)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write serving.json and serving.md."""
    parser = argparse.ArgumentParser(description="What a served app does besides being fast.")
    parser.add_argument("app")
    parser.add_argument("results", type=Path)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--page", type=Path, help="whose place for the table is filled")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    release = live_release_of(given.repository, given.app)
    bundle = Bundle.load(given.bundle or Path("bundles") / given.app)
    figures: list[Figure] = []
    with serve(given.repository, ports=Ports.free(), apps=[given.app]) as server:
        bench = Bench(server, release, given.seconds, given.repeats)
        for measure in (start, memory_at_first, alone, tail, lengths, pictures, texts, overload):
            print(f"{measure.__name__} ...", file=sys.stderr, flush=True)  # noqa: T201 - minutes
            figures += measure(bench, bundle)
        figures += memory_afterwards(bench, bundle)
        figures += cache(bench, given.repository)
    manifest = make_manifest(given.repository, given.app)
    document = {"manifest": manifest, "figures": [asdict(figure) for figure in figures]}
    write_results(given.results, "serving", document, table(figures))
    if given.page is not None:
        page = given.page.read_text("utf-8")
        given.page.write_text(fill_places(page, "serving", {"table": table(figures)}), "utf-8")


def table(figures: Sequence[Figure]) -> str:
    """All figures, as Markdown."""
    rows = tuple((figure.what, figure.value, figure.how) for figure in figures)
    return Table("Serving", ("what", "measured", "how"), rows, words=(0, 2)).to_markdown()


def everyday() -> list[Request]:
    """A text and a 640x427 JPEG, as most callers send."""
    return make_requests(load_workload("single"), 32)


def start(bench: Bench, _bundle: Bundle) -> list[Figure]:
    """From `serve` to ready."""
    steps = bench.server.startup_s
    parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in steps.items())
    return [Figure("start to ready", f"{sum(steps.values()):.1f} s", parts)]


def alone(bench: Bench, bundle: Bundle) -> list[Figure]:
    """One request in flight, beside the same work in a loop, in turns."""
    requests = everyday()
    served: list[float] = []
    bare: dict[str, list[float]] = {runtime: [] for runtime in RUNTIMES}
    with tempfile.TemporaryDirectory(prefix="tritium-alone-") as folder:
        write_graphs(bundle, Path(folder))
        loops = {
            runtime: EngineModel(bundle.folder, Path(folder), runtime, threads=0, batch=1)
            for runtime in RUNTIMES
        }
        for _ in range(bench.repeats):
            served.append(float(np.median(bench.closed(requests, 1).latencies_ms)))
            for runtime, loop in loops.items():
                bare[runtime].append(_median_ms(loop, requests))
    best = min(bare, key=lambda runtime: statistics.median(bare[runtime]))
    ratio = statistics.median(a / b for a, b in zip(served, bare[best], strict=True))
    how = (
        f"p50 served {statistics.median(served):.1f} ms; in a loop, all cores, {best} "
        f"{statistics.median(bare[best]):.1f} ms"
    )
    return [Figure("a request alone / the same work with no server", f"{ratio:.2f}", how)]


def _median_ms(loop: EngineModel, requests: Sequence[Request]) -> float:
    spent = []
    for number in range(CALLS):
        began = time.perf_counter()
        loop([requests[number % len(requests)]])
        spent.append(1000 * (time.perf_counter() - began))
    return statistics.median(spent)


def tail(bench: Bench, _bundle: Bundle) -> list[Figure]:
    """Arrivals by chance at a share of the peak."""
    requests = everyday()
    ratios, told = [], []
    for seed in range(bench.repeats):
        peak = bench.closed(requests, 32).per_second
        load = bench.open(requests, SHARE * peak, seed)
        p50, p99 = np.percentile(load.latencies_ms, (50, 99))
        ratios.append(p99 / p50)
        told.append(f"{p50:.0f} and {p99:.0f} ms")
    how = f"Poisson arrivals at {SHARE:.0%} of the peak; p50 and p99: {'; '.join(told)}"
    return [Figure("p99 / p50", f"{statistics.median(ratios):.1f}", how)]


def lengths(bench: Bench, _bundle: Bundle) -> list[Figure]:
    """Texts of 5 to 126 words with a long tail, and as many words in texts that are all alike."""
    tailed = Words(median=14, sigma=0.9, least=5, most=126)
    mixed = make_requests(
        load_workload("text-only").model_copy(
            update={"texts": tailed, "mix": Mix(text_only=1, distinct=256)}
        ),
        256,
    )
    words = [len((request.text or "").split()) for request in mixed]
    mean = round(statistics.mean(words))
    equal = make_requests(workload(words=mean, text_only=True, distinct=256), 256)
    ratios = []
    for _ in range(bench.repeats):
        rates = [bench.closed(requests, CROWD).per_second for requests in (mixed, equal)]
        ratios.append(rates[0] * statistics.mean(words) / (rates[1] * mean))
    how = f"{min(words)} to {max(words)} words, mean {mean}; texts alone, {CROWD} in flight"
    return [
        Figure("tokens/s, mixed lengths / equal lengths", f"{statistics.median(ratios):.2f}", how)
    ]


def pictures(bench: Bench, bundle: Bundle) -> list[Figure]:
    """A photo of 12 megapixels beside a small one."""
    from tritium_builders.servables.image_decoder import decode

    spec = bundle.manifest.image.servable_spec()
    large, small = (make_requests(workload(width=w, distinct=4), 4) for w in (4243, 640))
    waits, decodes = [], []
    for _ in range(bench.repeats):
        waits.append([float(np.median(bench.closed(r, 1).latencies_ms)) for r in (large, small)])
        for requests in (large, small):
            began = time.perf_counter()
            for request in requests:
                decode(request.image or b"", spec)
            decodes.append(1000 * (time.perf_counter() - began) / len(requests))
    ratio = statistics.median(one / other for one, other in waits)
    served = [statistics.median(column) for column in zip(*waits, strict=True)]
    spent = statistics.median(decodes[::2]), statistics.median(decodes[1::2])
    how = (
        f"p50 alone {served[0]:.1f} and {served[1]:.1f} ms; of that decoding {spent[0]:.1f} and "
        f"{spent[1]:.1f} ms"
    )
    return [Figure("a JPEG of 12 megapixels / one of 640x427", f"{ratio:.2f}", how)]


def texts(bench: Bench, _bundle: Bundle) -> list[Figure]:
    """Requests without a picture run nothing of pictures."""
    app = bench.release.app
    alone = contract.entry_point(app, "classify", ("image",))
    models = {**step_models(bench.release), "image alone": alone}

    def requests_of(step: str) -> int:
        sums = read_sums(bench.server.grpc_url, models, bench.server.step_metrics_url)
        return sums[step].requests

    def counted() -> tuple[int, int]:
        """Pictures that were encoded, and those that somebody sent."""
        return requests_of("image_encoder"), requests_of(WHOLE) + requests_of("image alone")

    before = counted()
    answered = len(bench.closed(make_requests(workload(text_only=True), 32), 16).latencies_ms)
    encoded, sent = (after - was for after, was in zip(counted(), before, strict=True))
    how = f"{answered} texts answered; {sent} golden samples with a picture in between"
    return [Figure("pictures encoded for texts alone", str(encoded - sent), how)]


def overload(bench: Bench, _bundle: Bundle) -> list[Figure]:
    """Three times the peak: what is answered, how late, and how soon it is over."""
    requests = everyday()
    shares, worst, after, refused, asking = [], [], [], [], []
    for seed in range(bench.repeats):
        calm = float(np.median(bench.closed(requests, 1, seconds=PAUSE_S).latencies_ms))
        peak = bench.closed(requests, 32).per_second
        load = bench.open(requests, OVERLOAD * peak, seed)
        shares.append(load.per_second / peak)
        worst.append(float(np.percentile(load.latencies_ms, 99)))
        total = sum(load.failures.values()) + len(load.latencies_ms)
        refused.append(sum(load.failures.values()) / total)
        asking.append(load.generator_cpu)
        kinds = ", ".join(sorted(load.failures))
        # All answers of the overload were waited for: what comes now is as quick as ever, or not.
        now = bench.closed(requests, 1, seconds=PAUSE_S).latencies_ms
        after.append(float(np.median(now)) / calm)
    how = (
        f"{OVERLOAD:g} times the peak, {2 * bench.seconds:g} s; refused {min(refused):.0%} to "
        f"{max(refused):.0%} ({kinds}); p99 of what was answered {max(worst):.0f} ms at most; "
        f"asking kept {statistics.median(asking):.2f} cores busy; "
        f"p50 alone in the second after it / before it {statistics.median(after):.2f}"
    )
    return [Figure("goodput under overload / peak", f"{statistics.median(shares):.2f}", how)]


def memory_at_first(bench: Bench, _bundle: Bundle) -> list[Figure]:
    """What each process holds when the server is ready."""
    return [_memory(bench.server, "memory when ready")]


def memory_afterwards(bench: Bench, _bundle: Bundle) -> list[Figure]:
    """What each process holds when all of the above is over."""
    return [_memory(bench.server, "memory after all of this")]


def _memory(server: Server, what: str) -> Figure:
    held: dict[str, list[float]] = {}
    for pid in server.pids:
        process = psutil.Process(pid)
        name = contract.role_of(" ".join(process.cmdline())) or process.name()
        held.setdefault(name, []).append(process.memory_full_info().pss / MEBIBYTE)
    total = sum(sum(values) for values in held.values())
    parts = "; ".join(
        f"{name} {' and '.join(f'{value:.0f}' for value in values)}"
        for name, values in held.items()
    )
    return Figure(what, f"{total:.0f} MB", f"PSS: {parts}")


def cache(bench: Bench, repository: Path) -> list[Figure]:
    """Requests that all came before, with the response cache and without, asked in turns."""
    app = bench.release.app
    entry_point = contract.entry_point(app, "classify", contract.MODALITIES)
    rates: list[tuple[float, float]] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tritium-cache-"))
        data = write_input_data(everyday(), Path(folder) / "input.json")
        cached = stack.enter_context(
            serve(repository, ports=Ports.free(), apps=[app], response_cache_mib=CACHE_MIB)
        )
        for _ in range(bench.repeats):
            with_it, without = (
                perf_analyzer.measure(
                    entry_point, server.grpc_url, data, in_flight=16, seconds=bench.seconds
                ).per_second
                for server in (cached, bench.server)
            )
            rates.append((with_it, without))
        with urllib.request.urlopen(cached.metrics_url, timeout=10) as answer:  # noqa: S310 # nosec B310 # ours
            hits = re.findall(
                rf'^nv_cache_num_hits_per_model{{model="{entry_point}"[^}}]*}} (\S+)$',
                answer.read().decode(), re.MULTILINE,
            )  # fmt: skip
    ratio = statistics.median(one / other for one, other in rates)
    one, other = (statistics.median(column) for column in zip(*rates, strict=True))
    how = (
        f"{one:.0f} and {other:.0f} answers/s, 32 inputs over and over, perf_analyzer, 16 in "
        f"flight; {float(hits[0]):.0f} hits"
    )
    return [Figure("response cache on / off", f"{ratio:.0f}", how)]


if __name__ == "__main__":
    main()
