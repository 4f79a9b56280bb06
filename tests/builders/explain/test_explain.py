"""`tritium explain`: bundles of both kinds, what it refuses, and what it draws."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from tests.support.models import LABELS
from tests.support.pictures import png
from tritium_builders import Bundle
from tritium_builders.commands import register
from tritium_builders.errors import ExplainError
from tritium_builders.explain import Explanation, explain
from tritium_builders.explain.page import pieces, render_explanation
from tritium_builders.explain.picture import draw_explanation
from tritium_builders.explain.records import Method

TEXT = "  a <b>red</b> fox,\n on unbelievable $snow$  "
PICTURE = png(80, 60, 5)
SEEN = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def explanation(known: Bundle) -> Explanation:
    return explain(known, text=TEXT, image=PICTURE)


def test_an_answer_is_explained_with_each_modality_and_without(
    known: Bundle, explanation: Explanation
) -> None:
    assert explanation.method == "integrated_gradients"
    assert explanation.label == next(iter(explanation.best))
    assert explanation.output == max(explanation.best.values())
    assert explanation.text.without is not None
    assert explanation.image.without is not None
    assert explanation.text.share is not None is not explanation.image.share
    assert explanation.text.share + explanation.image.share == pytest.approx(1)
    total = sum(token.attribution for token in explanation.tokens) + np.sum(explanation.regions)
    assert explanation.baseline is not None
    assert explanation.baseline + total + (explanation.gap or 0) == pytest.approx(
        explanation.output
    )
    other = explain(known, text=TEXT, image=PICTURE, label=LABELS[2], method="gradient")
    assert other.label == LABELS[2]
    assert other.output == pytest.approx(explanation.best.get(LABELS[2], other.output))
    assert other.text.share is None  # gradients alone do not add up


def test_a_bundle_of_graphs_is_explained_by_its_answers(custom: Bundle) -> None:
    sample = custom.golden[0]
    found = explain(custom, text=sample.text, image=sample.image)
    assert found.method == "occlusion"
    assert found.label == sample.answer
    expected = dict(zip(custom.manifest.labels, sample.expected["text,image"], strict=True))
    assert found.output == pytest.approx(expected[found.label], abs=1e-4)
    alone = dict(zip(custom.manifest.labels, sample.expected["text"], strict=True))
    assert found.image.without == pytest.approx(alone[found.label], abs=1e-4)
    assert any(token.attribution for token in found.tokens)
    with pytest.raises(ExplainError, match="take --method occlusion"):
        explain(custom, text=TEXT, image=PICTURE, method="gradient")


def test_what_cannot_be_explained_is_said(known: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ExplainError, match="label 'lion' is not one of ant, bee"):
        explain(known, text=TEXT, image=PICTURE, label="lion")
    with pytest.raises(ExplainError, match="text: the text is empty"):
        explain(known, text=" ", image=PICTURE)
    with pytest.raises(ExplainError, match=r"image: .*; give another picture"):
        explain(known, text=TEXT, image=b"no picture")
    with pytest.raises(ExplainError, match=r"none\.png: cannot be read"):
        explain(known, text=TEXT, image=tmp_path / "none.png")
    embeds = Bundle(known.folder, known.manifest.model_copy(update={"task": "embedding"}))
    with pytest.raises(ExplainError, match="an app for embedding"):
        explain(embeds, text=TEXT, image=PICTURE)


def test_the_text_is_coloured_as_it_is(explanation: Explanation) -> None:
    found = pieces(explanation, TEXT)
    assert "".join(piece.text for piece in found) == TEXT
    assert max(piece.strength for piece in found) == 1
    coloured = [piece.text for piece in found if piece.attribution is not None]
    assert coloured[:2] == ["a", "<"]


def test_the_page_needs_nothing_else(explanation: Explanation) -> None:
    page = render_explanation(explanation, TEXT, SEEN).decode()
    assert "&lt;</mark>" in page
    assert "<b>red" not in page
    assert set(re.findall(r'(?:src|href)="([^"]{0,24})', page)) == {"data:image/webp;base64,U"}
    assert not re.search(r"<img(?![^>]*alt=\"[^\"])", page)
    assert f"Why {explanation.label}?" in page
    assert len(page) < 200_000


def test_the_picture_is_drawn_with_any_text(explanation: Explanation) -> None:
    picture = draw_explanation(explanation, TEXT * 20, SEEN)
    with Image.open(io.BytesIO(picture)) as opened:
        assert opened.size == (1350, 780)


def run(*arguments: str) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["explain", *arguments], env={"NO_COLOR": "1", "COLUMNS": "120"})


def test_the_command_draws_and_prints(known: Bundle, tmp_path: Path) -> None:
    picture = tmp_path / "fox.png"
    picture.write_bytes(PICTURE)
    asked = (str(known.folder), "--text", "a red fox", "--image", str(picture))
    for name, start in (("why.html", b"<!doctype html>"), ("why.png", b"\x89PNG")):
        out = tmp_path / "new" / name
        shown = run(*asked, "--method", "gradient", "--out", str(out))
        assert shown.exit_code == 0, shown.output
        assert "without the text" in shown.output
        assert out.read_bytes().startswith(start)
    printed = json.loads(run(*asked, "--method", "attention", "--json").stdout)
    assert Explanation.model_validate(printed).method == "attention"
    assert printed["regions"] == []


def test_wrong_usage_is_refused_before_the_work() -> None:
    nothing = ("none", "--text", "x", "--image", "none.png")
    assert run(*nothing, "--method", "magic").exit_code == 2
    refused = run(*nothing, "--out", "why.pdf")
    assert refused.exit_code == 2
    assert ".html or .png" in refused.output
    assert set(get_args(Method)) == {"integrated_gradients", "gradient", "attention", "occlusion"}
