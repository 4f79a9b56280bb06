"""docs/capacity-planning.md shows what `make capacity-table` measured and simulated last."""

from __future__ import annotations

from tests.docs.pages import ROOT
from tritium_benchmarks.capacity.scenarios import COMPARED, WEATHERS
from tritium_benchmarks.capacity.show import tail_picture
from tritium_benchmarks.capacity.table import PICTURE, Policies, places
from tritium_benchmarks.capacity.validated import Validation, error_of, known_error
from tritium_benchmarks.records import read_kept
from tritium_benchmarks.report.pages import fill_places

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "capacity-planning.md"
VALIDATION = read_kept(Validation, RESULTS / "capacity.json", "make capacity-table")
POLICIES = read_kept(Policies, RESULTS / "capacity_policies.json", "make capacity-table")


def test_the_page_shows_what_was_measured_and_simulated() -> None:
    text, shown = PAGE.read_text("utf-8"), places(VALIDATION, POLICIES)
    assert text.count("<!-- capacity: ") == len(shown)
    assert fill_places(text, "capacity", shown) == text
    drawn = (PAGE.parent / "images" / PICTURE).read_text("utf-8")
    assert drawn == tail_picture(POLICIES.tails)


def test_everything_was_compared() -> None:
    assert {place.servers for place in VALIDATION.places} == {1, 2, 3}
    assert len(VALIDATION.demo_places) >= 4
    assert {tail.policy for tail in POLICIES.troubles} == set(COMPARED)
    assert {tail.what for tail in POLICIES.troubles} == set(WEATHERS)
    assert max(tail.replicas for tail in POLICIES.sizes) >= 9999
    assert (POLICIES.rps, POLICIES.p99_ms) == (2000, 80)


def test_plans_quote_the_committed_comparison() -> None:
    assert known_error() == error_of(VALIDATION.places)
    assert str(known_error()) in "".join(POLICIES.lines)
