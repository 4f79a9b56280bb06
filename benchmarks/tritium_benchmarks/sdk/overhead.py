"""What the SDK costs next to a hand-written tritonclient call (by_hand.py), for the same request.

    python -m tritium_benchmarks.sdk.overhead --out benchmarks/results

Both ask the same real tritonserver over loopback, from this process. Without --url that is one
whose app has no networks in it (quick_server.py), so that the client is what is measured. The two
take turns, call by call or block by block, each as often first as second: a machine that is busy
for a while slows both, and what is compared are neighbours.

Waiting says little of what a client costs, so processor time is compared, too: of this process,
gRPC's own threads included, over blocks of calls.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from tritium_benchmarks.results import to_json, write_results
from tritium_benchmarks.sdk.by_hand import AsyncByHand, ByHand
from tritium_benchmarks.sdk.quick_server import APP, quick_server
from tritium_client import AsyncClient, Client, _wire, contract

NAME = "sdk_overhead"
PACKAGES = ("tritium", "grpcio", "numpy", "tritonclient", "protobuf")
TEXT = "red apple"
TOP_K = 5
TIMEOUT_S = 5.0
IN_FLIGHT = 64
WARM_UP_CALLS = 300
CPU_BLOCK_CALLS = 100
"""Of one kind in a row, where processor time is measured."""
ASYNC_BLOCK_CALLS = 1000
"""Likewise with many in flight: short, since a busy machine changes within seconds."""
TARGET_US = 150
TARGET_CPU = 1.05
TARGET_THROUGHPUT = 0.95

Call = Callable[[], object]
AsyncCall = Callable[[], Awaitable[object]]
Quartiles = tuple[float, float, float]
"""The middle one is the median."""


@dataclass(frozen=True)
class OneInFlight:
    """Medians; microseconds for one call."""

    calls: int
    """Of each of the two."""
    by_hand_us: float
    sdk_us: float
    difference_us: Quartiles
    """Of calls that were neighbours, SDK minus by hand."""
    over_bare_us: Quartiles
    """Likewise, by hand minus a message that was written once, sent by gRPC's own stub."""
    by_hand_cpu_us: float
    """Processor time of the process."""
    sdk_cpu_us: float
    cpu_ratio: Quartiles
    """Of neighbouring blocks, SDK to by hand."""


@dataclass(frozen=True)
class ManyInFlight:
    """Medians over blocks."""

    blocks: int
    """Of each of the two."""
    calls: int
    """In one block."""
    by_hand_per_s: float
    sdk_per_s: float
    ratio: Quartiles
    """Of neighbouring blocks' throughput, SDK to by hand."""
    cpu_ratio: Quartiles
    """Of their processor time for one call."""


