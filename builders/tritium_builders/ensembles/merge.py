"""`merge_bundles`: several bundles in, one out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from tritium_builders.bundle import MANIFEST, TOKENIZER, Bundle
from tritium_builders.bundle_schema import Sources
from tritium_builders.ensembles.held_in import items_to_tune_on
from tritium_builders.ensembles.parts import Encoder, Parts, check_alike, make_parts
from tritium_builders.ensembles.weighting import fit_stacking, member_logits, tuned_weights
from tritium_builders.errors import BundleError, RecipeError
from tritium_builders.models.ensembles import (
    GIVEN,
    EnsembleHead,
    make_ensemble,
)
from tritium_builders.models.fusion.base import Given
from tritium_builders.reference import FusionModel
from tritium_builders.samples import Sample, modalities_key
from tritium_builders.servables import text_tokenizer

Kind = Literal["average", "stacking"]
RECORD = "ensemble.json"
TUNED = "tuned"
GOLDEN = 16


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MergedMember(_Record):
    """A bundle that an ensemble was made of."""

    bundle: str
    """Its folder, as it was named."""
    hash: str
    app: str
    strategy: str
    accuracy: dict[str, float] | None
    """Alone, on the items that every bundle held out, by the modalities that are given."""


class EnsembleRecord(_Record):
    """The content of ensemble.json."""

    kind: Kind
    members: list[MergedMember]
    weights: dict[str, list[float]] | None
    """Of an average, by the modalities that are given."""
    tuned_on: str | None
    """What the weights, or the regression, were chosen by."""
    tuned_items: int
    encoders: dict[Encoder, int]
    """How many different ones of a modality there are."""
    held_out: int
    """Items that every bundle held out: the merged bundle's validation samples."""
    accuracy: dict[str, float] | None
    """Of the ensemble on them, by the modalities that are given."""

    def to_json(self) -> bytes:
        """Write ensemble.json."""
        return (self.model_dump_json(indent=2) + "\n").encode()


def merge_bundles(
    bundles: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    kind: Kind = "average",
    weights: Sequence[float] | Literal["tuned"] | None = None,
    tune_on: str | os.PathLike[str] | None = None,
    app: str | None = None,
) -> Bundle:
    """Make one bundle of several, which answers with all of them and is served as one app.

    Equal encoders are shared; of different ones the features lie side by side. The merged bundle's
    validation samples are those that every bundle held out. A bundle that is already at `out` is
    replaced.

    Args:
        bundles: Folders of at least two bundles with the same labels, tokenizer and preprocessing.
        out: The folder to write.
        kind: `average` of probabilities, or `stacking`: a logistic regression over them.
        weights: Of an average, one for each bundle; `tuned`: by `tune_on`; None: all count alike.
        tune_on: A recipe or a manifest with items that no bundle was trained on and none held out.
        app: The name under which it is served. Default: the first bundle's.

    Raises:
        BundleError: when a bundle cannot be used, or does not fit the first one.
        RecipeError: when `weights` or `tune_on` cannot be used.
        MissingExtraError: when a package is not installed.
    """
    target = Path(out)
    _check_arguments(len(bundles), kind, weights, tune_on, target)
    opened = [Bundle.load(bundle) for bundle in bundles]
    check_alike(opened)
    items = [] if tune_on is None else items_to_tune_on(Path(tune_on), opened)
    parts = make_parts(opened)
    first = opened[0].manifest
    head = make_ensemble(parts.members, kind, len(first.labels))
    model = _model(opened[0], parts, head)
    given = [one for one in GIVEN if all(list(one) in b.manifest.entry_points for b in opened)]
    if items:
        tuning = [item.sample(labelled=True) for item in items]
        logits = member_logits(model, tuning, given, "Choosing weights")
        _choose(head, logits, _targets(tuning, first.labels))
    elif weights is not None and not isinstance(weights, str):
        for one in given:
            head.set_weights(one, [weight / sum(weights) for weight in weights])
    golden, calibration, validation = _samples(opened)
    record = _record(
        opened, head, member_logits(model, validation, given, "Answering held-out items"),
        _targets(validation, first.labels),
        kind=kind, shared=parts.shared, tuned=(tune_on, len(items)),
    )  # fmt: skip
    return Bundle.from_modules(
        app=app or first.app,
        path=target,
        text_encoder=parts.text_encoder,
        tokenizer=(opened[0].folder / TOKENIZER).read_bytes(),
        text_preprocessing=first.text,
        image_encoder=parts.image_encoder,
        image_preprocessing=first.image,
        fusion_head=head,
        fusion=f"{kind} of {', '.join(b.manifest.fusion_head.strategy for b in opened)}",
        labels=first.labels,
        entry_points=given,
        examples=golden,
        calibration=calibration,
        validation=validation,
        sources=_sources(opened),
        extra_files={RECORD: record.to_json()},
        overwrite=True,
    )


