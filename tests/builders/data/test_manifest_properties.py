"""Whatever bytes a manifest holds, and however its groups lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.support.manifests import load, pairs, write_csv, write_jsonl
from tests.support.pictures import png
from tritium_builders.data import Dataset
from tritium_builders.errors import RecipeError
from tritium_builders.training.splits import Split, split_dataset


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Pictures to name, and a cache of their own."""
    made = tmp_path_factory.mktemp("manifest")
    pairs(made)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield made


def assert_valid_or_refused(path: Path) -> None:
    try:
        dataset = load(path, least_groups=1).dataset
    except RecipeError as error:
        lines = str(error).splitlines()
        assert lines
        assert all(line.startswith((path.name, "and ")) for line in lines), lines
        return
    root = os.path.realpath(path.parent)
    for item in dataset.items:
        assert item.text.strip()
        assert item.label in dataset.labels
        assert item.read_image()
        assert not isinstance(item.image, bytes)
        assert os.path.realpath(item.image.path).startswith(root)


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=400), suffix=st.sampled_from(["csv", "jsonl", "parquet"]))
def test_any_bytes_are_refused_in_words(content: bytes, suffix: str, folder: Path) -> None:
    path = folder / f"any.{suffix}"
    path.write_bytes(content)
    assert_valid_or_refused(path)


CELLS = st.one_of(
    st.sampled_from(["pictures/001.png", "pictures", "..", "/", "cat", "train", "test", ""]),
    st.text(max_size=12),
)
VALUES = st.one_of(CELLS, st.none(), st.booleans(), st.integers(), st.floats(), st.just([]))
NAMES = ("id", "text", "image", "label", "group", "split")


@settings(max_examples=150, deadline=None)
@given(cells=st.lists(st.tuples(st.integers(0, 11), st.sampled_from(NAMES), VALUES), max_size=6))
def test_any_json_values_are_refused_in_words(
    cells: list[tuple[int, str, object]], folder: Path
) -> None:
    rows = pairs_again(folder)
    for number, name, value in cells:
        rows[number][name] = value
    assert_valid_or_refused(write_jsonl(folder / "values.jsonl", rows))


@settings(max_examples=150, deadline=None)
@given(
    at=st.integers(0, 500), cut=st.integers(0, 3), put=st.binary(max_size=3),
    kind=st.sampled_from(["csv", "jsonl"]),
)  # fmt: skip
def test_a_damaged_manifest_is_refused_in_words(
    at: int, cut: int, put: bytes, kind: str, folder: Path
) -> None:
    path = folder / f"damaged.{kind}"
    (write_csv if kind == "csv" else write_jsonl)(path, pairs_again(folder))
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + put + whole[at + cut :])
    assert_valid_or_refused(path)


def pairs_again(folder: Path) -> list[dict[str, object]]:
    """The rows of `pairs`, without writing the pictures."""
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    return [
        {
            "text": f"number {number}",
            "image": f"pictures/{name}",
            "label": ["cat", "dog", "elk"][number % 3],
        }
        for number, name in enumerate(names)
    ]


ROWS = st.lists(
    st.tuples(
        st.integers(0, 11),  # the picture
        st.sampled_from(["red", "green", "blue", "grey", "teal"]),
        st.sampled_from(["cat", "dog"]),
        st.sampled_from([None, None, *range(10)]),  # the group
    ),
    min_size=24,
    max_size=48,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=ROWS, fold=st.integers(0, 1), seed=st.integers(0, 3))
def test_folds_part_no_group_and_no_equal_pair(
    rows: list[tuple[int, str, str, int | None]], fold: int, seed: int, folder: Path
) -> None:
    manifest = [
        {"text": text, "image": f"pictures/{picture:03}.png", "label": label, "group": group}
        for picture, text, label, group in rows
    ]
    try:
        dataset = load(write_jsonl(folder / "groups.jsonl", manifest), least_groups=4).dataset
        split = split_dataset(dataset, fold=fold, folds=2, validation_folds=2, seed=seed)
    except RecipeError:
        assume(False)
    assert sorted([*split.train, *split.validation, *split.held_out]) == list(range(len(rows)))
    assert_apart(split, dataset.groups)
    assert_apart(split, [item.content_hash for item in dataset.items])
    named = [f"own {n}" if row[3] is None else f"group {row[3]}" for n, row in enumerate(rows)]
    assert_apart(split, named)


def assert_apart(split: Split, values: list[str] | tuple[str, ...]) -> None:
    sides = [{values[i] for i in side} for side in (split.train, split.validation, split.held_out)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 5), st.sampled_from(["red", "green"]), st.sampled_from(["cat", "dog"]),
            st.one_of(st.none(), st.integers(0, 5)),
            st.sampled_from(["train", "validation", "test"]),
        ),
        min_size=6, max_size=14,
    )
)  # fmt: skip
def test_given_splits_are_taken_or_refused_and_never_leak(
    rows: list[tuple[int, str, str, int | None, str]], folder: Path
) -> None:
    manifest = [
        {"text": text, "image": f"pictures/{picture:03}.png", "label": label, "group": group,
         "split": split}
        for picture, text, label, group, split in rows
    ]  # fmt: skip
    dataset: Dataset | None = None
    try:
        dataset = load(write_jsonl(folder / "sides.jsonl", manifest)).dataset
    except RecipeError:
        return
    split = Split.given(dataset)
    assert [dataset.items[i].side for i in split.held_out] == ["test"] * len(split.held_out)
    assert min(len(split.train), len(split.validation), len(split.held_out)) > 0
    assert_apart(split, dataset.groups)
    assert_apart(split, [item.content_hash for item in dataset.items])


def test_pictures_by_any_name(folder: Path) -> None:
    """Names with blanks, dots, quotes and other scripts are names."""
    names = ["a b.png", "..c.png", 'q"uote.png', "ünï.png", "#%&.png", "-.png"]
    rows = []
    for number, name in enumerate(names):
        (folder / name).write_bytes(png(9, 9, seed=number))
        rows.append({"text": name, "image": name, "label": "cat" if number % 2 else "dog"})
    dataset = load(write_csv(folder / "names.csv", rows)).dataset
    assert [item.text for item in dataset.items] == names
