"""What a caller sees when the network or a server fails, and how long it takes.

    python -m tritium_benchmarks.sdk.faults --out benchmarks/results

Real tritonservers on loopback, whose app answers at once (quick_server.py), and a proxy in front
of one of them (proxy.py) that does what networks do. Clients are as they come, unless a row says
otherwise; every call is one of many that the same client makes in a row.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tritium_benchmarks.results import to_json, write_results
from tritium_benchmarks.sdk.proxy import SLOW_S, Fault, Proxy
from tritium_benchmarks.sdk.quick_server import APP, QuickServer, quick_server
from tritium_client import AsyncClient, Client, HedgePolicy, TritiumClientError, contract
from tritium_deploy.ports import Ports

NAME = "sdk_faults"
CALLS = 20
AT_ONCE = 8
"""Callers of a server with room for two in its queue."""
BUSY_S = 0.2
"""What each of them keeps it busy for."""
PER_S = 50
CALLERS = 5
"""Who together make that many requests."""
HEALTHY_S, GONE_S = 2.0, 3.0
"""Before the server is killed, and before it is started again; then as long as before."""
PATIENCE_S = 10.0
"""The deadline of calls that only prepare a measurement."""
LATE_MS = 50
"""No call should end later than this after its deadline."""

Ask = Callable[[float], "Ended"]


@dataclass(frozen=True)
class Ended:
    """How one call ended."""

    how: str
    """`answer`, or the exception's name."""
    attempts: int
    elapsed_s: float


@dataclass(frozen=True)
class Row:
    """How the calls of one scenario ended."""

    fault: str
    servers: int
    timeout_s: float
    outcomes: dict[str, int]
    attempts: tuple[int, int]
    """Fewest and most."""
    median_s: float
    longest_s: float
    late_ms: float
    """How long after its deadline the latest call ended; 0 when all ended in time."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write a table and what it was made from."""
    parser = argparse.ArgumentParser(
        prog="python -m tritium_benchmarks.sdk.faults",
        description="Break networks and servers, and watch the SDK.",
    )
    parser.add_argument("--calls", type=int, default=CALLS, help="of each scenario")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help=f"folder for {NAME}.md and .json")
    options = parser.parse_args(arguments)
    if options.calls < 1:
        parser.error("--calls must be at least 1")
    rows = [asdict(row) for row in measure(options.calls)]
    if options.out is not None:
        write_results(options.out, NAME, rows, render(rows))
    sys.stdout.write(to_json(rows) if options.json else render(rows))


def measure(calls: int = CALLS) -> Iterator[Row]:
    """Go through every scenario.

    Args:
        calls: Of each, where the scenario itself does not say how many.
    """
    with quick_server() as first, quick_server() as second:
        yield from network_faults(first, second, calls)
        yield from draining(first, second, calls)
    yield full_queue()
    yield killed_under_load()


def network_faults(first: QuickServer, second: QuickServer, calls: int) -> Iterator[Row]:
    """Put a proxy in front of `first` and let it misbehave, alone and beside `second`."""
    alone: tuple[tuple[str, Fault, float], ...] = (
        ("connection refused", "refuse", 1.0),
        ("reset during the request", "reset", 1.0),
        ("black hole", "black hole", 0.5),
        (f"answers {SLOW_S:g} s late, deadline after that", "slow", 2.0),
        (f"answers {SLOW_S:g} s late, deadline before that", "slow", 0.2),
    )
    for name, fault, timeout_s in alone:
        with Proxy(first.url) as proxy, Client(proxy.url, app=APP) as client:
            yield _inject(proxy, fault, _sync(client), Scenario(name, 1, timeout_s, calls))
    with Proxy(first.url) as proxy, _async_client(proxy.url) as ask:
        yield _inject(proxy, "black hole", ask, Scenario("black hole, asyncio", 1, 0.5, calls))
    beside: tuple[tuple[str, Fault, HedgePolicy | None], ...] = (
        ("connection refused", "refuse", None),
        ("reset during the request", "reset", None),
        ("black hole", "black hole", None),
        ("black hole, client that hedges", "black hole", HedgePolicy(after=10)),
    )
    for name, fault, hedging in beside:
        with (
            Proxy(first.url) as proxy,
            Client([proxy.url, second.url], app=APP, hedging=hedging) as client,
        ):
            yield _inject(proxy, fault, _sync(client), Scenario(name, 2, 1.0, calls))


def draining(first: QuickServer, second: QuickServer, calls: int) -> Iterator[Row]:
    """Unload what callers name, as a server that ends does first."""
    entry_point = contract.entry_point(APP, "classify", ("text",))
    for servers in ([first], [first, second]):
        with Client([server.url for server in servers], app=APP) as client:
            ask = _sync(client)
            _warm_up(ask)
            first.control.unload(entry_point)
            while first.control.is_ready(entry_point):
                time.sleep(0.02)
            scenario = Scenario("server is draining", len(servers), 1.0, calls)
            try:
                yield scenario.row([ask(scenario.timeout_s) for _ in range(calls)])
            finally:
                first.control.load(entry_point, PATIENCE_S)


