"""Several bundles become one: what it answers, what it shares, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from tests.support.known import known_bundle
from tests.support.manifests import write_jsonl
from tests.support.models import LABELS, examples
from tests.support.pictures import png
from tritium_builders import Bundle, Sample, build
from tritium_builders.ensembles.merge import RECORD, EnsembleRecord, merge_bundles
from tritium_builders.ensembles.parts import check_alike
from tritium_builders.ensembles.weighting import tuned_weights
from tritium_builders.errors import BundleError, RecipeError
from tritium_builders.graphs import load_model
from tritium_builders.models import ConcatFusion, HuggingFaceTextEncoder
from tritium_client.cli import build_app

ORDER = [*LABELS[3:], *LABELS[:3]]


def validation(start: int) -> list[Sample]:
    return [
        Sample(sample.id, sample.text, sample.image, LABELS[index % len(LABELS)])
        for index, sample in enumerate(examples(6, start))
    ]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("one") / "one"
    return known_bundle(folder, "one", calibration=examples(3, 20), validation=validation(40))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same image encoder, another text encoder, another head, labels in another order."""
    torch.manual_seed(99)
    bert = BertConfig(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    head = ConcatFusion(
        text_features=24, image_features=16, labels=len(LABELS), width=8, hidden=8
    ).eval()
    return known_bundle(
        tmp_path_factory.mktemp("other") / "other",
        "other",
        text_encoder=HuggingFaceTextEncoder(BertModel(bert), "mean").eval(),
        fusion_head=head,
        labels=ORDER,
        validation=validation(42),
    )


@pytest.fixture(scope="module")
def merged(one: Bundle, other: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("merged") / "both"
    return merge_bundles([one.folder, other.folder], out, weights=[3, 1], app="both")


def answers(bundle: Bundle, sample: Sample, given: list[list[Any]]) -> dict[str, Any]:
    """PyTorch's probabilities in the order of LABELS."""
    found = load_model(bundle).answer(sample.text, sample.image, given).values
    order = [bundle.manifest.labels.index(label) for label in LABELS]
    return {key: values[order] for key, values in found.items()}


def test_it_averages_the_bundles_own_answers(one: Bundle, other: Bundle, merged: Bundle) -> None:
    given = merged.manifest.entry_points
    assert [list(entry) for entry in given] == [["text", "image"], ["text"], ["image"]]
    for sample in merged.golden[:3]:
        ours, theirs, both = (answers(b, sample, given) for b in (one, other, merged))
        for key, values in both.items():
            np.testing.assert_allclose(values, 0.75 * ours[key] + 0.25 * theirs[key], atol=1e-5)
            np.testing.assert_allclose(values, sample.expected[key], atol=1e-5)


def test_equal_encoders_are_shared_and_others_lie_side_by_side(
    one: Bundle, other: Bundle, merged: Bundle
) -> None:
    manifest = merged.manifest
    assert manifest.text_encoder.architecture == "concatenated_encoder"
    assert manifest.text_encoder.shape == [32 + 24]
    assert manifest.image_encoder == one.manifest.image_encoder
    weights = "image_encoder/model.safetensors"
    assert manifest.files[weights] == one.manifest.files[weights]
    assert manifest.files[weights] == other.manifest.files[weights]


def test_only_what_all_held_out_judges_it(one: Bundle, other: Bundle, merged: Bundle) -> None:
    shared = {s.content_hash for s in one.validation} & {s.content_hash for s in other.validation}
    assert {sample.content_hash for sample in merged.validation} == shared
    assert len(shared) == 4
    for sample in (*merged.golden, *merged.calibration):
        assert sample.content_hash not in {s.content_hash for s in one.validation}
    record = EnsembleRecord.model_validate_json((merged.folder / RECORD).read_bytes())
    assert record.held_out == 4
    assert [member.hash for member in record.members] == [one.hash, other.hash]
    assert record.weights == {key: [0.75, 0.25] for key in ("text,image", "text", "image")}
    right = [
        answers(merged, sample, [["text", "image"]])["text,image"].argmax()
        == LABELS.index(sample.label or "")
        for sample in merged.validation
    ]
    assert record.accuracy is not None
    assert record.accuracy["text,image"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    "target", ["openvino", pytest.param("onnxruntime", marks=pytest.mark.full)]
)
def test_it_builds_and_passes_parity(target: Any, merged: Bundle, tmp_path: Path) -> None:
    release = build(merged, repository=tmp_path / target, target=target)
    assert release.parity is not None
    assert {stage.stage for stage in release.parity.stages} >= {
        "text_encoder", "image_encoder", "fusion_head", "fusion_head_text", "fusion_head_image",
    }  # fmt: skip


def manifest(folder: Path, count: int = 24) -> Path:
    """Items whose label the first bundle's own answer is not: something to learn."""
    rows = []
    for number in range(count):
        (folder / f"{number}.png").write_bytes(png(40, 30 + number, seed=100 + number))
        label = LABELS[number % 3]
        rows.append({"text": f"item {number}", "image": f"{number}.png", "label": label})
    return write_jsonl(folder / "more.jsonl", rows)


@pytest.mark.parametrize("kind", [pytest.param("average", marks=pytest.mark.full), "stacking"])
def test_weights_and_regressions_are_chosen_by_the_items_that_are_named(
    kind: Any, one: Bundle, other: Bundle, tmp_path: Path
) -> None:
    items = manifest(tmp_path)
    weights: Any = "tuned" if kind == "average" else None
    bundle = merge_bundles(
        [one.folder, other.folder], tmp_path / "out", kind=kind, weights=weights, tune_on=items
    )
    record = EnsembleRecord.model_validate_json((bundle.folder / RECORD).read_bytes())
    assert (record.tuned_on, record.tuned_items) == (str(items), 24)
    if kind == "average":
        assert record.weights is not None
        assert all(sum(own) == pytest.approx(1, abs=1e-3) for own in record.weights.values())
        assert record.weights["text,image"] != [0.5, 0.5]
    else:  # it has learned which labels occur
        probabilities = np.array([sample.expected["text,image"] for sample in bundle.golden])
        assert probabilities[:, :3].sum(1).min() > 0.9


def test_tuned_weights_are_the_best_on_a_grid() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 2, 5), torch.randint(5, (50,))
    logits[:, 0].scatter_add_(1, targets[:, None], torch.full((50, 1), 1.5))
    weights = tuned_weights(logits, targets)
    right = logits.softmax(-1)[torch.arange(50), :, targets]

    def loss(weight: float) -> float:
        return float(-(weight * right[:, 0] + (1 - weight) * right[:, 1]).log().mean())

    assert loss(weights[0]) <= min(loss(step / 100) for step in range(101)) + 1e-4
    assert tuned_weights(logits[:, [0, 0]], targets) == [0.5, 0.5]


def test_held_out_items_choose_nothing(one: Bundle, other: Bundle, tmp_path: Path) -> None:
    sample = other.validation[-1]
    (tmp_path / "a.png").write_bytes(sample.image)
    rows = [{"text": sample.text, "image": "a.png", "label": "cat"}]
    rows.append({"text": "else", "image": "a.png", "label": "dog"})
    items = write_jsonl(tmp_path / "items.jsonl", rows)
    with pytest.raises(RecipeError, match=r"item 1 is held out in .*held-out items choose nothing"):
        merge_bundles([one.folder, other.folder], tmp_path / "out", weights="tuned", tune_on=items)
    assert not (tmp_path / "out").exists()


def test_bundles_that_do_not_fit_are_refused_with_what_differs(
    one: Bundle, custom: Bundle, tmp_path: Path
) -> None:
    manifest = one.manifest
    sequence = manifest.text_encoder.model_copy(update={"features": "sequence"})
    tokens = {**manifest.files, "tokenizer.json": manifest.files["text_encoder/config.json"]}
    for changes, message in (
        ({"labels": [*LABELS[:-1], "hen"]}, "labels: has 'hen' and lacks 'gnu', unlike"),
        (
            {"text": manifest.text.model_copy(update={"max_length": 40})},
            r"text.max_length: is 40, and that of .* is 48",
        ),
        (
            {"image": manifest.image.model_copy(update={"mean": (0.5, 0.4, 0.5)})},
            r"image.mean: is \(0.5, 0.4, 0.5\), and that of",
        ),
        ({"files": tokens}, "tokenizer.json: is SHA-256 .*, and that of"),
        ({"task": "multilabel"}, "task: is multilabel; ensembles are of classifiers"),
        ({"text_encoder": sequence}, "text_encoder.features: is sequence, and that of"),
    ):
        bundle = replace(one, manifest=manifest.model_copy(update=changes))
        with pytest.raises(BundleError, match=message):
            check_alike([one, bundle])
    with pytest.raises(BundleError, match="text_encoder: is kept as an exported graph"):
        merge_bundles([one.folder, custom.folder], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line(one: Bundle, other: Bundle, tmp_path: Path) -> None:
    names = [str(one.folder), str(other.folder)]
    out = ["--out", str(tmp_path / "out")]

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(build_app()[0], ["ensemble", *arguments])

    done = run(*names, *out, "--json")
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["hash"] == Bundle.load(tmp_path / "out").hash
    assert printed["ensemble"]["encoders"] == {"text_encoder": 2, "image_encoder": 1}
    assert run(*names, *out, "--weights", "a,b").exit_code == 2
    for arguments, message in (
        (names[:1], "needs two bundles"),
        ([*names, "--weights", "1"], "1 for 2 bundles"),
        ([*names, "--weights", "1,-1"], "none may be below 0"),
        ([*names, "--weights", "tuned"], "--tune-on"),
        ([*names, "--kind", "stacking"], "--tune-on"),
        ([*names, "--tune-on", "x.toml"], "add --weights tuned or --kind stacking"),
    ):
        failed = run(*arguments, *out)
        assert failed.exit_code == 1
        assert message in str(failed.exception), failed.exception
