"""A workload's requests as perf_analyzer reads them.

Source: Triton's perf_analyzer documentation, "Input data", "Real input data".
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from pathlib import Path

from tritium_benchmarks.inputs import Request, common_modalities
from tritium_client import contract


def write_input_data(requests: Sequence[Request], path: Path) -> Path:
    """Write the requests of one entry point; they are sent in this order, over and over.

    Args:
        requests: All with the same modalities.
        path: The JSON file to write.

    Raises:
        ValueError: requests of several entry points; perf_analyzer asks one model at a time.
    """
    if common_modalities(requests) is None:
        raise ValueError("perf_analyzer asks one entry point at a time; split the requests first")
    document = {"data": [_entry(request) for request in requests]}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def _entry(request: Request) -> dict[str, object]:
    entry: dict[str, object] = {}
    if request.text is not None:
        entry[contract.TEXT] = _bytes(request.text.encode())
    if request.image is not None:
        entry[contract.IMAGE] = _bytes(request.image)
    return entry


def _bytes(content: bytes) -> dict[str, object]:
    # Base64 is taken as a tensor's raw content: an element of BYTES has its length in front.
    raw = struct.pack("<I", len(content)) + content
    return {"content": {"b64": base64.b64encode(raw).decode()}, "shape": [1]}
