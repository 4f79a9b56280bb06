"""Tasks other than classification: built, gated, served by Triton, and asked with the SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.e2e.conftest import FULL
from tests.support.command_line import tritium
from tests.support.pictures import png
from tests.support.tasks import MOODS, SCORES, TAGS, task_bundle
from tritium_builders import Bundle, Sample, build
from tritium_builders.errors import PublishError
from tritium_builders.history import read_history
from tritium_builders.release import list_releases, load_release, release_folder
from tritium_builders.verdicts import meaning_of, spans_of
from tritium_client import AppLacksCapability, Client, InvalidInput
from tritium_client.contract import Task
from tritium_deploy import Ports, Server, serve
from tritium_deploy.errors import GateError
from tritium_deploy.rollout import Rollout, RolloutSettings
from tritium_deploy.rollout.settings import GateSettings

pytestmark = pytest.mark.e2e
TASKS: tuple[Task, ...] = ("multilabel", "regression", "tagging", "embedding")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Task, Bundle]:
    folder = tmp_path_factory.mktemp("bundles")
    return {task: task_bundle(folder / task, task) for task in TASKS}


@pytest.fixture(scope="module")
def repository(bundles: dict[Task, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("tasks")
    for bundle in bundles.values():
        build(bundle, repository=repository, target="openvino")
        if FULL:
            build(bundle, repository=repository, target="onnxruntime")
    return repository


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serve(repository, ports=Ports.free()) as running:
        yield running


@pytest.mark.parametrize("key", ["text,image", "text", "image"])
def test_all_labels_that_hold_are_found(
    bundles: dict[Task, Bundle], server: Server, key: str
) -> None:
    thresholds = dict(zip(MOODS, bundles["multilabel"].manifest.thresholds, strict=True))
    with Client(server.grpc_url, app="multilabel") as client:
        assert client.labels() == tuple(MOODS)
        for sample in bundles["multilabel"].golden:
            answer = client.annotate(
                text=sample.text if "text" in key else None,
                image=sample.image if "image" in key else None,
            )
            np.testing.assert_allclose(answer.probabilities, sample.expected[key], atol=1e-4)
            assert answer.thresholds == thresholds
            right = dict(zip(MOODS, sample.expected[key], strict=True))
            holding = {label for label in MOODS if right[label] >= thresholds[label]}
            assert {one.label for one in answer.labels} == holding


@pytest.mark.parametrize("key", ["text,image", "text", "image"])
def test_scores_are_in_their_own_unit(
    bundles: dict[Task, Bundle], server: Server, key: str
) -> None:
    with Client(server.grpc_url, app="regression") as client:
        for sample in bundles["regression"].golden:
            answer = client.score(
                text=sample.text if "text" in key else None,
                image=sample.image if "image" in key else None,
            )
            assert answer.names == tuple(SCORES)
            assert answer.value == answer.values[0]
            difference = np.abs(answer.values - np.array(sample.expected[key]))
            assert (difference / np.array([50.0, 0.1]) < 1e-4).all()


@pytest.mark.parametrize("with_image", [True, False])
def test_words_are_tagged(bundles: dict[Task, Bundle], server: Server, with_image: bool) -> None:
    key = "text,image" if with_image else "text"
    with Client(server.grpc_url, app="tagging") as client:
        for sample in bundles["tagging"].golden:
            answer = client.tag(sample.text, sample.image if with_image else None)
            rows = np.array(sample.expected[key]).reshape(-1, len(TAGS))
            assert [one.tag for one in answer.tags] == [TAGS[best] for best in rows.argmax(1)]
            assert [one.probability for one in answer.tags] == pytest.approx(rows.max(1), abs=1e-4)
            assert all(sample.text[one.start : one.end] == one.word for one in answer.tags)
            assert "".join(one.word for one in answer.tags) in "".join(sample.text.split())
            places = [(one.start, one.end) for one in answer.tags]
            spans = spans_of([one.tag for one in answer.tags], places)
            assert [(one.start, one.end, one.label) for one in answer.entities] == spans


def test_texts_of_unequal_length_are_tagged_side_by_side(
    bundles: dict[Task, Bundle], server: Server
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    golden = [sample for sample in bundles["tagging"].golden for _ in range(4)]
    with Client(server.grpc_url, app="tagging") as client, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda one: client.tag(one.text, one.image), golden))
    for answer, sample in zip(answers, golden, strict=True):
        rows = np.array(sample.expected["text,image"]).reshape(-1, len(TAGS))
        assert [one.probability for one in answer.tags] == pytest.approx(rows.max(1), abs=1e-4)


def test_texts_and_pictures_share_a_space(
    bundles: dict[Task, Bundle], server: Server, repository: Path
) -> None:
    with Client(server.grpc_url, app="embedding") as client:
        for sample in bundles["embedding"].golden:
            text = client.embed_text(sample.text).vector
            image = client.embed_image(sample.image).vector
            np.testing.assert_allclose(text, sample.expected["text"], atol=1e-4)
            np.testing.assert_allclose(image, sample.expected["image"], atol=1e-4)
            assert np.linalg.norm(text) == pytest.approx(1, abs=1e-5)
        items = [{"text": one.text} for one in bundles["embedding"].golden]
        assert all(one.error is None for one in client.embed_many(items))
        with pytest.raises(AppLacksCapability, match="embed text or embed image"):
            client.classify(text="a", image=bundles["embedding"].golden[0].image)
    release = load_release(release_folder(repository, "embedding", 1))
    assert release.space is not None


def test_a_text_without_words_is_refused(server: Server) -> None:
    with Client(server.grpc_url, app="tagging") as client:
        with pytest.raises(InvalidInput, match="holds no word"):
            client.tag("\u200b\u200b")
        with pytest.raises(AppLacksCapability):
            client.score(text="a")


def test_an_app_keeps_its_task(bundles: dict[Task, Bundle], repository: Path) -> None:
    folder = bundles["multilabel"].folder.parent / "other"
    other = task_bundle(folder, "regression", app="multilabel")
    with pytest.raises(PublishError, match="has releases that annotate"):
        build(other, repository=repository, target="openvino")
    assert list_releases(repository, "multilabel")[-1:] == [2 if FULL else 1]


@pytest.mark.parametrize("task", ["embedding", "tagging"])
def test_a_release_of_any_task_is_rolled_out(
    task: Task,
    bundles: dict[Task, Bundle],
    repository: Path,
    server: Server,
    tmp_path: Path,
) -> None:
    """Vectors of another space need somebody's consent; both are measured by their own gates."""
    right = ((0, 1, "ANIMAL"),) if task == "tagging" else None
    labelled = [
        Sample(f"v{index}", sample.text, png(70, 50, seed=900 + index), target=right)
        for index, sample in enumerate(bundles[task].golden[:4])
    ]
    bundle = task_bundle(tmp_path / task, task, head_seed=5, validation=labelled)
    number = build(bundle, repository=repository, target="openvino").number
    settings = RolloutSettings(
        gates=GateSettings(accuracy_margin=100, latency_ratio=50, latency_pairs=20)
    )
    with (
        Rollout(repository, [server.grpc_url], settings=settings) as rollout,
        Client(server.grpc_url, app=task) as client,
    ):
        if task == "embedding":
            with pytest.raises(GateError, match="--new-space"):
                rollout.promote(task, number)
        rollout.promote(task, number, new_space=task == "embedding")
        gates = {gate.gate: gate.found for gate in read_history(repository, task)[-1].gates}
        assert meaning_of(bundle.manifest).right in gates["accuracy"]
        sample = bundle.golden[0]
        if task == "embedding":
            answer = client.embed_text(sample.text)
            np.testing.assert_allclose(answer.vector, sample.expected["text"], atol=1e-4)
        else:
            tagged = client.tag(sample.text, sample.image)
            rows = np.array(sample.expected["text,image"]).reshape(-1, len(TAGS))
            assert [one.tag for one in tagged.tags] == [TAGS[best] for best in rows.argmax(1)]
            assert tagged.release == number
        rollout.rollback(task, to=1)


def test_status_asks_every_kind_of_app(server: Server) -> None:
    shown = tritium("status", "--url", server.grpc_url, "--json")
    assert shown.returncode == 0, shown.stdout
    probes = {app["app"]: app["probe"] for app in json.loads(shown.stdout)["apps"]}
    assert set(probes) == {status.app for status in server.apps}
    assert all(probe["slowest_ms"] > 0 for probe in probes.values())


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["annotate", "--app", "multilabel"], "labels"),
        (["score", "--app", "regression"], "scores"),
        (["tag", "--app", "tagging"], "entities"),
    ],
)
def test_the_command_line_asks_for_one_item(server: Server, arguments: list[str], key: str) -> None:
    asked = [*arguments, "--text", "a very small dog", "--url", server.grpc_url]
    shown = tritium(*asked, "--json")
    assert shown.returncode == 0, shown.stderr
    assert key in json.loads(shown.stdout)
    assert "release 1" in tritium(*asked).stdout
