"""Pictures and texts that differ from epoch to epoch, and are the same when a training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from tests.builders.training.conftest import tuned
from tritium_builders.training.augmentation import augment_pixels, drop_tokens
from tritium_builders.training.folds import Prepared, _make_feed, _make_network
from tritium_builders.training.inputs import Feed, Part
from tritium_builders.training.recipe import AugmentationTable

GRADIENT = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
CPU = torch.device("cpu")


def augmented(seed: int = 0, **table: Any) -> np.ndarray:  # type: ignore[type-arg]
    return augment_pixels(GRADIENT, AugmentationTable(**table), np.random.default_rng(seed))


@pytest.mark.parametrize(
    "table",
    [{"random_resized_crop": 0.5}, {"flip": True}, {"colour_jitter": 0.5}, {"random_erasing": 1.0}],
)
def test_pictures_change_as_drawn_and_keep_their_shape(table: Mapping[str, Any]) -> None:
    many = [augmented(seed, **table) for seed in range(8)]
    assert all(one.shape == GRADIENT.shape and one.dtype == np.uint8 for one in many)
    assert any(not np.array_equal(one, GRADIENT) for one in many)
    np.testing.assert_array_equal(augmented(3, **table), many[3])
    np.testing.assert_array_equal(augmented(), GRADIENT)  # nothing asked for, nothing changed


def test_a_flip_mirrors_half_of_the_pictures() -> None:
    mirrored = [np.array_equal(augmented(seed, flip=True), GRADIENT[:, ::-1]) for seed in range(64)]
    assert 20 < sum(mirrored) < 44


def test_a_crop_keeps_at_least_its_share() -> None:
    """Of a picture that says where each pixel was, what is left spans enough rows and columns."""
    rows, columns = np.mgrid[0:100, 0:100]
    where = np.stack([rows, columns, rows], axis=-1).astype(np.uint8)
    table = AugmentationTable(random_resized_crop=0.4)
    for seed in range(20):
        kept = augment_pixels(where, table, np.random.default_rng(seed))[..., :2].astype(int)
        height, width = (np.ptp(kept[..., axis]) + 1 for axis in range(2))
        assert height * width >= 0.4 * 100 * 100 * 0.9


def test_erasing_leaves_most_of_a_picture() -> None:
    for seed in range(20):
        gone = (augmented(seed, random_erasing=1.0) != GRADIENT).any(-1).mean()
        assert 0.01 < gone < 0.4


def test_tokens_are_dropped_but_special_ones_and_the_last_stay() -> None:
    ids, special = [101, 5, 6, 7, 8, 102], frozenset({101, 102})
    kept = [drop_tokens(ids, 0.5, special, np.random.default_rng(seed)) for seed in range(50)]
    assert {len(row) for row in kept} == {3, 4, 5, 6}
    assert all(row[0] == 101 and row[-1] == 102 for row in kept)
    assert len(drop_tokens(ids, 0.999, special, np.random.default_rng(0))) == 3
    assert drop_tokens([101, 102], 0.9, special, np.random.default_rng(0)) == [101, 102]


def make_feed(tiny: Prepared, **loader: int) -> Feed:
    prepared = tuned(
        tiny,
        text={"train": "all"},
        image={"train": "all"},
        augmentation={"flip": True, "token_dropout": 0.5, "colour_jitter": 0.3},
        loader=loader,
    )
    return _make_feed(prepared, _make_network(prepared, "fusion", 3))


def test_workers_make_what_this_process_makes(tiny: Prepared) -> None:
    parts = [
        Part(torch.tensor([4 * number, 4 * number + 1]), (0, 1, number)) for number in range(6)
    ]
    alone = list(make_feed(tiny, workers=0).stream(parts, CPU))
    helping, before = make_feed(tiny, workers=2, prefetch=1), torch.get_rng_state()
    helped = list(helping.stream(parts, CPU))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.text, other.text)
        assert torch.equal(one.image, other.image)
    assert torch.equal(torch.get_rng_state(), before)  # a training draws the same with workers


def test_a_draw_changes_training_items_and_no_others(tiny: Prepared) -> None:
    feed, items = make_feed(tiny), torch.arange(8)
    plain, first, again, later = (
        feed.take(items, draw) for draw in (None, (0, 1, 0), (0, 1, 0), (0, 2, 0))
    )
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.text, again.text)
    assert not torch.equal(first.image, later.image)
    assert not torch.equal(first.image, plain.image)
    assert plain.image.dtype == torch.uint8
    assert torch.equal(feed.take(items).text, plain.text)
