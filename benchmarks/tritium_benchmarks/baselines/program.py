"""What every baseline's command line has in common.

python -m tritium_benchmarks.baselines.fastapi_pytorch bundles/openmoji --port 8100
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Options:
    """What to serve, and where."""

    bundle: Path
    graphs: Path
    """The bundle's ONNX graphs."""
    port: int
    bf16: bool
    """Whether Tritium's release is in bfloat16, and its twin is to be."""


@contextmanager
def options(about: str, arguments: Sequence[str] | None = None) -> Iterator[Options]:
    """Read a baseline's arguments; graphs that nobody gave are written for as long as it runs.

    Args:
        about: The program, in a sentence.
        arguments: None for the process's own.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--port", type=int, required=True, help="on 127.0.0.1")
    parser.add_argument("--graphs", type=Path, help="the bundle's ONNX graphs, if there are some")
    parser.add_argument("--bf16", action="store_true", help="for Tritium's twin: its precision")
    given = parser.parse_args(arguments)
    if given.graphs is not None:
        yield Options(given.bundle, given.graphs, given.port, given.bf16)
        return
    # PyTorch is slow to import, and few baselines need it.
    from tritium_builders.bundle import Bundle
    from tritium_builders.graphs import write_graphs

    with tempfile.TemporaryDirectory(prefix="tritium-graphs-") as folder:
        write_graphs(Bundle.load(given.bundle), Path(folder))
        yield Options(given.bundle, Path(folder), given.port, given.bf16)
