"""What a report says of a classifier, against answers that were made up."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest

from tritium_builders.data import Dataset, Item
from tritium_builders.models import ConcatFusion
from tritium_builders.training.curves import make_curves
from tritium_builders.training.folds import Prepared, TrainedFold, train_fold
from tritium_builders.training.history import Epoch, Stage
from tritium_builders.training.metrics import calibration_error
from tritium_builders.training.objective import HeadKind
from tritium_builders.training.single_label import reliability, single_label_details

LABELS = ("cat", "dog", "fox")
ITEMS = 60
RANDOM = np.random.default_rng(0)
ANSWERS = {
    key: RANDOM.dirichlet([0.6] * 3, ITEMS).astype(np.float32)
    for key in ("text,image", "text", "image", "text-only", "image-only")
}


def dataset() -> Dataset:
    targets = RANDOM.integers(0, 3, ITEMS)
    items = tuple(
        Item(str(index), f"text {index} " * 60, b"", LABELS[target], str(index))
        for index, target in enumerate(targets)
    )
    return Dataset("made up", items, "nowhere", "CC0-1.0", LABELS)


def fold(
    answers: dict[str, npt.NDArray[np.float32]], history: tuple[Stage, ...] = ()
) -> TrainedFold:
    head = ConcatFusion(text_features=2, image_features=2, labels=3, width=2, hidden=2)
    held_out = tuple(range(ITEMS))
    return TrainedFold(0, 0, head, 1, held_out, answers, 0.0, 0.0, head, history=history)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset()


@pytest.fixture(scope="module")
def trained() -> dict[HeadKind, list[TrainedFold]]:
    return {
        "fusion": [fold({key: ANSWERS[key] for key in ("text,image", "text", "image")})],
        "text": [fold({"text": ANSWERS["text-only"]})],
        "image": [fold({"image": ANSWERS["image-only"]})],
    }


def test_the_confusions_are_all_items(
    data: Dataset, trained: dict[HeadKind, list[TrainedFold]]
) -> None:
    found = single_label_details(data, trained, most_frequent=0, kept=()).confusion
    answers = ANSWERS["text,image"].argmax(-1)
    expected = Counter(zip(data.targets, answers.tolist(), strict=True))
    for (target, answer), items in expected.items():
        assert found[LABELS[target]][LABELS[answer]] == items
    assert sum(sum(row.values()) for row in found.values()) == ITEMS


def test_the_reliability_diagram_is_what_the_calibration_error_sums_up(data: Dataset) -> None:
    targets = np.asarray(data.targets)
    figures = reliability(ANSWERS["text"], targets)
    assert sum(one.items for one in figures.bins) == ITEMS
    gaps = sum(one.items * abs(one.accuracy - one.probability) for one in figures.bins)
    assert gaps / ITEMS == pytest.approx(calibration_error(ANSWERS["text"], targets), abs=1e-5)
    for one in figures.bins:
        assert one.items == 0 or one.low - 1e-6 <= one.probability <= one.high + 1e-6


def test_missing_at_random_is_the_mean_of_many_draws(
    data: Dataset, trained: dict[HeadKind, list[TrainedFold]]
) -> None:
    missing = single_label_details(data, trained, most_frequent=1, kept=()).missing
    targets = np.asarray(data.targets)
    right = {key: ANSWERS[key].argmax(-1) == targets for key in ANSWERS}
    draw = random.Random(0)
    at, share = 4, 0.4
    assert missing.shares[at] == share
    image, either, text_model = [], [], []
    for _ in range(3000):
        lack = draw.sample(range(ITEMS), int(share * ITEMS))
        own, both, alone = (
            right["text,image"].copy(),
            right["text,image"].copy(),
            right["text-only"].copy(),
        )
        own[lack] = right["text"][lack]
        half = len(lack) // 2
        both[lack[:half]] = right["text"][lack[:half]]
        both[lack[half:]] = right["image"][lack[half:]]
        alone[lack] = targets[lack] == 1
        image.append(own.mean())
        either.append(both.mean())
        text_model.append(alone.mean())
    assert missing.fusion_lacks_image[at] == pytest.approx(np.mean(image), abs=4e-3)
    assert missing.fusion_lacks_either[at] == pytest.approx(np.mean(either), abs=4e-3)
    assert missing.text_model_lacks_text[at] == pytest.approx(np.mean(text_model), abs=4e-3)
    assert missing.fusion_lacks_text[-1] == pytest.approx(right["image"].mean(), abs=1e-6)
    assert missing.image_model_lacks_image[0] == pytest.approx(right["image-only"].mean(), abs=1e-6)


def test_examples_are_what_fusion_changes(
    data: Dataset, trained: dict[HeadKind, list[TrainedFold]]
) -> None:
    kept = {str(index) for index in range(0, ITEMS, 2)}
    details = single_label_details(data, trained, most_frequent=0, kept=kept)
    assert sum(one.items for one in details.outcomes) == ITEMS
    assert {one.change for one in details.examples} == {"gained", "settled", "lost"}
    for one in details.examples:
        assert one.id in kept  # the bundle has no picture of the others
        assert len(one.text) == 300
        text, image, fusion = (
            said.label == one.label for said in (one.text_model, one.image_model, one.fusion)
        )
        expected = {"gained": (False, True), "settled": (True, True), "lost": (True, False)}
        assert (text or image, fusion) == expected[one.change]
        assert not (text and image and fusion)
    for change in ("gained", "settled", "lost"):
        labels = [one.label for one in details.examples if one.change == change]
        different = len(set(labels))
        assert len(set(labels[:different])) == different  # before a second one of any label


def test_a_curve_counts_epochs_over_all_stages() -> None:
    losses = ((3.0, 2.0, 2.5), (4.0, 1.0, 1.5, 1.7))
    history = tuple(
        tuple(Epoch(number, 9.0, loss, 0.5) for number, loss in enumerate(stage, 1))
        for stage in losses
    )
    (curve,) = make_curves([fold({}, history), fold({})])
    assert curve.stages == [3, 4]
    assert curve.best_epoch == 5
    assert curve.validation_loss[curve.best_epoch - 1] == 1.0


def test_training_tells_every_epoch(prepared: Prepared) -> None:
    trained = train_fold(prepared, fold=0, seed=0)
    (stage,) = trained.history
    assert [epoch.number for epoch in stage] == list(range(1, len(stage) + 1))
    best = min(stage, key=lambda epoch: epoch.validation_loss)
    assert best.number == trained.epochs
    assert best.validation_loss == pytest.approx(trained.validation_loss, abs=1e-5)
    assert best.score == pytest.approx(trained.validation_accuracy)
    assert stage[-1].training_loss < stage[0].training_loss
