"""Publishing: reuse, numbers that are never used again, and crashes at every step."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import models
from tests.support.known import fusion_bundle
from tritium_builders import Bundle, Release, build, builder
from tritium_builders import publish as publishing
from tritium_builders.errors import PublishError
from tritium_builders.models import FUSION_HEADS
from tritium_builders.release import (
    Target,
    list_apps,
    list_releases,
    live_release,
    load_release,
    release_folder,
)
from tritium_builders.samples import read_samples

FULL = bool(os.environ.get("TRITIUM_TEST_FULL"))


@pytest.fixture(scope="module")
def retrained(tmp_path_factory: pytest.TempPathFactory, custom: Bundle) -> Bundle:
    """The custom bundle with another head: encoders, tokenizer and decoder are the same."""
    import torch

    modules = models.custom_modules()
    torch.manual_seed(99)
    modules["fusion_head"] = models.AttentionHead().eval()
    path = tmp_path_factory.mktemp("retrained") / "custom"
    return Bundle.from_modules(app="custom", path=path, examples=models.examples(), **modules)


@pytest.fixture(scope="module")
def published(custom: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one release, built once; tests copy it."""
    folder = tmp_path_factory.mktemp("published") / "repository"
    build(custom, target="openvino", repository=folder)
    return folder


@pytest.fixture
def repository(published: Path, tmp_path: Path) -> Path:
    return shutil.copytree(published, tmp_path / "repository")


def snapshot(repository: Path) -> dict[str, float]:
    """Modification times: Triton re-initialises a model when one of its files' changes."""
    return {
        path.relative_to(repository).as_posix(): path.stat().st_mtime
        for path in repository.rglob("*")
        if ".tritium" not in path.parts
    }


def test_the_first_release_is_live_and_complete(custom: Bundle, repository: Path) -> None:
    assert list_apps(repository) == ["custom"]
    assert live_release(repository, "custom") == 1
    folder = release_folder(repository, "custom", 1)
    release = load_release(folder)
    assert release.bundle_hash == custom.hash
    assert read_samples(folder, "golden") == custom.golden
    assert read_samples(folder, "validation") == custom.validation
    for component in release.components.values():
        for name in component.files:
            assert (repository / component.model / name).is_file()
        assert any(name.endswith(".pyc") for name in component.files)
    assert {stage.stage for stage in release.parity.stages} == set(release.components)


def test_a_small_image_encoder_takes_one_picture_at_a_time(repository: Path) -> None:
    release = load_release(release_folder(repository, "custom", 1))
    few = {
        role: '\\"one_by_one\\": true' in (repository / one.model / "config.pbtxt").read_text()
        for role, one in release.components.items()
        if role in {"text_encoder", "image_encoder", "fusion_head"}
    }
    assert few == {"text_encoder": False, "image_encoder": True, "fusion_head": False}


def test_the_same_build_is_not_made_twice(custom: Bundle, repository: Path) -> None:
    steps: list[str] = []
    before = snapshot(repository)
    release = build(
        custom,
        target="openvino",
        repository=repository,
        progress=lambda step, _: steps.append(step),
    )
    assert (release.number, steps) == (1, [])
    assert snapshot(repository) == before


def test_a_retrained_head_reuses_the_encoders_and_waits_for_a_rollout(
    repository: Path, retrained: Bundle
) -> None:
    before = snapshot(repository)
    release = build(retrained, target="openvino", repository=repository)
    assert release.number == 2
    assert live_release(repository, "custom") == 1
    first = load_release(release_folder(repository, "custom", 1))
    same = {role for role, one in release.components.items() if first.components[role] == one}
    read_and_encode = {"text_tokenizer", "image_decoder", "text_encoder", "image_encoder"}
    assert same == {*read_and_encode, "encoders"}, "no encoder is loaded again"
    after = snapshot(repository)
    changed = {name for name, time in before.items() if after[name] != time}
    # Only the folders that a new release folder was added to.
    assert changed <= {"custom_classify", "custom_classify_text", "custom_classify_image"}


def test_releases_for_two_targets_live_side_by_side(repository: Path, custom: Bundle) -> None:
    first = load_release(release_folder(repository, "custom", 1))
    release = build(custom, target="onnxruntime", repository=repository)
    assert (release.number, release.target) == (2, "onnxruntime")
    assert build(custom, target="openvino", repository=repository).number == 1
    assert "1/model.xml" in first.components["image_encoder"].files
    heads = {role: one for role, one in first.components.items() if role.startswith("fusion_head")}
    assert len(heads) == 3
    assert heads.items() <= release.components.items(), "ONNX Runtime runs every head"
    assert "onnxruntime (heads)" in first.tools


