"""How long importing the SDK takes, next to what it stands on.

    python -m tritium_benchmarks.sdk.import_time --runs 15

Each figure is of fresh processes, in the interpreter that runs this. The kinds take turns, so that
a machine that is busy for a while slows all of them. Each kind runs once more at first, uncounted,
to write its bytecode to a folder of this run: otherwise the compiler would be measured, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata

from tritium_benchmarks.results import to_json

IMPORTS = {
    "grpc + numpy": "import grpc, numpy",
    "tritonclient.grpc": "import tritonclient.grpc",
    "tritium_client.Client": "import tritium_client; tritium_client.Client",
}
"""What is measured -> its statements."""
PACKAGES = ("tritium", "grpcio", "numpy", "tritonclient", "protobuf")

_TIMED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m tritium_benchmarks.sdk.import_time", description="Time the SDK's import."
    )
    parser.add_argument("--runs", type=int, default=15, help="fresh processes of each kind")
    parser.add_argument("--json", action="store_true", help="every measured second, as JSON")
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    seconds = measure(options.runs)
    text = to_json(document(seconds)) if options.json else render(seconds)
    sys.stdout.write(text)


def measure(runs: int) -> dict[str, list[float]]:
    """Import each kind `runs` times.

    Args:
        runs: Fresh processes of each kind, at least 1.

    Returns:
        What was imported -> seconds of every run, in order.
    """
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    with tempfile.TemporaryDirectory(prefix="tritium-bytecode-") as folder:
        for statements in IMPORTS.values():
            _import_once(statements, folder)
        for _ in range(runs):
            for name, statements in IMPORTS.items():
                seconds[name].append(_import_once(statements, folder))
    return seconds


def render(seconds: Mapping[str, Sequence[float]]) -> str:
    """Write the seconds as a Markdown table, in milliseconds."""
    runs = min(len(values) for values in seconds.values())
    lines = [
        f"Python {platform.python_version()}, {runs} fresh processes of each, milliseconds:",
        "",
        "| import | median | fastest | slowest |",
        "| --- | --- | --- | --- |",
    ]
    for name, values in seconds.items():
        figures = (statistics.median(values), min(values), max(values))
        cells = " | ".join(f"{1000 * value:.0f}" for value in figures)
        lines.append(f"| `{name}` | {cells} |")
    return "\n".join(lines) + "\n"


def document(seconds: Mapping[str, Sequence[float]]) -> dict[str, object]:
    """What was measured, and with which versions."""
    return {
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "median_s": {name: statistics.median(values) for name, values in seconds.items()},
        "seconds": seconds,
    }


def _import_once(statements: str, bytecode: str) -> float:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", _TIMED.format(statements)],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return float(done.stdout)


if __name__ == "__main__":
    main()
