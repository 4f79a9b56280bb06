"""docs/chaos.md shows the committed run, and names every blow."""

from __future__ import annotations

import json
import re

import pytest

from tests.deploy.chaos.blows import BLOWS
from tests.deploy.chaos.summary import PAGE, RESULTS, render
from tritium_benchmarks.report.pages import fill_places

TEXT = PAGE.read_text(encoding="utf-8")


def test_every_blow_is_described() -> None:
    described = re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE)
    assert described == [blow.__name__ for blow in BLOWS]


@pytest.mark.skipif(not RESULTS.exists(), reason="no long run is committed")
def test_the_page_shows_the_committed_run() -> None:
    seen = json.loads(RESULTS.read_bytes())
    assert fill_places(TEXT, "chaos", {"ledger": render(seen)}) == TEXT
    assert seen["asked"] == seen["answered"] + seen["failed"]
    assert seen["broken"] == 0
    assert set(seen["blows"]) == {blow.__name__ for blow in BLOWS}
    assert seen["seconds"] >= 1800
