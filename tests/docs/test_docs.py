"""What the documentation shows runs, what it names exists, and what it links to is there."""

from __future__ import annotations

import io
import os
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import tomllib
from PIL import Image
from typer.main import get_command

import tritium_client
from tests.docs.conftest import Site
from tests.docs.pages import BIN, PAGES, ROOT, Block, Page, Reader, page
from tritium_builders.data.problems import Problems
from tritium_builders.data.records import NAMES, read_records
from tritium_builders.training.recipe import ManifestTable, load_recipe
from tritium_client import Client, TritiumClientError
from tritium_client.cli import build_app
from tritium_deploy.rollout import RolloutSettings, read_settings

QUICKSTART = page("docs/quickstart.md")
OWN_MODEL = page("docs/bring-your-own-model.md")
OWN_DATA = page("docs/your-own-data.md")
FOLLOWED_ALONE = (QUICKSTART, OWN_MODEL)
WITH_COMMANDS = (page("docs/calling-an-app.md"),)
"""Their command lines are followed as well: one builds on what the other left."""
OTHER_LANGUAGES = page("docs/other-languages.md")
"""test_other_languages.py follows it, block by block."""
RUNBOOK = page("docs/runbook.md")
"""tests/runbook follows it, on a machine of its own."""
SHELL_BLOCKS = [
    block
    for one in PAGES
    if one not in (OTHER_LANGUAGES, RUNBOOK)
    for block in one.blocks
    if block.language == "bash"
]
TOML_BLOCKS = [block for one in PAGES for block in one.blocks if block.language == "toml"]
PAGES_WITH_PYTHON = [
    one
    for one in PAGES
    if one not in FOLLOWED_ALONE and any(block.language == "python" for block in one.blocks)
]


def name_of(item: Page | Block) -> str:
    return item.name if isinstance(item, Page) else f"{item.page.name}:{item.line}"


@pytest.mark.e2e
def test_the_quickstart_ends_with_a_served_answer(site: Site) -> None:
    answer, sample = site.quickstart["answer"], site.quickstart["sample"]
    assert answer.release == 1
    assert sample.label in {ranked.label for ranked in answer.ranking}


@pytest.mark.e2e
@pytest.mark.usefixtures("belongings")
@pytest.mark.parametrize("one", PAGES_WITH_PYTHON, ids=name_of)
def test_the_python_of_a_page_runs(one: Page, site: Site) -> None:
    site.reader.follow(one, shell=one in WITH_COMMANDS)


@pytest.mark.e2e
def test_a_model_that_nobody_knows_gets_its_own_answers_back(tmp_path: Path) -> None:
    with Reader(tmp_path) as reader:
        left = reader.follow(OWN_MODEL, shell=True)
        assert left["release"].number == 1
        assert not (tmp_path / "bundles" / "wrong").exists()
        with Client(reader.url, app="colours") as client:
            assert client.server_status().version  # Triton's own
            for seed in range(12):
                text, image = f"number {seed} " * (1 + 5 * (seed % 3)), noisy_jpeg(seed)
                answer = client.classify(text=text, image=image, timeout_s=10)
                np.testing.assert_allclose(
                    answer.probabilities, left["predict"](text, image), atol=1e-4
                )


