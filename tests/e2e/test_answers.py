"""The server answers what PyTorch answers, item by item."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from tritonclient import grpc as triton

from tests.deploy.calls import executions_at_rest, exported
from tests.e2e.conftest import FULL, Fold
from tests.support import models
from tritium_builders.reference import FusionModel
from tritium_builders.samples import Sample
from tritium_builders.servables import image_decoder
from tritium_builders.training.folds import Prepared
from tritium_client import Client, InvalidInput, contract
from tritium_deploy import Server

pytestmark = pytest.mark.e2e

IN_FLIGHT = 8
MAX_LABELS_THAT_DIFFER = 0.003
MIN_COSINE = 0.9999
STRIDE = 1 if FULL else 4
"""Of held-out items: every one, or every fourth."""


@pytest.fixture
def raw(server: Server) -> Iterator[triton.InferenceServerClient]:
    """Triton's own client, for models that the SDK does not name."""
    with triton.InferenceServerClient(server.grpc_url) as client:
        yield client


@pytest.fixture
def steps_loaded(
    raw: triton.InferenceServerClient, server: Server, folds: Sequence[Fold]
) -> Iterator[None]:
    """Load the components that `encoders` runs inside as models of their own, too."""
    release = folds[0].release
    models = [
        component.model
        for role, component in release.components.items()
        if role not in release.loaded
    ]
    for name in models:
        raw.load_model(name, headers=server.access.admin_headers(server.grpc_url))
    yield
    for name in models:
        raw.unload_model(name, headers=server.access.admin_headers(server.grpc_url))


@pytest.fixture
def all_folds_loaded(
    raw: triton.InferenceServerClient, server: Server, folds: Sequence[Fold]
) -> Iterator[None]:
    """Load the releases that wait for a rollout beside the live one."""
    entry_points = [f"openmoji_classify_r{fold.release.number}" for fold in folds[1:]]
    for name in entry_points:
        raw.load_model(name, headers=server.access.admin_headers(server.grpc_url))
    yield
    for name in entry_points:
        raw.unload_model(name, headers=server.access.admin_headers(server.grpc_url))


def infer(
    client: triton.InferenceServerClient,
    model: str,
    inputs: Mapping[str, npt.NDArray[np.generic]],
    output: str,
) -> npt.NDArray[np.float32]:
    """Call one model for one item."""
    tensors = []
    for name, value in inputs.items():
        kind = "BYTES" if value.dtype == object else f"{value.dtype}".upper()
        tensor = triton.InferInput(name, value.shape, kind)
        tensor.set_data_from_numpy(value)
        tensors.append(tensor)
    found: npt.NDArray[np.float32] = client.infer(model, tensors).as_numpy(output)[0]
    return found


def texts(sample: Sample) -> npt.NDArray[np.object_]:
    return np.array([[sample.text.encode()]], dtype=object)


def images(sample: Sample) -> npt.NDArray[np.object_]:
    return np.array([[sample.image]], dtype=object)


def on_all(
    items: Sequence[int], answer: Callable[[int], npt.NDArray[np.float32]]
) -> npt.NDArray[np.float32]:
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return np.stack(list(pool.map(answer, items)))


@pytest.mark.usefixtures("all_folds_loaded")
def test_every_item_is_classified_as_pytorch_does(
    raw: triton.InferenceServerClient, folds: Sequence[Fold], prepared: Prepared
) -> None:
    """By a head that never saw it; then accuracy is the same by definition, label for label.
    `make test-full` takes all of all folds, so that every item of the data set is served once."""
    items = prepared.dataset.items
    labels = np.array([prepared.dataset.labels.index(item.label) for item in items])
    served_right = pytorch_right = differ = 0
    largest = 0.0
    for fold in folds:
        held_out = fold.held_out[::STRIDE]
        model = f"openmoji_classify_r{fold.release.number}"

        def answer(index: int, model: str = model) -> npt.NDArray[np.float32]:
            sample = items[index].sample(labelled=True)
            inputs = {contract.TEXT: texts(sample), contract.IMAGE: images(sample)}
            return infer(raw, model, inputs, contract.PROBABILITIES)

        served = on_all(held_out, answer)
        pytorch = fold.probabilities[::STRIDE]
        largest = max(largest, float(np.abs(served - pytorch).max()))
        differ += int((served.argmax(1) != pytorch.argmax(1)).sum())
        served_right += int((served.argmax(1) == labels[list(held_out)]).sum())
        pytorch_right += int((pytorch.argmax(1) == labels[list(held_out)]).sum())
    total = sum(len(fold.held_out[::STRIDE]) for fold in folds)
    print(f"{total} items: served {served_right / total:.4f}, PyTorch {pytorch_right / total:.4f}, "
          f"{differ} labels differ, largest difference {largest:.2g}")  # fmt: skip
    assert total == len(items) or not FULL
    assert differ <= MAX_LABELS_THAT_DIFFER * total
    assert abs(served_right - pytorch_right) <= differ


