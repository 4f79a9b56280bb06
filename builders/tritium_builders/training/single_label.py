"""What a report says of a classifier whose items have one label each, beside its accuracies."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from tritium_builders.training.metrics import BINS, calibration_error
from tritium_builders.training.records import Record

if TYPE_CHECKING:
    from tritium_builders.data import Dataset
    from tritium_builders.training.folds import TrainedFold
    from tritium_builders.training.objective import HeadKind

EXAMPLES = 6
"""Of each kind."""
EXAMPLE_TEXT = 300
"""Characters of an example's text that are kept."""
STEPS = 10
"""Of the share of items that lack a modality: 0, 10 % ... 100 %."""

Change = Literal["gained", "settled", "lost"]
"""What fusion did to an item: right where both models with one modality are wrong; right where
they contradict each other; wrong where one of them is right."""


class Bin(Record):
    """Answers whose probability lies in one interval, open on the left."""

    low: float
    high: float
    items: int
    probability: float
    """Mean of the answered labels' probabilities; 0 without items."""
    accuracy: float


class Reliability(Record):
    """Whether probabilities mean what they say (`metrics.calibration_error`)."""

    bins: list[Bin]
    calibration_error: float


class MissingModality(Record):
    """Accuracy when a modality is missing at random, 0 to 1, by the share of items that lack it.

    Each is the mean over the seeds and over all ways to choose the items: accuracy is a mean over
    items, so that needs no draw. A model with one modality gives the most frequent training label
    to an item that lacks it.
    """

    shares: list[float]
    fusion_lacks_image: list[float]
    fusion_lacks_text: list[float]
    fusion_lacks_either: list[float]
    """Half of the items that lack something lack the text."""
    text_model_lacks_text: list[float]
    image_model_lacks_image: list[float]


class Outcome(Record):
    """How many items the three models answer in one way."""

    text_model: bool
    """Whether it is right."""
    image_model: bool
    fusion: bool
    items: int


def change_of(outcome: Outcome) -> Change | None:
    """What fusion did to such items; None where it changed nothing for better or worse."""
    one = outcome.text_model or outcome.image_model
    if not outcome.fusion:
        return "lost" if one else None
    if outcome.text_model and outcome.image_model:
        return None
    return "settled" if one else "gained"


class Answered(Record):
    """One model's answer."""

    label: str
    probability: float


class Example(Record):
    """An item whose answer fusion changes."""

    change: Change
    id: str
    """Of the item, and of its validation sample in the bundle."""
    text: str
    label: str
    """What is right."""
    text_model: Answered
    image_model: Answered
    fusion: Answered


class SingleLabelDetails(Record):
    """All but `missing` is of the bundle's head and the single-modality models of its seed."""

    confusion: dict[str, dict[str, int]]
    """Right label -> answered label -> items; what does not occur is left out."""
    reliability: Reliability
    missing: MissingModality
    outcomes: list[Outcome]
    examples: list[Example]


def single_label_details(
    dataset: Dataset,
    trained: Mapping[HeadKind, Sequence[TrainedFold]],
    *,
    most_frequent: int,
    kept: Collection[str],
) -> SingleLabelDetails:
    """Look closely at what the heads say about the held-out items.

    Args:
        dataset: What was trained on.
        trained: For each kind of head one training a seed; the first is that of the bundle.
        most_frequent: Index of the label that most items of the training side have.
        kept: Ids of the items that the bundle keeps, of which examples are taken.
    """
    shipped = trained["fusion"][0]
    targets = np.asarray(dataset.targets)[list(shipped.held_out)]
    answers = {
        "text_model": trained["text"][0].probabilities["text"],
        "image_model": trained["image"][0].probabilities["image"],
        "fusion": shipped.probabilities["text,image"],
    }
    right = {name: values.argmax(-1) == targets for name, values in answers.items()}
    return SingleLabelDetails(
        confusion=_confusion(dataset.labels, targets, answers["fusion"]),
        reliability=reliability(answers["fusion"], targets),
        missing=_missing(dataset, trained, most_frequent),
        outcomes=_outcomes(right),
        examples=_examples(dataset, shipped.held_out, answers, right, kept),
    )


