"""Candidates with one fault each: refused before they get a request, and the fault is named."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.deploy.calls import wait_until
from tests.deploy.rollout.conftest import LIVE, answered_by
from tests.deploy.tiny_repository import (
    LABELS,
    TinyApp,
    publish,
    publish_candidate,
    tiny_release,
)

from tritium_builders.release import RELEASE_FILE, load_release, release_folder
from tritium_builders.samples import Sample
from tritium_builders.verdicts import Verdict, meaning_of
from tritium_client import contract
from tritium_deploy import Ports, Server, serve
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import CandidateError, GateError, RolloutError
from tritium_deploy.live import AppRelease
from tritium_deploy.rollout import Rollout, RolloutSettings, stage
from tritium_deploy.rollout.gates import Comparison, Consent, Side, judge
from tritium_deploy.rollout.settings import GateSettings
from tritium_deploy.stubs import list_stubs

pytestmark = pytest.mark.e2e


NUMBERS = itertools.count(2)
"""Of candidates: each test has its own, beside those that were refused before."""


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Release 1 is live."""
    folder = tmp_path_factory.mktemp("repository")
    publish(folder, LIVE)
    return folder


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    """One for all: what is refused leaves it as it was, and each test looks whether it did."""
    with serve(repository, ports=Ports.free()) as running:
        yield running


@pytest.fixture(scope="module")
def proving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Server]]:
    """A repository and its server, where candidates stay that were loaded and then refused."""
    folder = tmp_path_factory.mktemp("proving")
    publish(folder, LIVE)
    with serve(folder, ports=Ports.free()) as running:
        yield folder, running


@pytest.fixture
def candidate(repository: Path) -> int:
    """A release with other heads and as good answers."""
    number = next(NUMBERS)
    publish_candidate(repository, TinyApp(number=number, bias=0.6 + number / 1e4, labelled=20))
    return number


def release_file(repository: Path, number: int) -> Path:
    return release_folder(repository, "tiny", number) / RELEASE_FILE


def head(repository: Path, number: int) -> Path:
    """The folder of a release's own component."""
    release = load_release(release_folder(repository, "tiny", number))
    return repository / release.components["fusion_head"].model


def flip_a_byte(repository: Path, number: int) -> None:
    path = head(repository, number) / "1" / "model.py"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def lose_a_file(repository: Path, number: int) -> None:
    (head(repository, number) / "1" / "model.py").unlink()


def swap_labels(repository: Path, number: int) -> None:
    path = release_file(repository, number)
    path.write_text(path.read_text().replace('"cat"', '"x"').replace('"dog"', '"cat"')
                    .replace('"x"', '"dog"'))  # fmt: skip


def truncate_release(repository: Path, number: int) -> None:
    path = release_file(repository, number)
    path.write_text(path.read_text()[:100])


@pytest.mark.parametrize(
    ("break_it", "fault"),
    [
        (flip_a_byte, r"model\.py differs from what was published"),
        (lose_a_file, r"model\.py is missing"),
        (swap_labels, r"other labels, or in another order"),
        (truncate_release, r"release\.json"),
    ],
)
def test_a_release_that_was_changed_is_refused(
    rollout: Rollout,
    server: Server,
    repository: Path,
    candidate: int,
    break_it: Callable[[Path, int], None],
    fault: str,
) -> None:
    break_it(repository, candidate)
    for verb in (rollout.stage, rollout.promote):
        with pytest.raises(CandidateError, match=fault):
            verb("tiny", candidate)
    assert_untouched(rollout, server)


SLOW = TinyApp(bias=0.5, labelled=20, head_parameters={"slow_s": "0.02"})


@pytest.mark.parametrize(
    ("tiny", "fault"),
    [
        (TinyApp(wrong_sample=1), "golden sample golden-1: probabilities differ"),
        (TinyApp(bias=2.5, labelled=20), r"accuracy: top-1 accuracy \d+\.\d%, live 90"),
        (SLOW, r"latency: p95 .* ratio"),
        (
            TinyApp(labels=(LABELS[1], LABELS[0], LABELS[2]), labelled=20),
            "accuracy: top-1 accuracy",
        ),
        (TinyApp(labels=(*LABELS, "fish")), "probabilities: 3 values in place of 4"),
        (
            TinyApp(parameters={"fusion_head": {"fault": "raise"}}),
            "the engine file is truncated",
        ),
        (TinyApp(parameters={"fusion_head": {"fault": "exit"}}), "server 127.0.0.1"),
        (
            TinyApp(parameters={"text_encoder": {"crash_after": "9"}}, labelled=20),
            "not healthy",
        ),
    ],
    ids=["golden", "accuracy", "latency", "labels", "shape", "raises", "exits", "tenth-request"],
)
def test_a_release_that_is_not_good_enough_is_refused(
    proving: tuple[Path, Server], tiny: TinyApp, fault: str
) -> None:
    repository, server = proving
    number = next(NUMBERS)
    publish_candidate(repository, replace(tiny, number=number))
    bounds = RolloutSettings(
        gates=GateSettings(latency_ratio=2.0, latency_pairs=20), load_timeout_s=20
    )
    with Rollout(repository, [server.grpc_url], settings=bounds) as rollout:
        with pytest.raises((CandidateError, GateError), match=fault):
            rollout.promote("tiny", number)
        assert answered_by(server) == {"1"}
        assert rollout.status("tiny").live == 1


