"""What the end of a queue costs, and what it is worth: the table of docs/decisions/full-queues.md.

    python -m tritium_benchmarks.queue_bounds bundles/openmoji --repository .cache/bench

One server of the app, whose components are loaded with other queues in turns: every one bounded,
heads without a bound, none bounded. Prints answers per second, p50 and p99 in milliseconds, and
calls that failed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tritium_benchmarks.report.tables import Table
from tritium_builders.bundle import Bundle
from tritium_builders.configs import let_requests_queue
from tritium_client import AsyncClient, RetryPolicy, TritiumClientError
from tritium_deploy import Ports, serve
from tritium_deploy.control import ModelControl
from tritium_deploy.live import AppRelease, read_app_release

VARIANTS = ("every one bounded", "heads without a bound", "none bounded")
IN_FLIGHT = (8, 16)
RATES = (20.0, 30.0)
OVERLOAD = 500.0
DEADLINES_S = (2.0, 5.0)
PATIENCE_S = 20.0
"""Deadline of calls outside overload."""
LOAD_TIMEOUT_S = 60.0


class Load:
    """Asks one server with a bundle's validation items, and notes how long answers took."""

    def __init__(self, client: AsyncClient, items: Sequence[Any], timeout_s: float) -> None:
        self._client, self._items, self._timeout_s = client, items, timeout_s
        self.seconds: list[float] = []
        self.failed = 0

    async def ask(self, number: int) -> None:
        """Ask for one item."""
        item, began = self._items[number % len(self._items)], time.monotonic()
        try:
            await self._client.classify(text=item.text, image=item.image, timeout_s=self._timeout_s)
        except TritiumClientError:
            self.failed += 1
        else:
            self.seconds.append(time.monotonic() - began)

    async def keep_in_flight(self, count: int, seconds: float) -> None:
        """Ask in a closed loop."""
        end = time.monotonic() + seconds

        async def caller(first: int) -> None:
            number = first
            while time.monotonic() < end:
                await self.ask(number)
                number += count

        await asyncio.gather(*(caller(first) for first in range(count)))

    async def send(self, rate: float, seconds: float) -> None:
        """Ask when Poisson arrivals are due, so many per second."""
        chance, due, began = random.Random(0), 0.0, time.monotonic()  # noqa: S311 - arrivals
        async with asyncio.TaskGroup() as tasks:
            for number in range(int(rate * seconds)):
                due += chance.expovariate(rate)
                await asyncio.sleep(max(0.0, began + due - time.monotonic()))
                tasks.create_task(self.ask(number))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every variant under every load, and print the table."""
    parser = argparse.ArgumentParser(description="Queues with and without an end.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--repository", type=Path, required=True, help="with the app's release")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args(arguments)
    bundle = Bundle.load(given.bundle)
    name = bundle.manifest.app
    rows: list[tuple[str, ...]] = []
    with serve(given.repository, apps=[name], ports=Ports.free()) as server:
        app = read_app_release(given.repository, name, server.apps[0].release)
        control = ModelControl(server.grpc_url, server.access)
        for _ in range(given.rounds):
            for variant in VARIANTS:
                set_queues(control, app, variant)
                found = asyncio.run(
                    _measured(server.grpc_url, name, bundle.validation, given.seconds)
                )
                rows.extend((load, variant, *figures) for load, figures in found)
        control.close()
    headings = ("load", "queues", "answers/s", "p50, ms", "p99, ms", "failed")
    print(Table("", headings, tuple(sorted(rows))).to_markdown())  # noqa: T201 - what it is for


def set_queues(control: ModelControl, app: AppRelease, variant: str) -> None:
    """Load an app's components again, with the queues of a variant."""
    for component in app.components:
        config = control.config(component)
        is_head = "fusion_head" in component
        if variant == VARIANTS[2] or (is_head and variant == VARIANTS[1]):
            config.dynamic_batching.ClearField("default_queue_policy")
        else:
            let_requests_queue(config)
        control.load(component, LOAD_TIMEOUT_S, config)


async def _measured(
    url: str, app: str, items: Sequence[Any], seconds: float
) -> list[tuple[str, tuple[str, ...]]]:
    never_again = RetryPolicy(attempts=1)
    found = []
    async with AsyncClient(url, app=app, retries=never_again, max_in_flight=8192) as client:
        await Load(client, items, PATIENCE_S).keep_in_flight(8, 2.0)  # engines warm up
        for count in IN_FLIGHT:
            load, began = Load(client, items, PATIENCE_S), time.monotonic()
            await load.keep_in_flight(count, seconds)
            found.append((f"{count} in flight", _figures(load, began)))
        for rate in RATES:
            load, began = Load(client, items, PATIENCE_S), time.monotonic()
            await load.send(rate, seconds)
            found.append((f"{rate:g}/s", _figures(load, began)))
        for deadline in DEADLINES_S:
            load, began = Load(client, items, deadline), time.monotonic()
            await load.send(OVERLOAD, seconds)
            found.append((f"{OVERLOAD:g}/s, callers wait {deadline:g} s", _figures(load, began)))
    return found


def _figures(load: Load, began: float) -> tuple[str, ...]:
    rate = len(load.seconds) / (time.monotonic() - began)
    ordered = sorted(load.seconds) or [float("nan")]
    p50, p99 = (1000 * ordered[int(share * (len(ordered) - 1))] for share in (0.5, 0.99))
    return f"{rate:.0f}", f"{p50:.0f}", f"{p99:.0f}", str(load.failed)


if __name__ == "__main__":
    main()