@dataclass(frozen=True)
class Asked:
    """What is asked, and whom."""

    url: str
    app: str
    labels: tuple[str, ...]
    image: bytes | None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print or write a table and what it was made from."""
    options = _parse(arguments)
    with ExitStack() as stack:
        url, app = options.url, options.app
        if url is None:
            url, app = stack.enter_context(quick_server()).url, APP
        document = measure(url, app, options.calls, options.blocks)
    if options.out is not None:
        write_results(options.out, NAME, document, render(document))
    sys.stdout.write(to_json(document) if options.json else render(document))


def measure(url: str, app: str, calls: int, blocks: int) -> dict[str, Any]:
    """Measure with a text, and with a text and a picture.

    Args:
        url: host:port of a server.
        app: One of its apps, which classifies.
        calls: Of each of the two, one in flight.
        blocks: Of each of the two, 64 in flight.
    """
    with Client(url, app=app) as client:
        labels = client.labels()
    document: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "cpus": len(os.sched_getaffinity(0)),
        "app": app,
        "harness_us": _median_us(take_turns([_nothing], calls)[0]),
        "one_in_flight": {},
        "many_in_flight": {},
    }
    for name, image in (("text", None), ("text and picture", picture())):
        asked = Asked(url, app, labels, image)
        document["one_in_flight"][name] = asdict(measure_one_in_flight(asked, calls))
        document["many_in_flight"][name] = asdict(
            asyncio.run(measure_many_in_flight(asked, blocks))
        )
    return document


def measure_one_in_flight(asked: Asked, calls: int) -> OneInFlight:
    """Let both ask in turn, and once more in blocks for the processor's time."""
    hand = ByHand(asked.url, asked.app, asked.labels)
    with Client(asked.url, app=asked.app) as client, _Bare(asked) as bare:
        by_hand = partial(hand.classify, TEXT, asked.image, TOP_K, TIMEOUT_S)
        sdk = partial(
            client.classify, text=TEXT, image=asked.image, top_k=TOP_K, timeout_s=TIMEOUT_S
        )
        _require_same(by_hand(), sdk())
        for call in (by_hand, sdk, bare.ask):
            take_turns([call], WARM_UP_CALLS)
        hand_s, sdk_s = take_turns([by_hand, sdk], calls)
        cpu = cpu_of_blocks([by_hand, sdk], max(2, calls // CPU_BLOCK_CALLS), CPU_BLOCK_CALLS)
        bare_s, beside_s = take_turns([bare.ask, by_hand], calls)
    hand.close()
    return OneInFlight(
        calls=calls,
        by_hand_us=_median_us(hand_s),
        sdk_us=_median_us(sdk_s),
        difference_us=_difference_us(sdk_s, hand_s),
        over_bare_us=_difference_us(beside_s, bare_s),
        by_hand_cpu_us=_median_us(cpu[0]),
        sdk_cpu_us=_median_us(cpu[1]),
        cpu_ratio=_ratio(cpu[1], cpu[0]),
    )


async def measure_many_in_flight(asked: Asked, blocks: int) -> ManyInFlight:
    """Let both answer blocks of calls in turn, 64 at a time."""
    hand = AsyncByHand(asked.url, asked.app, asked.labels)
    async with AsyncClient(asked.url, app=asked.app) as client:

        def by_hand() -> Awaitable[object]:
            return hand.classify(TEXT, asked.image, TOP_K, TIMEOUT_S)

        def sdk() -> Awaitable[object]:
            return client.classify(text=TEXT, image=asked.image, top_k=TOP_K, timeout_s=TIMEOUT_S)

        _require_same(await by_hand(), await sdk())
        for call in (by_hand, sdk):
            await _block(call, WARM_UP_CALLS)
        seconds: tuple[list[float], list[float]] = ([], [])
        cpu: tuple[list[float], list[float]] = ([], [])
        for turn in range(blocks):
            for index in _order(2, turn):
                call = (by_hand, sdk)[index]
                began, cpu_began = time.perf_counter(), time.process_time()
                await _block(call, ASYNC_BLOCK_CALLS)
                cpu[index].append(time.process_time() - cpu_began)
                seconds[index].append(time.perf_counter() - began)
    await hand.close()
    return ManyInFlight(
        blocks=blocks,
        calls=ASYNC_BLOCK_CALLS,
        by_hand_per_s=ASYNC_BLOCK_CALLS / statistics.median(seconds[0]),
        sdk_per_s=ASYNC_BLOCK_CALLS / statistics.median(seconds[1]),
        ratio=_ratio(seconds[0], seconds[1]),
        cpu_ratio=_ratio(cpu[1], cpu[0]),
    )


def take_turns(calls: Sequence[Call], rounds: int) -> list[list[float]]:
    """Call each once a round; who is first changes with each.

    Returns:
        Seconds of every call, for each of `calls` in their order.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    clock = time.perf_counter
    for turn in range(rounds):
        for index in _order(len(calls), turn):
            call = calls[index]
            began = clock()
            call()
            seconds[index].append(clock() - began)
    return seconds


def cpu_of_blocks(calls: Sequence[Call], blocks: int, size: int) -> list[list[float]]:
    """Processor time of this process in blocks of calls of one kind.

    Returns:
        Seconds for one call, of every block, for each of `calls` in their order.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(blocks):
        for index in _order(len(calls), turn):
            began = time.process_time()
            for _ in range(size):
                calls[index]()
            seconds[index].append((time.process_time() - began) / size)
    return seconds


def picture() -> bytes:
    """A PNG of the size that small pictures have, always the same."""
    import numpy as np
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def render(document: dict[str, Any]) -> str:
    """Write what was measured as Markdown."""
    one_in_flight, packages = document["one_in_flight"], document["packages"]
    more = " and ".join(_us(one["over_bare_us"][1]) for one in one_in_flight.values())
    calls = next(iter(one_in_flight.values()))["calls"]
    lines = [
        *_render_one(one_in_flight),
        "",
        *_render_many(document["many_in_flight"]),
        "",
        f"Medians, and quartiles in brackets; {calls:,} calls of each. By hand takes {more} longer "
        f"than a bare gRPC stub with a message that was written before; measuring adds "
        f"{document['harness_us']:.1f} µs to a call. Python {document['python']}, grpcio "
        f"{packages['grpcio']}, tritonclient {packages['tritonclient']}; client and server share "
        f"{document['cpus']} processors.",
    ]
    return "\n".join(lines) + "\n"


def _render_one(measured: dict[str, Any]) -> list[str]:
    heading = ("one call at a time", "by hand", "SDK", "difference", "processor, by hand", "SDK",
               "ratio")  # fmt: skip
    rows: list[tuple[str, ...]] = [heading, ("---",) * len(heading)]
    for name, one in measured.items():
        cells = (
            name,
            _us(one["by_hand_us"]),
            _us(one["sdk_us"]),
            _spread(one["difference_us"], "+.0f", " µs"),
            _us(one["by_hand_cpu_us"]),
            _us(one["sdk_cpu_us"]),
            _spread(one["cpu_ratio"], ".2f"),
        )
        rows.append(cells)
    rows.append(("target", "", "", f"at most +{TARGET_US} µs", "", "", f"at most {TARGET_CPU}"))
    return [f"| {' | '.join(cells)} |" for cells in rows]


def _render_many(measured: dict[str, Any]) -> list[str]:
    heading = (f"{IN_FLIGHT} calls in flight, asyncio", "by hand", "SDK", "ratio",
               "processor, ratio")  # fmt: skip
    rows: list[tuple[str, ...]] = [heading, ("---",) * len(heading)]
    for name, many in measured.items():
        cells = (
            name,
            f"{many['by_hand_per_s']:.0f} /s",
            f"{many['sdk_per_s']:.0f} /s",
            _spread(many["ratio"], ".2f"),
            _spread(many["cpu_ratio"], ".2f"),
        )
        rows.append(cells)
    rows.append(("target", "", "", f"at least {TARGET_THROUGHPUT}", ""))
    return [f"| {' | '.join(cells)} |" for cells in rows]


class _Bare:
    """The least that a gRPC client in Python can do."""

    def __init__(self, asked: Asked) -> None:
        self._channel = grpc.insecure_channel(asked.url)
        infer = service_pb2_grpc.GRPCInferenceServiceStub(self._channel).ModelInfer
        inputs: dict[contract.Modality, bytes] = {"text": TEXT.encode()}
        if asked.image is not None:
            inputs["image"] = asked.image
        request = _wire.infer_request(
            contract.entry_point(asked.app, "classify", tuple(inputs)),
            inputs,
            request_id="",
        )
        self.ask = partial(infer, request, timeout=TIMEOUT_S)

    def __enter__(self) -> _Bare:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()


async def _block(call: AsyncCall, calls: int) -> None:
    left = iter(range(calls))

    async def work() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


def _order(count: int, turn: int) -> list[int]:
    return [(index + turn) % count for index in range(count)]


def _require_same(by_hand: Any, sdk: Any) -> None:
    """Both do the work, or nothing is compared."""
    ranking = [(ranked.label, ranked.probability) for ranked in sdk.ranking]
    if by_hand != ranking:
        raise RuntimeError(f"by hand: {by_hand}; SDK: {ranking}")


def _nothing() -> None:
    return


def _median_us(seconds: Sequence[float]) -> float:
    return 1e6 * statistics.median(seconds)


def _quartiles(values: Sequence[float]) -> Quartiles:
    low, middle, high = statistics.quantiles(values, n=4)
    return low, middle, high


def _difference_us(of: Sequence[float], less: Sequence[float]) -> Quartiles:
    return _quartiles([1e6 * (a - b) for a, b in zip(of, less, strict=True)])


def _ratio(above: Sequence[float], below: Sequence[float]) -> Quartiles:
    return _quartiles([a / b for a, b in zip(above, below, strict=True)])


def _spread(quartiles: Quartiles, form: str, unit: str = "") -> str:
    low, middle, high = quartiles
    return f"{middle:{form}}{unit} ({low:{form}} to {high:{form}})"


def _us(value: float) -> str:
    return f"{value:.0f} µs"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tritium_benchmarks.sdk.overhead",
        description="Compare the SDK with a hand-written tritonclient call.",
    )
    parser.add_argument("--url", help="host:port of a running server; none: start a quick one")
    parser.add_argument("--app", help="an app of that server, which classifies")
    parser.add_argument("--calls", type=int, default=4000, help="of each, one in flight")
    parser.add_argument("--blocks", type=int, default=80, help="of 1,000 calls each, 64 in flight")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", type=Path, help=f"folder for {NAME}.md and .json")
    options = parser.parse_args(arguments)
    if (options.url is None) != (options.app is None):
        parser.error("--url and --app go together")
    if min(options.calls, options.blocks) < 2:
        parser.error("--calls and --blocks must be at least 2")
    return options


if __name__ == "__main__":
    main()