def assert_untouched(rollout: Rollout, server: Server) -> None:
    assert answered_by(server) == {"1"}
    state = rollout.status("tiny")
    assert (state.live, state.servers[0].loaded, state.consistent) == (1, (1,), True)
    assert wait_until(lambda: len(list_stubs(server.pid)) == 5, 5), "nothing of it runs"


def test_what_does_not_load_is_taken_out_again(
    rollout: Rollout, server: Server, repository: Path
) -> None:
    number = next(NUMBERS)
    broken = TinyApp(number=number, bias=0.7, parameters={"fusion_head_text": {"fault": "raise"}})
    publish_candidate(repository, broken)
    with pytest.raises(CandidateError, match="the engine file is truncated"):
        rollout.stage("tiny", number)
    assert_untouched(rollout, server)


@pytest.mark.parametrize(
    ("there", "fault"),
    [
        ({}, r"TensorRT 10\.9\.0\.34, and this server has no TensorRT"),
        (
            {
                contract.PARAM_SERVER_TENSORRT: "10.13.2.6",
                contract.PARAM_SERVER_COMPUTE_CAPABILITY: "8.6",
            },
            r"TensorRT 10\.9\.0\.34, and this server has TensorRT 10\.13\.2\.6",
        ),
    ],
    ids=["none", "another"],
)
def test_plans_for_another_tensorrt_are_refused(
    rollout: Rollout,
    server: Server,
    repository: Path,
    candidate: int,
    there: dict[str, str],
    fault: str,
) -> None:
    path = release_file(repository, candidate)
    record = {"version": "10.9.0.34", "compute_capability": "8.6", "options": {}, "plans": {}}
    release = json.loads(path.read_text()) | {"target": "tensorrt", "tensorrt": record}
    path.write_text(json.dumps(release))
    with says_of_itself(server, there), pytest.raises(CandidateError, match=fault):
        rollout.stage("tiny", candidate)
    assert_untouched(rollout, server)


@contextmanager
def says_of_itself(server: Server, parameters: dict[str, str]) -> Iterator[None]:
    """What a server with a GPU says in its entry points, for a while."""
    control = ModelControl(server.grpc_url)
    before = control.config("tiny_classify")
    config = control.config("tiny_classify")
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    try:
        control.load("tiny_classify", 10, config)
        yield
    finally:
        control.load("tiny_classify", 10, before)
        control.close()


def test_what_cannot_be_measured_is_refused() -> None:
    sample = Sample("one", "text", b"picture", label="cat")
    said = Verdict(meaning_of(tiny_release()), ("cat",))
    answered = Side([said], [None], [0.01])
    silent = Side([None], [None], [], ["tiny_classify_r1: no answer"])
    app = AppRelease("tiny", tiny_release(), (sample,), {})

    def failed(live: Side, candidate: Side) -> set[str]:
        found = Comparison(live, candidate, (sample,))
        records = judge(found, app, app, GateSettings(), Consent())
        return {record.gate for record in records if not record.passed}

    assert failed(answered, answered) == set()
    assert failed(answered, silent) == {"errors", "accuracy", "latency"}
    assert failed(silent, answered) == {"accuracy", "latency"}, "there is nothing to compare with"


@pytest.mark.parametrize(
    ("tools", "fault"),
    [
        ({"openvino": "9999.1.0"}, r"built with openvino 9999\.1\.0, and there is"),
        ({"onnxruntime (heads)": "9999.1"}, r"built with onnxruntime 9999\.1, and there is"),
        ({"python": "3.8.1"}, r"built with Python 3\.8\.1, and its servables would run on 3\."),
    ],
)
def test_another_runtime_than_the_servers_is_refused(
    rollout: Rollout,
    server: Server,
    repository: Path,
    candidate: int,
    tools: dict[str, str],
    fault: str,
) -> None:
    path = release_file(repository, candidate)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tools": tools}))
    with pytest.raises(CandidateError, match=fault):
        rollout.stage("tiny", candidate)
    assert_untouched(rollout, server)


def test_an_older_triton_is_refused(
    rollout: Rollout, server: Server, candidate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "OLDEST_TRITON", (999, 0))
    with pytest.raises(CandidateError, match=r"its Triton is 2\.\d+\.\d+, and releases are made"):
        rollout.stage("tiny", candidate)
    assert_untouched(rollout, server)


def test_a_full_gate_file_is_read_and_a_wrong_one_named(tmp_path: Path) -> None:
    from tritium_deploy.errors import SettingsError
    from tritium_deploy.rollout import read_settings

    path = tmp_path / "rollout.toml"
    path.write_text("[gates]\naccuracy_margin = 2.5\n[watch]\nseconds = 5\n")
    assert read_settings(path).gates.accuracy_margin == 2.5
    path.write_text("[gates]\nlatency_ratio = 0.5\n")
    with pytest.raises(SettingsError, match=r"gates\.latency_ratio: Input should be greater"):
        read_settings(path)
    path.write_text("[gates]\nlatency = 2\n")
    with pytest.raises(SettingsError, match=r"gates\.latency: Extra inputs"):
        read_settings(path)
    with pytest.raises(RolloutError, match="cannot be read"):
        read_settings(tmp_path / "none.toml")
