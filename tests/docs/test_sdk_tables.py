"""The figures of the SDK's pages are those that `make sdk-table` wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.docs.pages import ROOT
from tritium_benchmarks.sdk import envoy_hop, faults, overhead, shared_memory

RESULTS = ROOT / "benchmarks" / "results"


@pytest.mark.parametrize(
    ("name", "page", "render"),
    [
        ("overhead", "calling-an-app.md", overhead.render),
        ("faults", "deadlines-and-retries.md", faults.render),
        ("envoy_hop", "envoy.md", envoy_hop.render),
    ],
)
def test_the_page_shows_what_was_measured(
    name: str, page: str, render: Callable[[Any], str]
) -> None:
    written = (RESULTS / f"sdk_{name}.md").read_text(encoding="utf-8")
    assert render(json.loads((RESULTS / f"sdk_{name}.json").read_text(encoding="utf-8"))) == written
    source = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert written.strip() in source
    assert f"`python -m tritium_benchmarks.sdk.{name} --out benchmarks/results`" in source


def test_the_page_shows_what_shared_memory_saves() -> None:
    written = (RESULTS / "sdk_shared_memory.md").read_text(encoding="utf-8")
    document = json.loads((RESULTS / "sdk_shared_memory.json").read_text(encoding="utf-8"))
    rows = [shared_memory.Row(**row) for row in document["rows"]]
    assert shared_memory.render(rows) == written
    assert written.strip() in (ROOT / "docs" / "calling-an-app.md").read_text(encoding="utf-8")
    # Below this, `transport="auto"` would have to choose shared memory.
    assert min(row.ratio for row in rows) > shared_memory.TARGET


def test_targets_are_met() -> None:
    document = json.loads((RESULTS / "sdk_overhead.json").read_text(encoding="utf-8"))
    for one in document["one_in_flight"].values():
        assert one["difference_us"][1] <= overhead.TARGET_US
        assert round(one["cpu_ratio"][1], 2) <= overhead.TARGET_CPU
    for many in document["many_in_flight"].values():
        assert round(many["ratio"][1], 2) >= overhead.TARGET_THROUGHPUT
    rows = json.loads((RESULTS / "sdk_faults.json").read_text(encoding="utf-8"))
    assert max(row["late_ms"] for row in rows) <= faults.LATE_MS
    for row in rows:
        if "killed" in row["fault"]:
            assert set(row["outcomes"]) == {"answer"}
