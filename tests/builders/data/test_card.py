"""Data cards: what they count, and what they warn of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.manifests import Pair, load, pairs, write_jsonl
from tests.support.pictures import jpeg
from tritium_builders.data.card import DataCard, Spread, make_card, normalised, render_card
from tritium_builders.data.dataset import Side


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def sides_of(rows: Sequence[object]) -> list[Side]:
    """Thirds: train, validation, test."""
    third = len(rows) // 3
    return [*["train"] * third, *["validation"] * third, *["test"] * third]  # type: ignore[list-item]


def card_of(folder: Path, rows: list[Pair], **arguments: object) -> DataCard:
    loaded = load(write_jsonl(folder / "p.jsonl", rows), least_groups=1, skip_bad_images=True)
    items = loaded.dataset.items
    given = {"sides": sides_of(items), "tokens": [5] * len(items), "max_tokens": 40}
    return make_card(loaded, **{**given, **arguments})  # type: ignore[arg-type]


def test_a_card_counts_labels_on_each_side(tmp_path: Path) -> None:
    card = card_of(tmp_path, pairs(tmp_path))
    assert card.items == 12
    assert card.sides == {"train": 4, "validation": 4, "test": 4}
    assert card.labels["cat"].model_dump() == {
        "train": 2, "validation": 1, "test": 1, "share": 0.3333,
    }  # fmt: skip
    assert card.imbalance == 1
    assert card.splits == "folds"
    assert card.notes == []


def test_lengths_sizes_and_formats(tmp_path: Path) -> None:
    rows = pairs(tmp_path)
    (tmp_path / rows[0]["image"]).write_bytes(jpeg(300, 200))
    rows[1]["text"] = "x" * 500
    card = card_of(tmp_path, rows, tokens=[*range(3, 13), 41, 70])
    assert card.texts.characters.max == 500
    assert card.texts.tokens.model_dump() == {"min": 3, "median": 8, "p95": 70, "max": 70}
    assert card.texts.cut == 2
    assert card.notes == ["2 texts are longer than 40 tokens and are cut"]
    assert card.images.formats == {"JPEG": 1, "PNG": 11}
    assert (card.images.width.min, card.images.width.max) == (21, 300)
    assert card.images.height.max == 200
    sizes = [(tmp_path / row["image"]).stat().st_size for row in rows]
    assert card.images.bytes.max == max(sizes)


def test_figures_of_a_spread_occur() -> None:
    assert Spread.of([7]).model_dump() == {"min": 7, "median": 7, "p95": 7, "max": 7}
    spread = Spread.of(list(range(1, 101)))
    assert spread.model_dump() == {"min": 1, "median": 50, "p95": 95, "max": 100}


def test_skipped_pictures_are_named(tmp_path: Path) -> None:
    rows = pairs(tmp_path, 13)
    (tmp_path / rows[5]["image"]).write_bytes(b"no picture")
    card = card_of(tmp_path, rows)
    assert card.skipped == 1
    (skipped,) = card.skipped_pictures
    assert (skipped.line, skipped.image) == (6, "pictures/005.png")
    assert "not a picture" in skipped.reason
    assert card.notes == ["1 items were left out because of their pictures"]
    assert "left out: line 6, pictures/005.png: not a picture" in shown(card)


def test_duplicates_within_and_across_sides(tmp_path: Path) -> None:
    rows = pairs(tmp_path)
    same_picture = (tmp_path / rows[0]["image"]).read_bytes()
    for number in (1, 11):  # with the first: on one side, and on two
        (tmp_path / rows[number]["image"]).write_bytes(same_picture)
    rows[1] |= {"text": rows[0]["text"]}  # equal pair with another label
    rows[7]["text"] = f"  {str(rows[3]['text']).upper()} "
    card = card_of(tmp_path, rows)
    found = card.duplicates
    assert (found.equal_pairs, found.contradictions) == (1, 1)
    assert (found.pictures_on_two_sides, found.texts_on_two_sides) == (1, 1)
    assert found.examples == [["1", "2", "12"], ["4", "8"]]
    assert card.notes == [
        "1 pairs of text and picture occur with two labels",
        "1 pictures are in two splits; give them one group",
        "1 texts are in two splits; give them one group",
    ]


def test_normalised_texts() -> None:
    assert normalised(" Café\tAU  lait\n") == normalised("cafe\u0301 au LAIT")
    assert normalised("a b") != normalised("ab")


def test_imbalance_and_labels_that_are_not_judged(tmp_path: Path) -> None:
    rows = pairs(tmp_path, 15)
    for row in rows[1:]:
        row["label"] = "dog"
    card = card_of(tmp_path, rows)
    assert card.imbalance == 14
    assert card.notes == [
        "label 'cat' has no item in validation",
        "label 'cat' has no item in test",
        "the largest label has 14 items, the smallest 1",
    ]


def shown(card: DataCard) -> str:
    console = Console(width=100, force_terminal=False)
    with console.capture() as captured:
        console.print(render_card(card))
    return captured.get()


def test_a_card_comes_back_from_json_and_names_no_place(tmp_path: Path) -> None:
    card = card_of(tmp_path, pairs(tmp_path))
    content = card.to_json()
    assert DataCard.model_validate_json(content) == card
    assert str(tmp_path) not in content.decode()
    assert json.loads(content)["schema_version"] == 1


def test_a_card_shows_what_looks_like_markup(tmp_path: Path) -> None:
    rows = pairs(tmp_path, labels=("[red]cat", "[/]dog"))
    text = shown(card_of(tmp_path, rows))
    assert "[red]cat" in text
    assert "[/]dog" in text
