"""Pages show what `make bench` and `make bench-reduced` measured last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.benchmarks.records import record
from tests.docs.pages import ROOT
from tritium_benchmarks.errors import RecordError
from tritium_benchmarks.records import read_record
from tritium_benchmarks.report.pages import filled, main, parts
from tritium_benchmarks.report.write import to_html, to_markdown

RESULTS = ROOT / "benchmarks" / "results"
PICTURE = re.compile(r"data:image/[a-z+]+;base64,[A-Za-z0-9+/=]+")
"""Another processor draws the last digits of a curve otherwise."""
PAGES = [
    (ROOT / "README.md", "bench"),
    (ROOT / "docs" / "benchmarks.md", "bench"),
    (ROOT / "docs" / "precision.md", "reduced"),
]


@pytest.mark.parametrize(("page", "run"), PAGES, ids=lambda given: Path(given).name)
def test_the_page_shows_the_committed_run(page: Path, run: str) -> None:
    text = page.read_text("utf-8")
    assert text.count(f"<!-- {run}: ") == text.count(f"<!-- /{run} -->") >= 3
    assert filled(text, read_record(RESULTS / run), run) == text


@pytest.mark.parametrize("name", ["bench", "reduced"])
def test_the_committed_report_is_that_of_the_committed_run(name: str) -> None:
    run = read_record(RESULTS / name)
    assert run.ended == "complete"
    assert (RESULTS / name / "report.md").read_text("utf-8") == to_markdown(run)
    shown = (RESULTS / name / "report.html").read_text("utf-8")
    assert PICTURE.sub("picture", shown) == PICTURE.sub("picture", to_html(run))
    assert len(PICTURE.findall(shown)) == len(PICTURE.findall(to_html(run))) > 0


def test_the_reduced_run_is_of_a_precision_that_was_chosen() -> None:
    run = read_record(RESULTS / "reduced")
    release = run.manifest["release"]
    assert release["precision"] == release["choice"]["precision"] != "fp32"
    assert f"**{release['target']} {release['precision']}**" in parts(run)["choice"]


def test_pages_are_filled_in_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: comparison -->\nold\n<!-- /bench -->\nafter\n")
    (tmp_path / "run.json").write_text(record().model_dump_json())
    main([str(tmp_path), str(page)])
    expected = parts(record())["comparison"]
    assert page.read_text() == (
        f"before\n<!-- bench: comparison -->\n{expected}<!-- /bench -->\nafter\n"
    )
    with pytest.raises(RecordError, match="no part of a run is called 'nothing'"):
        filled("<!-- bench: nothing -->\n<!-- /bench -->", record())
