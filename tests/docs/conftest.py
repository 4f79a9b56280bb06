"""A reader who has gone through the quickstart, for all pages that come after it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TrainedDemo
from tests.docs.pages import ROOT, Reader, page

MY_MODEL = """
from tests.support.models import LABELS as labels
from tests.support.models import custom_modules, examples as make_examples
from tritium_builders import TextPreprocessing
from tritium_builders.reference import FusionModel

modules = custom_modules()
bert, cnn, head = (modules[name] for name in ("text_encoder", "image_encoder", "fusion_head"))
tokenizer = modules["tokenizer"]
examples = [(sample.text, sample.image) for sample in make_examples()]
model = FusionModel(bert, cnn, head, tokenizer, TextPreprocessing(), modules["image_preprocessing"])


def predict(text, image):
    return model.answer(text, image, [["text", "image"]]).values["text,image"]
"""


class Site:
    """What the quickstart leaves a reader with: a trained, built and served demo app."""

    def __init__(self, reader: Reader, quickstart: dict[str, Any]) -> None:
        self.reader = reader
        self.quickstart = quickstart


@pytest.fixture(scope="session")
def site(demo: TrainedDemo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Follow the quickstart, command lines included, and leave its server running."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(demo.folder, folder / "bundles" / "openmoji")
    with Reader(folder) as reader:
        yield Site(reader, reader.follow(page("docs/quickstart.md"), shell=True))


@pytest.fixture
def belongings(site: Site, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a reader of the README has: a picture, and a model of their own."""
    folder = site.reader.folder
    shutil.copyfile(folder / "picture.png", folder / "apple.png")
    (folder / "my_model.py").write_text(MY_MODEL, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return folder