def test_changed_served_code_is_another_release(
    repository: Path, custom: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release carries our own servables, and a checkout changes between two versions."""
    first = build(custom, target="openvino", repository=repository)
    assert build(custom, target="openvino", repository=repository).number == first.number
    monkeypatch.setattr(builder, "_served_code", lambda: "changed")
    assert build(custom, target="openvino", repository=repository).number == first.number + 1


def test_numbers_are_never_used_again(repository: Path, retrained: Bundle, custom: Bundle) -> None:
    assert build(retrained, target="openvino", repository=repository).number == 2
    for path in repository.glob("custom_classify*"):
        shutil.rmtree(path / "2", ignore_errors=True)
        if path.name.endswith("_r2"):
            shutil.rmtree(path)
    assert list_releases(repository, "custom") == [1]
    assert build(retrained, target="openvino", repository=repository).number == 3


def test_history_is_kept(repository: Path, retrained: Bundle) -> None:
    build(retrained, target="openvino", repository=repository)
    lines = (repository / ".tritium" / "custom.history.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert [(entry["action"], entry["release"], entry["live"]) for entry in entries] == [
        ("publish", 1, 1),
        ("publish", 2, 1),
    ]


def test_a_changed_file_of_a_published_component_is_not_reused(
    repository: Path, retrained: Bundle
) -> None:
    (engine,) = repository.glob("custom_text_encoder_*/1/model.bin")
    engine.write_bytes(engine.read_bytes()[:-1] + b"\x01")
    with pytest.raises(PublishError, match=r"model\.bin: differs from what its name says"):
        build(retrained, target="openvino", repository=repository)
    assert list_releases(repository, "custom") == [1]


STEPS = ["_install_component", "_install_ensembles", "_install_release", "_make_live_if_first",
         "_append_history"]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("first", [True, False])
def test_a_kill_at_any_step_leaves_a_repository_that_serves_what_it_served(
    published: Path, retrained: Bundle, tmp_path: Path, step: str, first: bool
) -> None:
    repository = tmp_path / "repository"
    if not first:
        shutil.copytree(published, repository)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=build_and_die, args=(retrained, repository, step))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    if not first:
        assert live_release(repository, "custom") == 1
        assert 1 in list_releases(repository, "custom")
    for number in list_releases(repository, "custom"):
        assert_complete(repository, load_release(release_folder(repository, "custom", number)))
    again = build(retrained, target="openvino", repository=repository)
    assert_complete(repository, again)
    assert live_release(repository, "custom") == (again.number if first else 1)
    assert not list((repository / ".tritium").glob("staging*"))


def build_and_die(bundle: Bundle, repository: Path, step: str) -> None:
    """Build, and be killed when `step` begins (in a process of its own)."""
    setattr(publishing, step, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    build(bundle, target="openvino", repository=repository)


def assert_complete(repository: Path, release: Release) -> None:
    for component in release.components.values():
        for name in component.files:
            assert (repository / component.model / name).is_file()
    for given in release.entry_points:
        alias = release.alias(given)
        assert (repository / f"{alias}_r{release.number}" / "config.pbtxt").is_file()
        assert (repository / alias / str(release.number)).is_dir()


def test_two_builds_at_once_get_two_numbers(
    custom: Bundle, retrained: Bundle, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    context = multiprocessing.get_context("fork")
    both = [
        context.Process(target=build, args=(bundle,), kwargs={"repository": repository})
        for bundle in (custom, retrained)
    ]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
        assert process.exitcode == 0
    assert list_releases(repository, "custom") == [1, 2]


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("kilobytes", [600, 7500], ids=["at export", "at compile"])
def test_a_full_disk_publishes_nothing_and_says_so(
    custom: Bundle, tmp_path: Path, kilobytes: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = (
        f"mount -t tmpfs -o size={kilobytes}k tmpfs {disk} && "
        f"{sys.executable} -c 'from tritium_client.cli import main; main()' "
        f"build {custom.folder} --repository {disk}; "
        f"code=$?; ls -A {disk} {disk}/.tritium; exit $code"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    if "unshare failed" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no private mounts here: {done.stderr}")
    assert done.returncode == 1, done.stderr
    assert "No space left on device; nothing was published" in done.stderr
    assert "Traceback" not in done.stderr
    assert "custom_" not in done.stdout
    assert "staging" not in done.stdout


@pytest.mark.parametrize(
    "strategy",
    sorted(FUSION_HEADS) if FULL else ["concat", "gated", "late", "sequence_cross_attention"],
)
def test_every_fusion_strategy_builds_for_both_targets(strategy: str, tmp_path: Path) -> None:
    bundle = fusion_bundle(tmp_path / "bundle", strategy)
    assert bundle.manifest.fusion_head.architecture == strategy
    assert not list((bundle.folder / "fusion_head").glob("*.onnx"))  # weights are kept
    # Heads run on ONNX Runtime for both: `make test-full` builds all of them for both, too.
    both = FULL or strategy in ("concat", "sequence_cross_attention")
    targets: tuple[Target, ...] = ("onnxruntime", "openvino") if both else ("onnxruntime",)
    for number, target in enumerate(targets, 1):
        release = build(bundle, target=target, repository=tmp_path / "r")
        assert release.number == number
        assert max(stage.largest_difference for stage in release.parity.stages) < 1e-4
        compared = {stage.stage for stage in release.parity.stages}
        assert {"fusion_head", "fusion_head_text", "fusion_head_image"} <= compared
