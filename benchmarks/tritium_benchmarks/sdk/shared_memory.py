"""What shared memory saves for large pictures, next to plain gRPC.

    python -m tritium_benchmarks.sdk.shared_memory bundles/openmoji

The app is built and served for the measurement, or `--url` names a server that has it. One request
in flight; the two transports take turns, so that a machine that is busy for a while slows both. The
pictures are made here: a PNG of noise and a BMP, which are large and quick to decode, and a JPEG of
12 megapixels, which is what a telephone sends.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tritium_benchmarks.results import write_results
from tritium_builders import Bundle, build
from tritium_client import Client
from tritium_deploy import Ports, serve

TARGET = 0.8
"""Of plain gRPC's latency, for `transport="auto"` to choose shared memory."""
NAME = "sdk_shared_memory"


@dataclass(frozen=True)
class Row:
    """One picture; medians."""

    picture: str
    megabytes: float
    grpc_ms: float
    shared_ms: float
    ratio: float
    """Median of the ratios of neighbouring calls."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write it where asked."""
    parser = argparse.ArgumentParser(
        prog="python -m tritium_benchmarks.sdk.shared_memory",
        description="Compare the transports of the SDK for large pictures.",
    )
    parser.add_argument("bundle", type=Path, help="what is built and served")
    parser.add_argument("--url", help="a server on this host that serves it already")
    parser.add_argument("--rounds", type=int, default=100, help="calls of each kind")
    parser.add_argument("--out", type=Path, help=f"folder for {NAME}.json and {NAME}.md")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    with serving(options.bundle, options.url) as (url, app):
        rows = measure(url, app, options.rounds)
    table = render(rows)
    sys.stdout.write(table)
    if options.out is not None:
        document = {"rounds": options.rounds, "rows": [asdict(row) for row in rows]}
        write_results(options.out, NAME, document, table)


@contextmanager
def serving(folder: Path, url: str | None) -> Iterator[tuple[str, str]]:
    """The address of a server that has a bundle's app, and the app's name."""
    bundle = Bundle.load(folder)
    app = bundle.manifest.app
    if url is not None:
        yield url, app
        return
    with tempfile.TemporaryDirectory(prefix="tritium-shared-memory-") as repository:
        build(bundle, target="openvino", repository=repository)
        with serve(repository, ports=Ports.free()) as server:
            yield server.grpc_url, app


def measure(url: str, app: str, rounds: int) -> list[Row]:
    """Send each picture `rounds` times over each transport, in turns."""
    rows = []
    with (
        Client(url, app=app, transport="grpc") as plain,
        Client(url, app=app, transport="shared_memory") as shared,
    ):
        for name, data in pictures().items():
            seconds: dict[Client, list[float]] = {plain: [], shared: []}
            for turn in range(rounds + 3):
                for client, times in seconds.items():
                    began = time.perf_counter()
                    client.classify(image=data, timeout_s=30)
                    if turn >= 3:  # the first ones warm up
                        times.append(time.perf_counter() - began)
            pairs = zip(seconds[shared], seconds[plain], strict=True)
            rows.append(
                Row(
                    picture=name,
                    megabytes=len(data) / 1e6,
                    grpc_ms=1000 * statistics.median(seconds[plain]),
                    shared_ms=1000 * statistics.median(seconds[shared]),
                    ratio=statistics.median(ours / theirs for ours, theirs in pairs),
                )
            )
    return rows


def pictures() -> dict[str, bytes]:
    """Name -> encoded picture, 2 to 3 MB each; the same in every run."""
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (830, 830, 3), dtype=np.uint8))
    x, y = np.meshgrid(np.linspace(0, 6, 4000), np.linspace(0, 6, 3000))
    waves = 128 + 100 * np.stack([np.sin(3 * x), np.cos(5 * y), np.sin(x * y)], axis=2)
    grain = np.clip(waves + random.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)
    return {
        "PNG, 830x830, noise": encode(noise, "PNG"),
        "BMP, 830x830": encode(noise, "BMP"),
        "JPEG, 4000x3000": encode(Image.fromarray(grain), "JPEG"),
    }


def encode(picture: Image.Image, kind: str) -> bytes:
    """Encode a picture with Pillow's defaults."""
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def render(rows: Sequence[Row]) -> str:
    """The table, in Markdown."""
    lines = ["| picture | size | gRPC | shared memory | ratio |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row.picture} | {row.megabytes:.1f} MB | {row.grpc_ms:.1f} ms "
        f"| {row.shared_ms:.1f} ms | {row.ratio:.2f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
