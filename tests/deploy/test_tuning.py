"""A tuning lies over a release's configs: what it may say, and what it changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.support.models import custom_bundle
from tritonclient.grpc import model_config_pb2 as pb

from tritium_builders import build
from tritium_client.contract import Role
from tritium_deploy.control import ModelControl
from tritium_deploy.errors import TuningError
from tritium_deploy.ports import Ports
from tritium_deploy.server import serve
from tritium_deploy.tuning import (
    ComponentTuning,
    Tuning,
    machine_tuning,
    read_tuning,
    tuned_configs,
    write_tuning,
)


def config() -> pb.ModelConfig:
    made = pb.ModelConfig(name="a_text_encoder", max_batch_size=32)
    made.instance_group.add(count=1)
    made.dynamic_batching.SetInParent()
    spec = {"threads": 0, "streams": 1, "max_batch": 32, "stage": "text_encoder"}
    made.parameters["spec"].string_value = json.dumps(spec)
    return made


def tune(**values: int) -> pb.ModelConfig:
    made = config()
    ComponentTuning.model_validate(values).apply(made, "text_encoder")
    return made


def test_what_it_names_changes_and_nothing_else() -> None:
    made = tune(instances=2, threads=1, streams=3, max_batch=8, max_queue_delay_us=500)
    assert made.instance_group[0].count == 2
    assert made.dynamic_batching.max_queue_delay_microseconds == 500
    assert list(made.dynamic_batching.preferred_batch_size) == [8]
    spec = json.loads(made.parameters["spec"].string_value)
    assert spec == {"threads": 1, "streams": 3, "max_batch": 8, "stage": "text_encoder"}
    assert made.max_batch_size == 32, "callers may send as many items as before"
    assert tune() == config()


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    tuning = Tuning(
        app="demo",
        components={"text_encoder": ComponentTuning(streams=2), "image_encoder": ComponentTuning()},
        measured={"per_second": 80.5},
    )
    write_tuning(tuning, tmp_path / "demo.tuning.toml")
    assert read_tuning(tmp_path / "demo.tuning.toml") == tuning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("app = 1", "app: Input should be a valid string"),
        ("app = 'a'\n[components.text_encoder]\nthreads = -1", "components.text_encoder.threads"),
        ("app = 'a'\n[components.text_encoder]\nthread = 1", "text_encoder.thread: Extra inputs"),
        ("app = 'a'\n[components.nothing]\nthreads = 1", "components.nothing"),
        ("app = ", "no TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(TuningError, match=message) as caught:
        read_tuning(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(TuningError, match="cannot be read"):
        read_tuning(tmp_path / "nothing.toml")


def test_what_does_not_fit_the_release_is_refused() -> None:
    models: dict[Role, str] = {"text_tokenizer": "a_text_tokenizer"}
    missing = Tuning(app="a", components={"text_encoder": ComponentTuning(streams=2)})
    with pytest.raises(TuningError, match="names text_encoder, which the live release of a does"):
        tuned_configs(missing, models, lambda _: config())
    plain = pb.ModelConfig()
    plain.instance_group.add(count=1)
    threads = Tuning(app="a", components={"text_tokenizer": ComponentTuning(threads=1)})
    with pytest.raises(TuningError, match="component text_tokenizer has no threads to set"):
        tuned_configs(threads, models, lambda _: plain)


ROLES: tuple[Role, ...] = ("encoders", "fusion_head", "fusion_head_text")


def test_a_machine_s_cores_are_shared_out() -> None:
    for cores, instances, threads in ((1, 1, 1), (2, 2, 1), (6, 6, 1), (8, 8, 1), (40, 8, 5)):
        found = machine_tuning("demo", ROLES, cores, own_cores=True).components["encoders"]
        assert (found.instances, found.threads) == (instances, threads)
        assert found.pin == (cores > 1)
        assert machine_tuning("demo", ROLES, cores, own_cores=True).components.keys() == set(ROLES)
    # Two apps would both keep to the first cores, whoever of them has something to do.
    assert not machine_tuning("demo", ROLES, 8, own_cores=False).components["encoders"].pin


@pytest.mark.e2e
def test_a_server_runs_with_it_and_the_repository_stays(tmp_path: Path) -> None:
    bundle = custom_bundle(tmp_path / "bundle")
    release = build(bundle, repository=tmp_path / "repository", target="onnxruntime")
    tuned = ComponentTuning(instances=3, threads=1, streams=2, max_batch=4)
    tuning = Tuning(app=release.app, components={"encoders": tuned})
    model = release.components["encoders"].model
    before = (tmp_path / "repository" / model / "config.pbtxt").read_bytes()
    with serve(tmp_path / "repository", ports=Ports.free(), tunings=[tuning]) as server:
        # It is ready: golden samples came back as PyTorch answers them.
        assert server.ready
        control = ModelControl(server.grpc_url)
        loaded = control.config(model)
        control.close()
        assert loaded.instance_group[0].count == 3
        assert json.loads(loaded.parameters["spec"].string_value)["streams"] == 2
        assert len(server.pids) == 1 + 3 + 3  # a head for each set of modalities
    assert (tmp_path / "repository" / model / "config.pbtxt").read_bytes() == before
    other = Tuning(app="other", components={})
    with pytest.raises(TuningError, match=f"for app other, and served are: {release.app}"):
        serve(tmp_path / "repository", ports=Ports.free(), tunings=[other])
    with pytest.raises(TuningError, match=f"app {release.app} has two tuning files"):
        serve(tmp_path / "repository", ports=Ports.free(), tunings=[tuning, tuning])
