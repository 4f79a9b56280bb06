"""Turn the client's async source into its sync twin: `make sync-client`.

tritium_client/_async is written by hand and tritium_client/_sync comes from it; only `_io.py`,
`many.py` and `race.py` are written twice. A test runs this and compares.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import unasync

PACKAGE = Path(__file__).parents[1] / "client" / "tritium_client"
GENERATED = (
    "catalog.py",
    "client.py",
    "connection.py",
    "mock.py",
    "pool.py",
    "routing.py",
    "sender.py",
    "shared_memory.py",
    "transport.py",
)
NAMES = {
    "AsyncCatalog": "Catalog",
    "AsyncClient": "Client",
    "AsyncConnection": "Connection",
    "AsyncRouter": "Router",
    "AsyncSender": "Sender",
    "AsyncTransport": "Transport",
    "AsyncGrpcTransport": "GrpcTransport",
    "AsyncMockTransport": "MockTransport",
    "AsyncPoolTransport": "PoolTransport",
    "AsyncSharedMemoryTransport": "SharedMemoryTransport",
    "_async": "_sync",
}
HEADER = "# Generated from tritium_client/_async by tools/generate_sync.py: change it there.\n"


def generate(target: Path) -> list[Path]:
    """Write the sync twin.

    Args:
        target: The folder that becomes `_sync`.

    Returns:
        What was written.
    """
    source = PACKAGE / "_async"
    rule = unasync.Rule(f"{source}/", f"{target}/", NAMES)
    unasync.unasync_files([str(source / name) for name in GENERATED], [rule])
    written = [target / name for name in GENERATED]
    for path in written:
        text = path.read_text(encoding="utf-8")
        # Names within docstrings and comments, which unasync leaves as they are.
        for old, new in (
            ("AsyncClient", "Client"),
            ("AsyncMockTransport", "MockTransport"),
            ("AsyncGrpcTransport", "GrpcTransport"),
            ("AsyncTransport", "Transport"),
            ("async with", "with"),
            ("await ", ""),
        ):
            text = text.replace(old, new)
        path.write_text(HEADER + text, encoding="utf-8")
    config = ["--config", str(PACKAGE.parents[1] / "pyproject.toml")]
    for command in (["format", "-q"], ["check", "-q", "--fix"], ["format", "-q"]):
        ruff = [sys.executable, "-m", "ruff", command[0], *config, *command[1:]]
        subprocess.run([*ruff, *map(str, written)], check=True)
    return written


if __name__ == "__main__":
    for one in generate(PACKAGE / "_sync"):
        print(one.relative_to(PACKAGE.parents[1]))  # noqa: T201