@pytest.mark.usefixtures("steps_loaded")
def test_every_feature_equals_pytorchs(
    raw: triton.InferenceServerClient, folds: Sequence[Fold], prepared: Prepared
) -> None:
    """Straight from the served encoders, for the held-out items of the live release."""
    components = folds[0].release.components
    held_out = folds[0].held_out[::STRIDE]
    items = [prepared.dataset.items[index].sample(labelled=True) for index in held_out]
    spec = folds[0].bundle.manifest.image.servable_spec()

    def text(index: int) -> npt.NDArray[np.float32]:
        tokenizer = components["text_tokenizer"].model
        tensor = triton.InferInput(contract.TEXT, [1, 1], "BYTES")
        tensor.set_data_from_numpy(texts(items[index]))
        tokens = raw.infer(tokenizer, [tensor])
        inputs = {name: tokens.as_numpy(name) for name in ("input_ids", "attention_mask")}
        return infer(raw, components["text_encoder"].model, inputs, contract.TEXT_FEATURES)

    def image(index: int) -> npt.NDArray[np.float32]:
        pixels = image_decoder.decode(items[index].image, spec)[None]
        model = components["image_encoder"].model
        return infer(raw, model, {contract.PIXELS: pixels}, contract.IMAGE_FEATURES)

    expected = prepared.features
    for name, served, pytorch in (
        ("text", on_all(range(len(items)), text), expected.text[list(held_out)].numpy()),
        ("image", on_all(range(len(items)), image), expected.image[list(held_out)].numpy()),
    ):
        norms = np.linalg.norm(served, axis=1) * np.linalg.norm(pytorch, axis=1)
        cosines = (served * pytorch).sum(1) / norms
        print(f"{name} features of {len(items)} items: smallest cosine {cosines.min():.7f}")
        assert cosines.min() >= MIN_COSINE


def test_a_head_only_retrain_shares_every_other_component(folds: Sequence[Fold]) -> None:
    first, *others = [fold.release.components for fold in folds]
    for components in others:
        for role in ("text_tokenizer", "image_decoder", "text_encoder", "image_encoder"):
            assert components[role] == first[role]
        assert components["fusion_head"].model != first["fusion_head"].model


@pytest.mark.parametrize("given", ["text,image", "text", "image"])
def test_somebody_elses_model_gets_its_own_answers_back(
    server: Server, reference: FusionModel, given: str
) -> None:
    modalities: list[contract.Modality] = given.split(",")  # type: ignore[assignment]
    with Client(server.grpc_url, app="custom") as client:
        for sample in models.examples(12, start=50):
            expected = reference.answer(sample.text, sample.image, [modalities])
            answer = client.classify(
                text=sample.text if "text" in modalities else None,
                image=sample.image if "image" in modalities else None,
            )
            np.testing.assert_allclose(answer.probabilities, expected.values[given], atol=1e-4)
            best = int(expected.values[given].argmax())
            assert answer.label == models.LABELS[best]
            assert answer.release == 1


def test_concurrent_requests_of_unequal_length_get_their_own_answers(
    server: Server, reference: FusionModel
) -> None:
    samples = models.examples(24, start=80)
    expected = [reference.answer(s.text, s.image, [["text", "image"]]) for s in samples]
    with Client(server.grpc_url, app="custom") as client, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda s: client.classify(text=s.text, image=s.image), samples))
    for answer, want in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer.probabilities, want.values["text,image"], atol=1e-4)


def test_an_absent_modalitys_encoder_never_runs(
    client: Client, raw: triton.InferenceServerClient, server: Server, folds: Sequence[Fold]
) -> None:
    encoder = folds[0].release.components["image_encoder"].model
    counter = rf'^tritium_step_executions_total{{model="{encoder}",step="image_encoder"}} (\d+)\.0$'

    def count() -> int:
        if "encoders" not in folds[0].release.loaded:
            return executions_at_rest(raw, encoder)
        with urllib.request.urlopen(server.step_metrics_url, timeout=5) as answer:
            found = re.search(counter, answer.read().decode(), re.MULTILINE)
        assert found is not None, "it counts its steps"
        return int(found[1])

    before = count()
    for _ in range(5):
        client.classify(text="red apple")
    assert count() == before
    client.classify(image=folds[0].bundle.golden[0].image)
    assert count() == before + 1


def test_refused_inputs_are_counted_for_those_who_watch(
    client: Client, server: Server, folds: Sequence[Fold]
) -> None:
    if "encoders" not in folds[0].release.loaded:
        pytest.skip("Triton does not tell a refused input from an answer")
    decoder = folds[0].release.components["image_decoder"].model
    counter = f'tritium_step_refused_total{{model="{decoder}",step="image_decoder"}}'
    before = exported(server, counter)
    with pytest.raises(InvalidInput):
        client.classify(image=b"\x89PNG\r\n\x1a\n and nothing else")
    assert exported(server, counter) == before + 1