def noisy_jpeg(seed: int) -> bytes:
    """A picture of a kind and size that the page's examples do not have."""
    size = (30 + 17 * seed, 150 - 9 * seed, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def test_every_fenced_block_is_of_a_kind_that_is_tested() -> None:
    blocks = [block for one in PAGES if one is not OTHER_LANGUAGES for block in one.blocks]
    kinds = {"python", "bash", "toml", "text"}  # text: what a program prints
    assert [name_of(block) for block in blocks if block.language not in kinds] == []


def test_settings_that_the_text_shows_are_read(tmp_path: Path) -> None:
    shown = [block for block in TOML_BLOCKS if not is_recipe(block)]
    assert shown
    for block in shown:
        path = tmp_path / "rollout.toml"
        path.write_text(block.code)
        assert read_settings(path) != RolloutSettings(), name_of(block)


def test_recipes_that_the_text_shows_are_read(tmp_path: Path) -> None:
    """Whole ones as they are; tables of one in the place of the demo recipe's."""
    shown = [block for block in TOML_BLOCKS if is_recipe(block)]
    assert any("app" in tomllib.loads(block.code) for block in shown)
    demo = tomllib.loads((ROOT / "recipes" / "openmoji.toml").read_text(encoding="utf-8"))
    path = tmp_path / "recipe.toml"
    for block in shown:
        content = tomllib.loads(block.code)
        path.write_text(block.code if "app" in content else tomli_w.dumps(demo | content))
        table = load_recipe(path).data
        assert isinstance(table, ManifestTable), name_of(block)


def test_manifests_that_the_text_shows_are_read(tmp_path: Path) -> None:
    shown = [block for block in OWN_DATA.blocks if block.code.startswith("text,image,label")]
    assert shown
    for block in shown:
        path = tmp_path / "pairs.csv"
        path.write_text(block.code)
        there, records = read_records(path, {name: name for name in NAMES}, Problems(path.name))
        assert there == {"text", "image", "label"}
        assert len(records) == len(block.code.splitlines()) - 1


def is_recipe(block: Block) -> bool:
    """Whether a TOML block shows a recipe or tables of one; else it is rollout.toml."""
    return "data" in tomllib.loads(block.code)


@pytest.mark.parametrize("block", SHELL_BLOCKS, ids=name_of)
def test_shell_lines_are_understood(block: Block) -> None:
    for words in block.commands:
        if words[0] == "tritium":
            verb, rest = verb_of(words[1:])
            verb.make_context(words[1], rest).close()  # raises for wrong usage
        elif words[0] == "make":
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{re.escape(words[1])}:", makefile, re.MULTILINE), words
        else:
            assert words == ["source", ".venv/bin/activate"]


@cache
def verbs() -> dict[str, Any]:
    app, missing = build_app()
    assert missing == []
    commands: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    return commands


def every_verb() -> list[Any]:
    found: list[Any] = []
    for verb in verbs().values():
        found += verb.commands.values() if hasattr(verb, "commands") else [verb]
    return found


def verb_of(words: Sequence[str]) -> tuple[Any, list[str]]:
    """The verb that words name, of a group the one in it, and what is left of them."""
    verb, *rest = words
    found = verbs()[verb]
    while hasattr(found, "commands"):
        found, rest = found.commands[rest[0]], rest[1:]
    return found, rest


def options(verb: Any) -> set[str]:
    given = (name for option in verb.params for name in (*option.opts, *option.secondary_opts))
    return {"--help", *given}


@pytest.mark.parametrize("one", PAGES, ids=name_of)
def test_verbs_and_options_in_the_text_exist(one: Page) -> None:
    every_option = set().union(*map(options, every_verb()))
    for code in one.inline_code:
        if re.match(r"tritium [a-z]", code):
            words = code.split()[1:]
            if words in (["bench"], ["rollout"]):  # all of the group
                continue
            verb, rest = verb_of(words)
            given = {word for word in rest if word.startswith("--")}
            assert given <= options(verb), code
        elif re.match(r"--[a-z]", code):
            assert code.split()[0] in every_option, code


@pytest.mark.parametrize("one", PAGES, ids=name_of)
def test_links_lead_somewhere(one: Page) -> None:
    for target in one.targets:
        if not re.match(r"https?://", target):
            file = one.path.parent / target.partition("#")[0]
            assert file.exists(), f"{one.name} links to {target}"


def test_files_that_the_text_names_exist() -> None:
    named = {
        (one.name, code)
        for one in PAGES
        for code in one.inline_code
        if re.fullmatch(r"(builders|tests|deploy|recipes|tools)/[\w/.-]+", code)
    }
    assert named
    assert [(where, path) for where, path in named if not (ROOT / path).exists()] == []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [str(BIN / "mkdocs"), "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_mkdocs_builds_without_a_warning(built: Path) -> None:
    assert (built / "bring-your-own-model" / "index.html").exists()


def test_the_reference_shows_every_public_name_and_no_private_member(built: Path) -> None:
    page_source = (built / "reference" / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'<h[34] id="tritium_client\.([\w.]+)"', page_source)
    assert {name for name in shown if "." not in name} == set(tritium_client.__all__)
    for client in (Client, tritium_client.AsyncClient):
        methods = {name for name in vars(client) if not name.startswith("_")}
        assert {f"{client.__name__}.{name}" for name in methods} <= set(shown)
    assert [name for name in shown if re.search(r"[A-Z]\w*\._", name)] == []
    assert [name for name in shown if shown.count(name) > 1] == []


def test_the_page_on_errors_says_of_each_what_to_do() -> None:
    source = (ROOT / "docs" / "errors-and-inputs.md").read_text(encoding="utf-8")
    heading, _, rest = source.partition("| exception |")[2].partition("\n")
    assert heading.split(" | ")[0].strip() == "cause"
    lines = rest.partition("\n\n")[0].splitlines()[1:]
    table = {cells[1].strip("` "): cells[2:-1] for cells in (line.split("|") for line in lines)}
    public = {name: getattr(tritium_client, name) for name in tritium_client.__all__}
    errors = {
        name: error
        for name, error in public.items()
        if isinstance(error, type) and issubclass(error, TritiumClientError)
    }
    assert set(table) == set(errors)
    for name, cells in table.items():
        assert all(cell.strip() for cell in cells), name
        assert errors[name].retryable == (cells[-1].strip() == "yes"), name