def _check_arguments(
    count: int,
    kind: Kind,
    weights: Sequence[float] | str | None,
    tune_on: str | os.PathLike[str] | None,
    target: Path,
) -> None:
    if count < 2:
        raise RecipeError("an ensemble needs two bundles or more; name another one")
    if kind == "stacking" and weights is not None:
        raise RecipeError("--weights is of an average; stacking fits a regression instead")
    chosen = kind == "stacking" or weights == TUNED
    if chosen and tune_on is None:
        raise RecipeError(
            "stacking and tuned weights are chosen by labelled items that no bundle was trained "
            "on and none held out; name a recipe (its validation side) or a manifest: --tune-on"
        )
    if not chosen and tune_on is not None:
        raise RecipeError("--tune-on chooses weights; add --weights tuned or --kind stacking")
    if weights is not None and not isinstance(weights, str):
        if len(weights) != count:
            raise RecipeError(f"--weights: {len(weights)} for {count} bundles; give one for each")
        if not all(0 <= weight < float("inf") for weight in weights) or not sum(weights):
            raise RecipeError("--weights: none may be below 0, and their sum must be above 0")
    if target.exists() and not (target / MANIFEST).is_file() and any(target.iterdir()):
        raise RecipeError(f"{target}: is there and is no bundle; choose another folder with --out")


def _model(bundle: Bundle, parts: Parts, head: EnsembleHead) -> FusionModel:
    manifest = bundle.manifest
    tokenizer = text_tokenizer.load_tokenizer(
        bundle.folder / TOKENIZER, manifest.text.servable_spec()
    )
    return FusionModel(
        parts.text_encoder, parts.image_encoder, head, tokenizer, manifest.text, manifest.image
    )


def _choose(head: EnsembleHead, logits: Mapping[Given, Tensor], targets: Tensor) -> None:
    if head.combine == "stacking":
        fit_stacking(head, logits, targets)
        return
    for given, own in logits.items():
        head.set_weights(given, tuned_weights(own, targets))


def _targets(samples: Sequence[Sample], labels: Sequence[str]) -> Tensor:
    index = {label: number for number, label in enumerate(labels)}
    return torch.tensor([index[sample.label] for sample in samples if sample.label is not None])


def _samples(
    bundles: Sequence[Bundle],
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Golden samples of all in turn; calibration samples of all; what every bundle held out."""
    kept = {sample.content_hash: sample for sample in bundles[0].validation if sample.label}
    for bundle in bundles[1:]:
        own = {sample.content_hash for sample in bundle.validation}
        kept = {digest: sample for digest, sample in kept.items() if digest in own}
    seen = {sample.content_hash for bundle in bundles for sample in bundle.validation}
    golden: list[Sample] = []
    calibration: list[Sample] = []
    turns = max(len(bundle.golden) for bundle in bundles)
    in_turn = [b.golden[turn] for turn in range(turns) for b in bundles if turn < len(b.golden)]
    for sample in (*in_turn, *(sample for b in bundles for sample in b.calibration)):
        if sample.content_hash in seen:
            continue
        seen.add(sample.content_hash)
        (golden if len(golden) < GOLDEN else calibration).append(sample)
    if not golden:
        raise BundleError(
            file=str(bundles[0].folder),
            problem="every golden sample of these bundles is held out in another one",
            fix="train them on one split, so that they hold out the same items",
        )
    # Ids are of one data set, and bundles may come from several.
    named = {"golden": golden, "calibration": calibration, "validation": list(kept.values())}
    golden, calibration, validation = (
        [Sample(f"{name}-{n}", s.text, s.image, s.label) for n, s in enumerate(samples)]
        for name, samples in named.items()
    )
    return golden, calibration, validation


def _record(
    bundles: Sequence[Bundle],
    head: EnsembleHead,
    logits: Mapping[Given, Tensor],
    targets: Tensor,
    *,
    kind: Kind,
    shared: dict[Encoder, int],
    tuned: tuple[str | os.PathLike[str] | None, int],
) -> EnsembleRecord:
    together = {
        given: head.combiner(own, GIVEN.index(given)).softmax(-1) for given, own in logits.items()
    }
    weights = getattr(head.combiner, "weights", None)
    return EnsembleRecord(
        kind=kind,
        members=[
            MergedMember(
                bundle=str(bundle.folder),
                hash=bundle.hash,
                app=bundle.manifest.app,
                strategy=bundle.manifest.fusion_head.strategy,
                accuracy=_accuracies({key: own[:, n] for key, own in logits.items()}, targets),
            )
            for n, bundle in enumerate(bundles)
        ],
        weights=None
        if weights is None
        else {
            modalities_key(given): [round(float(one), 4) for one in weights[GIVEN.index(given)]]
            for given in logits
        },
        tuned_on=None if tuned[0] is None else str(tuned[0]),
        tuned_items=tuned[1],
        encoders=shared,
        held_out=len(targets),
        accuracy=_accuracies(together, targets),
    )


def _accuracies(answers: Mapping[Given, Tensor], targets: Tensor) -> dict[str, float] | None:
    if not len(targets):
        return None
    return {
        modalities_key(given): round(float(np.mean((own.argmax(-1) == targets).numpy())), 6)
        for given, own in answers.items()
    }


def _sources(bundles: Sequence[Bundle]) -> Sources:
    """What is said of any of them, once."""
    own = [bundle.manifest.sources.model_dump() for bundle in bundles]
    return Sources(**{name: "; ".join(dict.fromkeys(one[name] for one in own)) for name in own[0]})