def full_queue() -> Row:
    """More callers at once than the server has room for."""
    with quick_server(max_queue=2) as narrow, Client(narrow.url, app=APP) as client:
        _warm_up(_sync(client))
        ask = _sync(client, f"sleep{BUSY_S}")
        scenario = Scenario(f"queue full, {AT_ONCE} callers at once", 1, 2.0, AT_ONCE)
        return scenario.row(_in_threads(AT_ONCE, lambda _: [ask(scenario.timeout_s)]))


def killed_under_load() -> Row:
    """Kill one of two servers under a steady load, and start it again."""
    ports = Ports.free()
    stop = threading.Event()
    with ExitStack() as stack:
        first = stack.enter_context(quick_server())
        client = stack.enter_context(Client([first.url, f"127.0.0.1:{ports.grpc}"], app=APP))
        ask = _sync(client)
        ended: list[Ended] = []

        def call(number: int) -> list[Ended]:
            return list(_paced(lambda: ask(5.0), number / PER_S, CALLERS / PER_S, stop))

        load = threading.Thread(target=lambda: ended.extend(_in_threads(CALLERS, call)))
        try:
            with quick_server(ports=ports) as second:
                load.start()
                time.sleep(HEALTHY_S)
                second.kill()
                time.sleep(GONE_S)
            with quick_server(ports=ports):
                time.sleep(HEALTHY_S)
                stop.set()
                load.join()
        finally:
            stop.set()
    name = f"one server killed under {PER_S} requests/s, and back"
    return Scenario(name, 2, 5.0, len(ended)).row(ended)


@dataclass(frozen=True)
class Scenario:
    """What goes wrong, and who calls."""

    fault: str
    servers: int
    timeout_s: float
    calls: int

    def row(self, ended: Sequence[Ended]) -> Row:
        """Sum up how its calls ended."""
        elapsed = [one.elapsed_s for one in ended]
        attempts = [one.attempts for one in ended]
        return Row(
            fault=self.fault,
            servers=self.servers,
            timeout_s=self.timeout_s,
            outcomes=dict(Counter(one.how for one in ended).most_common()),
            attempts=(min(attempts), max(attempts)),
            median_s=statistics.median(elapsed),
            longest_s=max(elapsed),
            late_ms=max(0.0, 1000 * (max(elapsed) - self.timeout_s)),
        )


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows as a Markdown table."""
    heading = ("what fails", "servers", "deadline", "calls end with", "attempts", "median",
               "longest", f"past the deadline (target: {LATE_MS} ms)")  # fmt: skip
    table = [heading, ("---",) * len(heading)]
    for row in rows:
        few, many = row["attempts"]
        cells = (
            row["fault"],
            str(row["servers"]),
            f"{row['timeout_s']:g} s",
            ", ".join(_outcome(how, count) for how, count in row["outcomes"].items()),
            f"{few}" if few == many else f"{few} to {many}",
            _ms(1000 * row["median_s"]),
            _ms(1000 * row["longest_s"]),
            _ms(row["late_ms"]) if row["late_ms"] else "never",
        )
        table.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 1 else "under 1 ms"


def _outcome(how: str, count: int) -> str:
    if how == "answer":
        return f"{count} answers"
    return f"{count} `{how}`"


def _inject(proxy: Proxy, fault: Fault, ask: Ask, scenario: Scenario) -> Row:
    _warm_up(ask)
    proxy.inject(fault)
    return scenario.row([ask(scenario.timeout_s) for _ in range(scenario.calls)])


def _warm_up(ask: Ask) -> None:
    """Connect to every server, read the labels, and see enough for hedges."""
    for _ in range(20):
        ended = ask(PATIENCE_S)
        if ended.how != "answer":
            raise RuntimeError(f"nothing was wrong yet: {ended}")


def _sync(client: Client, text: str = "red apple") -> Ask:
    def ask(timeout_s: float) -> Ended:
        began = time.perf_counter()
        try:
            attempts = client.classify(text=text, timeout_s=timeout_s).timing.attempts
        except TritiumClientError as error:
            return Ended(type(error).__name__, error.attempts, time.perf_counter() - began)
        return Ended("answer", attempts, time.perf_counter() - began)

    return ask


@contextmanager
def _async_client(url: str) -> Iterator[Ask]:
    async def ask(client: AsyncClient, timeout_s: float) -> Ended:
        began = time.perf_counter()
        try:
            answer = await client.classify(text="red apple", timeout_s=timeout_s)
        except TritiumClientError as error:
            return Ended(type(error).__name__, error.attempts, time.perf_counter() - began)
        return Ended("answer", answer.timing.attempts, time.perf_counter() - began)

    loop = asyncio.new_event_loop()
    client = AsyncClient(url, app=APP)
    try:
        yield lambda timeout_s: loop.run_until_complete(ask(client, timeout_s))
    finally:
        loop.run_until_complete(client.close())
        loop.close()


def _in_threads(count: int, call: Callable[[int], list[Ended]]) -> list[Ended]:
    ended: list[Ended] = []
    threads = [
        threading.Thread(target=lambda number=number: ended.extend(call(number)))
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def _paced(
    ask: Callable[[], Ended], offset_s: float, interval_s: float, stop: threading.Event
) -> Iterator[Ended]:
    """Ask at fixed times, however long answers take; a caller that is late asks at once."""
    due = time.monotonic() + offset_s
    while not stop.wait(max(0.0, due - time.monotonic())):
        yield ask()
        due += interval_s


if __name__ == "__main__":
    main()