def _confusion(
    labels: Sequence[str], targets: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32]
) -> dict[str, dict[str, int]]:
    pairs = Counter(zip(targets.tolist(), probabilities.argmax(-1).tolist(), strict=True))
    rows: dict[str, dict[str, int]] = defaultdict(dict)
    for (target, answer), items in sorted(pairs.items()):
        rows[labels[target]][labels[answer]] = items
    return dict(rows)


def reliability(
    probabilities: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]
) -> Reliability:
    """Put answers into bins by their probability, and compare that with how many are right.

    Args:
        probabilities: FP32 [N, K].
        targets: INT64 [N].

    Source: Guo et al. 2017, "On Calibration of Modern Neural Networks", figure 1.
    """
    highest = probabilities.max(-1).astype(np.float64)
    right = probabilities.argmax(-1) == targets
    places = np.clip(np.ceil(highest * BINS).astype(int) - 1, 0, BINS - 1)
    bins = []
    for place in range(BINS):
        own = places == place
        items = int(own.sum())
        bins.append(
            Bin(
                low=round(place / BINS, 6),
                high=round((place + 1) / BINS, 6),
                items=items,
                probability=round(float(highest[own].mean()), 6) if items else 0.0,
                accuracy=round(float(right[own].mean()), 6) if items else 0.0,
            )
        )
    error = round(calibration_error(probabilities, targets), 6)
    return Reliability(bins=bins, calibration_error=error)


def _missing(
    dataset: Dataset, trained: Mapping[HeadKind, Sequence[TrainedFold]], most_frequent: int
) -> MissingModality:
    def mean(kind: HeadKind, key: str) -> float:
        return float(np.mean([one.accuracy(dataset, key) for one in trained[kind]]))

    both, text, image = (mean("fusion", key) for key in ("text,image", "text", "image"))
    held_out = trained["fusion"][0].held_out
    guess = float(np.mean(np.asarray(dataset.targets)[list(held_out)] == most_frequent))
    shares = [step / STEPS for step in range(STEPS + 1)]

    def line(start: float, end: float) -> list[float]:
        return [round((1 - share) * start + share * end, 6) for share in shares]

    return MissingModality(
        shares=shares,
        fusion_lacks_image=line(both, text),
        fusion_lacks_text=line(both, image),
        fusion_lacks_either=line(both, (text + image) / 2),
        text_model_lacks_text=line(mean("text", "text"), guess),
        image_model_lacks_image=line(mean("image", "image"), guess),
    )


def _outcomes(right: Mapping[str, npt.NDArray[np.bool_]]) -> list[Outcome]:
    names = ("text_model", "image_model", "fusion")
    counts = Counter(zip(*(right[name].tolist() for name in names), strict=True))
    return [
        Outcome(
            text_model=text, image_model=image, fusion=fusion, items=counts[text, image, fusion]
        )
        for text in (True, False)
        for image in (True, False)
        for fusion in (True, False)
    ]


def _examples(
    dataset: Dataset,
    held_out: Sequence[int],
    answers: Mapping[str, npt.NDArray[np.float32]],
    right: Mapping[str, npt.NDArray[np.bool_]],
    kept: Collection[str],
) -> list[Example]:
    """The surest of each kind, a label after the other so that not all are of one."""
    found: dict[Change, list[Example]] = {"gained": [], "settled": [], "lost": []}
    for place, index in enumerate(held_out):
        own = {name: bool(values[place]) for name, values in right.items()}
        change = change_of(Outcome(**own, items=1))
        item = dataset.items[index]
        if change is None or item.id not in kept:
            continue
        said = {
            name: Answered(
                label=dataset.labels[int(values[place].argmax())],
                probability=round(float(values[place].max()), 4),
            )
            for name, values in answers.items()
        }
        text = item.text if len(item.text) <= EXAMPLE_TEXT else item.text[: EXAMPLE_TEXT - 1] + "…"
        found[change].append(
            Example(change=change, id=item.id, text=text, label=item.label, **said)
        )
    return [one for examples in found.values() for one in _spread(examples)[:EXAMPLES]]


def _spread(examples: Sequence[Example]) -> list[Example]:
    turns: Counter[str] = Counter()
    ranked = []
    for example in sorted(examples, key=lambda one: (-one.fusion.probability, one.id)):
        ranked.append((turns[example.label], -example.fusion.probability, example.id, example))
        turns[example.label] += 1
    return [example for *_, example in sorted(ranked, key=lambda row: row[:3])]
