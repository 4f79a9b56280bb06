"""The page of a training: whole, self-contained, readable without pictures, and not too large."""

from __future__ import annotations

import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from tritium_builders import Bundle
from tritium_builders.commands import register
from tritium_builders.reports.content import PageContent
from tritium_builders.reports.page import read_content, render_page
from tritium_builders.reports.thumbnails import MAX_BYTES, thumbnail
from tritium_builders.training.curves import Curve
from tritium_builders.training.report import LabelScores, TrainingReport

VOID = {"meta", "img", "br", "link", "input"}
MAX_PAGE = 2_000_000


class Reader(HTMLParser):
    """Reads a page as a browser and as somebody who does not see it."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.unnamed: list[str] = []
        self.text = ""
        self.feed(page.decode())
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        own = dict(attributes)
        assert tag not in ("script", "link", "iframe"), "the page needs nothing else"
        if tag not in VOID:
            self.open.append(tag)
        if "id" in own:
            self.ids.append(str(own["id"]))
        for name in ("href", "src", "xlink:href"):
            if name in own:
                self.targets.append(str(own[name]))
        named = own.get("alt") if tag == "img" else own.get("aria-label")
        if (tag == "img" or own.get("role") in ("img", "region")) and not named:
            self.unnamed.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def content(bundle: Bundle) -> PageContent:
    return read_content(bundle.folder)


def changed(content: PageContent, **report: object) -> PageContent:
    """The same page with other figures."""
    values = {**vars(content), "report": content.report.model_copy(update=report)}
    return PageContent(**values)


def test_the_page_in_the_bundle_can_be_written_again(bundle: Bundle, content: PageContent) -> None:
    assert "report.html" in bundle.manifest.files
    assert render_page(content) == (bundle.folder / "report.html").read_bytes()


def test_the_page_needs_nothing_else(bundle: Bundle) -> None:
    page = (bundle.folder / "report.html").read_bytes()
    reader = Reader(page)
    assert all(target.startswith(("#", "data:image/webp;base64,")) for target in reader.targets)
    assert all(target.startswith(b"#") for target in re.findall(rb"url\(([^)]*)\)", page))
    assert b"@import" not in page
    assert len(page) < MAX_PAGE


def test_the_page_reads_well_without_seeing_it(bundle: Bundle) -> None:
    reader = Reader((bundle.folder / "report.html").read_bytes())
    assert reader.unnamed == []
    assert len(reader.ids) == len(set(reader.ids))
    assert {target for target in reader.targets if target.startswith("#")} <= {
        f"#{id_}" for id_ in reader.ids
    }


def test_the_page_says_what_the_report_says(bundle: Bundle, content: PageContent) -> None:
    text = Reader((bundle.folder / "report.html").read_bytes()).text
    report = content.report
    assert isinstance(report, TrainingReport)
    details = report.single_label
    assert details is not None
    assert f"{100 * report.fusion.mean:.1f}" in text
    assert f"{details.reliability.calibration_error:.3f}" in text
    for label, row in report.by_label.items():
        assert label.removesuffix(" avg") in text
        assert f"{row.f1:.2f}" in text
    for example in details.examples:
        assert example.text in text
    for title in ("When a modality is missing", "How it learned", "What is taken for what"):
        assert title in text
    assert f"torch {report.versions['torch']}" in text
    assert '"app": "small"' in text  # the recipe


def test_words_of_users_are_words_and_no_markup(content: PageContent) -> None:
    evil = '<script>alert("1")</script> $x^2$ & more'
    assert isinstance(content.report, TrainingReport)
    details = content.report.single_label
    assert details is not None
    example = details.examples[0].model_copy(update={"text": evil, "label": evil})
    page = render_page(
        changed(
            content,
            app=evil,
            by_label={evil: LabelScores(precision=1, recall=1, f1=1, items=1)},
            single_label=details.model_copy(update={"examples": [example]}),
        )
    )
    assert Reader(page).text.count(evil) >= 3


def test_a_page_of_many_labels_and_long_trainings_stays_small(content: PageContent) -> None:
    row = LabelScores(precision=0.5, recall=0.5, f1=0.5, items=3)
    labels = [f"a label with a long name {number}" for number in range(3000)]
    assert isinstance(content.report, TrainingReport)
    details = content.report.single_label
    assert details is not None
    confusion = {label: {labels[0]: 2, label: 1} for label in labels}
    line = [0.123456] * 2000
    curves = [
        Curve(
            seed=seed, best_epoch=1500, stages=[2000],
            training_loss=line, validation_loss=line, score=line,
        )
        for seed in range(10)
    ]  # fmt: skip
    large = changed(
        content,
        by_label=dict.fromkeys(labels, row),
        single_label=details.model_copy(update={"confusion": confusion}),
        curves={"fusion": curves},
    )
    page = render_page(PageContent(**{**vars(large), "labels": labels}))
    assert len(page) < MAX_PAGE
    text = Reader(page).text
    assert "the other 2\N{NARROW NO-BREAK SPACE}800 are in report.json" in text
    assert "too many for a matrix" in text


def test_a_report_of_an_earlier_version_has_a_page(content: PageContent) -> None:
    old = changed(content, single_label=None, curves={}, versions={})
    text = Reader(render_page(old)).text
    assert "Label by label" in text
    assert "How it learned" not in text


def encoded(pixels: npt.NDArray[np.uint8], kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def test_thumbnails_are_small_whatever_the_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 1200, 4), dtype=np.uint8)
    address = thumbnail(encoded(noise, "PNG"))
    assert address is not None
    assert len(address) <= 4 * MAX_BYTES / 3 + 40
    assert thumbnail(encoded(noise[..., :3], "JPEG")) is not None
    assert thumbnail(b"no picture") is None
    assert thumbnail(encoded(noise, "PNG")[:500]) is None


def run(*arguments: str) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, list(arguments))


def test_report_writes_the_page(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    done = run("report", str(bundle.folder), "--open")
    assert done.exit_code == 0, done.output
    page = tmp_path / "small-report.html"
    assert page.read_bytes() == (bundle.folder / "report.html").read_bytes()
    assert opened == [page.as_uri()]


def test_report_says_why_there_is_no_page(bundle: Bundle, tmp_path: Path) -> None:
    def refused(*arguments: str) -> str:
        done = run("report", *arguments)
        assert done.exit_code == 1
        return str(done.exception)

    assert "is not a folder" in refused(str(tmp_path / "none"))
    assert "choose another file" in refused(str(bundle.folder), "--out", str(tmp_path))
    copy = Path(shutil.copytree(bundle.folder, tmp_path / "copy"))
    (copy / "report.json").write_text('{"app": 3}')
    assert "report.json: app" in refused(str(copy))
    (copy / "report.json").unlink()  # as in a bundle of somebody's own modules
    assert "report.json: cannot be read" in refused(str(copy))
    assert "`tritium train` wrote" in refused(str(copy))
