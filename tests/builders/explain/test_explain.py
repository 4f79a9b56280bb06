"""`tritium explain`: bundles of both kinds, what it refuses, and what it draws."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from tests.support.models import LABELS
from tests.support.pictures import png
from tests.support.tasks import TAGS, task_bundle
from tritium_builders import Bundle
from tritium_builders.commands import register
from tritium_builders.errors import ExplainError
from tritium_builders.explain import Explanation, explain
from tritium_builders.explain.answering import GraphAnswering, ModuleAnswering
from tritium_builders.explain.item import prepare_item
from tritium_builders.explain.page import pieces, render_explanation
from tritium_builders.explain.picture import draw_explanation
from tritium_builders.explain.records import Method
from tritium_builders.graphs import load_model, write_graphs

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
    with pytest.raises(ExplainError, match="an app for classification and tags no words"):
        explain(known, text=TEXT, image=PICTURE, word="fox")


@pytest.fixture(scope="module")
def tagging(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return task_bundle(tmp_path_factory.mktemp("tagging") / "bundle", "tagging")


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return task_bundle(tmp_path_factory.mktemp("embedding") / "bundle", "embedding")


@pytest.mark.parametrize("method", get_args(Method))
def test_the_tag_of_a_word_is_explained(tagging: Bundle, method: Method) -> None:
    sample = tagging.golden[0]
    found = explain(tagging, text=sample.text, image=sample.image, method=method)
    tags = np.array(sample.expected["text,image"]).reshape(-1, len(TAGS))
    surest = int(tags[:, 0].argmin())  # the first label is O
    assert found.word is not None
    assert found.word in sample.text
    assert found.best.keys() == set(TAGS)
    assert [found.best[tag] for tag in TAGS] == pytest.approx(tags[surest], abs=1e-4)
    assert found.label == TAGS[int(tags[surest].argmax())]
    alone = np.array(sample.expected["text"]).reshape(-1, len(TAGS))
    assert found.image.without == pytest.approx(alone[surest, TAGS.index(found.label)], abs=1e-4)
    assert found.text.without is None, "there are no words without a text"
    if found.baseline is not None:
        assert abs(found.gap or 0) < 0.02


def test_any_word_may_be_asked_for(tagging: Bundle) -> None:
    text = "a red fox ate a plum"
    found = explain(tagging, text=text, image=PICTURE, word="FOX", label=TAGS[1], method="gradient")
    assert (found.question, found.is_probability) == (f"fox: {TAGS[1]}", True)
    with pytest.raises(ExplainError, match=r"no word 'wolf'; it has a, red, fox"):
        explain(tagging, text=text, image=PICTURE, word="wolf")
    page = render_explanation(found, text, SEEN).decode()
    assert f"Why fox: {TAGS[1]}?" in page


@pytest.mark.parametrize("method", get_args(Method))
def test_the_similarity_of_text_and_picture_is_explained(embedding: Bundle, method: Method) -> None:
    sample = embedding.golden[0]
    found = explain(embedding, text=sample.text, image=sample.image, method=method)
    cosine = np.dot(sample.expected["text"], sample.expected["image"])
    assert (found.label, found.word) == ("similarity", None)
    assert found.output == pytest.approx(cosine, abs=1e-4)
    assert found.text.without is found.image.without is None
    if found.baseline is not None:
        assert abs(found.gap or 0) < 0.02
    assert draw_explanation(found, sample.text, SEEN).startswith(b"\x89PNG")
    assert "%" not in re.sub(
        r"<style>.*</style>",
        "",
        render_explanation(found, sample.text, SEEN).decode().split("<h1>")[1].split("</dl>")[0],
    )


def test_graphs_are_asked_as_modules_are(
    tagging: Bundle, embedding: Bundle, tmp_path: Path
) -> None:
    for bundle in (tagging, embedding):
        model = load_model(bundle)
        item = prepare_item(model, "a red fox ate a plum", PICTURE)
        if item.tagged is not None:
            item = replace(item, tagged=replace(item.tagged, place=2))
        folder = tmp_path / bundle.manifest.app
        folder.mkdir()
        graphs = write_graphs(bundle, folder)
        rows = torch.cat([item.ids, item.ids.clone()])
        rows[1, 2] = item.blank_token
        pixels = item.pixels.expand(2, -1, -1, -1)
        modules = ModuleAnswering(model, item.tagged)(rows, pixels)
        assert modules.shape == (2, len(bundle.manifest.labels) or 1)
        found = GraphAnswering(graphs, bundle.manifest, item.tagged)(rows, pixels)
        torch.testing.assert_close(found, modules, atol=1e-4, rtol=0)


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
