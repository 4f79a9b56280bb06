"""What Dockerfile.serve-cpu makes, and how it runs, as far as that can be seen without Docker."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.calls import get, infer, wait_until
from tests.deploy.dockerfile import Replay, stages
from tests.deploy.sandbox import Sandbox, first_process, open_folder, python_path, stop
from tests.deploy.test_dockerfiles import ROOT, kept_for_docker, text
from tests.deploy.tiny_repository import publish
from tritonclient.grpc import InferenceServerClient

from tritium_deploy import Ports

pytestmark = [pytest.mark.e2e, pytest.mark.full]
START_TIMEOUT_S = 60.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where one container's files lie, with a repository."""
    with open_folder() as made:
        (made / "repository").mkdir()
        publish(made / "repository")
        yield made


def serve_in(sandbox: Sandbox, tritium: Path, output: Path, **environment: str) -> None:
    """Start, ask, kill a process of it, see it healed, stop: as a container that is locked up."""
    ports = Ports.free()
    served = sandbox.start(
        str(tritium),
        "serve",
        f"--repository={sandbox.models}",
        "--json",
        f"--grpc-port={ports.grpc}",
        f"--metrics-port={ports.metrics}",
        f"--ready-port={ports.ready}",
        output=output,
        PATH=f"{tritium.parent}:/usr/bin:/bin",
        **environment,
    )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while '"event": "ready"' not in (said := output.read_text()):
            assert served.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.05)
        first = first_process(served)
        assert first.uids().effective == 1000
        ready = f"http://127.0.0.1:{ports.ready}/ready"
        with InferenceServerClient(f"127.0.0.1:{ports.grpc}") as client:
            assert len(infer(client, "tiny_classify", {"text": b"a", "image": b"b"})) == 3
            stub = next(
                one
                for one in first.children(recursive=True)
                if one.name().startswith("triton_python")
            )
            stub.kill()
            # A repository that cannot be written is healed as well.
            assert wait_until(lambda: get(ready)[1]["apps"]["tiny"]["heals"] == 1, 20)
            assert wait_until(lambda: get(ready)[0] == 200, 20)
            assert len(infer(client, "tiny_classify", {"text": b"a", "image": b"b"})) == 3
        assert stop(served) == 0, output.read_text()
        assert '"event": "stopped"' in output.read_text()
    finally:
        served.kill()
        served.wait(10)


def test_it_serves_as_process_1_without_rights_on_a_read_only_system(
    folder: Path, tmp_path: Path
) -> None:
    tritium = Path(sys.executable).parent / "tritium"
    sandbox = Sandbox(folder, Path(sys.executable))
    serve_in(sandbox, tritium, tmp_path / "events", PYTHONPATH=python_path())


@pytest.fixture(scope="module")
def image() -> Iterator[Replay]:
    """The stages `build` and `describe`, carried out with this Python in a folder."""
    with open_folder() as made:
        replay = Replay(made, ROOT, kept_for_docker())
        found = stages(text("Dockerfile.serve-cpu"))
        for stage in ("build", "describe"):
            replay.do(found[stage])
        yield replay


def test_the_image_serves_with_what_is_in_it(image: Replay, folder: Path, tmp_path: Path) -> None:
    """Of this checkout it has nothing but what was copied and installed."""
    tritium = image.path("/opt/tritium/bin/tritium")
    serve_in(Sandbox(folder, Path(sys.executable)), tritium, tmp_path / "events")


def test_the_image_holds_what_serving_needs_and_no_more(image: Replay) -> None:
    packages = image.path("/opt/tritium").glob("lib/python3*/site-packages/*")
    names = {path.name.partition("-")[0] for path in packages}
    assert {"tritium_deploy", "pytriton", "openvino", "onnxruntime"} <= names
    assert not {"torch", "transformers", "pytest", "cyclonedx_py"} & names


def test_the_bill_of_materials_is_of_what_is_installed(image: Replay) -> None:
    document = json.loads(image.path("/tritium.cdx.json").read_text(encoding="utf-8"))
    assert (document["bomFormat"], document["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "tritium",
    )
    listed = {_plain(one["name"]): one["version"] for one in document["components"]}
    metadata = image.path("/opt/tritium").glob("lib/python3*/site-packages/*.dist-info")
    installed = {_plain(path.name.partition("-")[0]) for path in metadata}
    assert installed - {"tritium"} <= set(listed)
    assert listed["nvidia-pytriton"] == "0.7.0"
    assert listed["numpy"].startswith("1.")
    assert str(image.folder) not in json.dumps(document)


def _plain(name: str) -> str:
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
