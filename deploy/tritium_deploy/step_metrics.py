"""What the steps inside every component `encoders` have done so far, in Prometheus' text format.

The stubs keep their counters in files, prometheus_client's multiprocess mode
(https://prometheus.github.io/client_python/multiprocess/). What a stub had counted when it died
stays in the sum.
"""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Tells prometheus_client in a stub where its counters go."""
CONTENT_TYPE = CONTENT_TYPE_LATEST


def exposition(folder: Path) -> bytes:
    """Sum up the counters of every stub that there was.

    Args:
        folder: Where they are kept.

    Returns:
        Prometheus' text; empty when the folder is gone.
    """
    if not folder.is_dir():
        return b""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return generate_latest(registry)
