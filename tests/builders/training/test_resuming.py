"""A training that stops half way: killed, out of disk, or with a loss that is no number."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders.training.conftest import tuned
from tests.conftest import tritium
from tests.support.manifests import pairs, tiny_encoders, write_csv, write_recipe
from tritium_builders import Bundle
from tritium_builders.data.cache import cache_folder
from tritium_builders.errors import TrainingError
from tritium_builders.training import checkpoints
from tritium_builders.training.checkpoints import Checkpoint, forget
from tritium_builders.training.fit import _Fitting
from tritium_builders.training.folds import Prepared, TrainedFold, train_fold

LEARNING: dict[str, dict[str, Any]] = {
    "text": {"train": "lora"},
    "image": {"train": "last", "layers": 1},
    "augmentation": {"token_dropout": 0.2, "flip": True, "colour_jitter": 0.2},
    "optimiser": {
        "checkpoint_seconds": 0.0,
        "warmup": 0.2,
        "schedule": "cosine",
        "mixup": 0.2,
        "head_epochs": 2,
    },
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def kept_files() -> list[Path]:
    return sorted((cache_folder() / "checkpoints").glob("*/*"))


def everything(trained: TrainedFold) -> list[torch.Tensor]:
    modules = (trained.head, trained.text_encoder, trained.image_encoder)
    return [tensor for module in modules if module for tensor in module.state_dict().values()]


class Stopped(Exception):  # noqa: N818
    """What a test stops a training with."""


@pytest.mark.parametrize("steps", [1, 5])
def test_a_stopped_training_goes_on_to_the_same_weights(
    steps: int, tiny: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of an epoch: dropout, augmentation, mixing and rates go on where they were."""
    prepared = tuned(tiny, **LEARNING)
    whole = train_fold(prepared, fold=0, seed=0)
    forget(prepared.checkpoints(0))
    taken: list[int] = []
    step = _Fitting._step

    def counted(self: _Fitting, *arguments: object) -> None:
        if self.network.encoders:  # and not in the epochs of the head alone
            if len(taken) == steps:
                raise Stopped
            taken.append(self.progress.step)
        step(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(_Fitting, "_step", counted)
        with pytest.raises(Stopped):
            train_fold(prepared, fold=0, seed=0)
        taken.clear()
        steps = -1
        again = train_fold(prepared, fold=0, seed=0)
    assert taken[0] > 0  # and not from the start
    for one, other in zip(everything(whole), everything(again), strict=True):
        assert torch.equal(one, other)
    assert again.history == whole.history
    # What is finished is not trained again either.
    with monkeypatch.context() as patch:
        patch.setattr(_Fitting, "_step", None)
        third = train_fold(prepared, fold=0, seed=0)
    assert torch.equal(everything(third)[0], everything(whole)[0])


def test_another_recipe_or_another_seed_starts_anew(tiny: Prepared) -> None:
    once: dict[str, dict[str, Any]] = {
        "text": {"train": "last", "layers": 1},
        "optimiser": {"max_epochs": 1},
    }
    train_fold(tuned(tiny, **once), fold=0, seed=0)
    train_fold(tuned(tiny, **once), fold=0, seed=1)
    train_fold(tuned(tiny, **once, fusion={"dropout": 0.1}), fold=0, seed=0)
    assert len(kept_files()) == 3
    assert len({path.parent for path in kept_files()}) == 2


def test_frozen_encoders_leave_no_checkpoints(tiny: Prepared) -> None:
    train_fold(tiny, fold=0, seed=0)
    assert kept_files() == []


@pytest.mark.parametrize("modality", ["text", "image"])
def test_a_loss_that_is_no_number_stops_with_its_items(modality: str, tiny: Prepared) -> None:
    """Named: the step, the batch's items, and a checkpoint whose weights are numbers."""
    prepared = tuned(tiny, optimiser={"checkpoint_seconds": 0.0, "batch_size": 8})
    odd = int(prepared.split(0).train[3])
    features = prepared.features
    values = getattr(features, modality).clone()
    values[odd] = float("nan")
    spoilt = replace(prepared, features=replace(features, **{modality: values}))
    still = tuned(spoilt, fusion={"modality_dropout": 0.0})
    with pytest.raises(TrainingError) as caught:
        train_fold(still, fold=0, seed=0)
    message = str(caught.value)
    name = prepared.dataset.items[odd].id
    assert "epoch 1, step " in message
    assert "the loss is nan; the batch's items: " in message
    items = message.partition("items: ")[2].partition(";")[0].split(", ")
    assert name in items
    assert len(items) <= 8
    step = int(message.partition("step ")[2].partition(":")[0])
    if step == 1:
        assert "last good checkpoint: there is none" in message
    else:
        (kept,) = kept_files()
        assert f"last good checkpoint: {kept} (epoch 1, step {step - 1})" in message
        loaded = Checkpoint(kept, 0).load()
        assert loaded is not None
        assert all(bool(tensor.isfinite().all()) for tensor in loaded[0].values())


def test_weights_that_explode_are_never_kept(tiny: Prepared) -> None:
    how = {"kind": "sgd", "learning_rate": 1e30, "checkpoint_seconds": 0.0}
    with pytest.raises(TrainingError, match=r"lower the learning rates"):
        train_fold(tuned(tiny, optimiser=how), fold=0, seed=0)
    for path in kept_files():
        loaded = Checkpoint(path, 0).load()
        assert loaded is not None
        assert all(bool(tensor.isfinite().all()) for tensor in loaded[0].values())


@pytest.fixture
def small_files() -> Iterator[None]:
    """Files end at 2,000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, small_files: None) -> None:
    checkpoint = Checkpoint(tmp_path / "folder" / "one.safetensors", 0)
    checkpoint.save({"a": torch.ones(3)}, {"step": 1})
    with pytest.raises(TrainingError, match=r"0\.4 MB cannot be written .*; free disk space, or"):
        checkpoint.save({"a": torch.ones(100_000)}, {"step": 2})
    loaded = checkpoint.load()
    assert loaded is not None
    assert loaded[1] == {"step": 1}
    assert [path.name for path in checkpoint.path.parent.iterdir()] == ["one.safetensors"]


def test_a_full_disk_ends_a_training_in_words(
    tiny: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(TrainingError, match=r"No space left on device.*run again"):
        train_fold(tuned(tiny, **LEARNING), fold=0, seed=0)
    assert kept_files() == []


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"\x08" + bytes(7) + b'{"a": 1}'])
def test_a_damaged_checkpoint_is_not_gone_on_from(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(content)
    assert Checkpoint(path, 0).load() is None


def test_old_checkpoints_of_others_are_removed(tmp_path: Path) -> None:
    names = ("own", "old", "new")
    for name in names:
        Checkpoint(tmp_path / name / "one.safetensors", 0).save({"a": torch.ones(1)}, {})
    long_ago = time.time() - 20 * 24 * 3600
    os.utime(tmp_path / "old" / "one.safetensors", (long_ago, long_ago))
    forget(tmp_path / "own")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


OPTIMISER = """\
max_epochs = 30
patience = 30
batch_size = 8
checkpoint_seconds = 0.0
[split]
folds = 3
validation_folds = 4
"""


@pytest.mark.full
def test_tritium_train_that_was_killed_gives_the_same_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the middle, the same command again: the figures of an uninterrupted run."""
    write_csv(tmp_path / "pairs.csv", pairs(tmp_path, 48))
    recipe = write_recipe(
        tmp_path, tiny_encoders(tmp_path), "pairs.csv",
        split=OPTIMISER.replace("max_epochs = 30\n", ""),
    )  # fmt: skip
    content = recipe.read_text().replace("max_epochs = 4", "max_epochs = 30")
    recipe.write_text(content.replace("[image_encoder]", 'train = "lora"\n[image_encoder]'))
    command = "from tritium_client.cli import main; main()"
    arguments = ["train", str(recipe), "--out", str(tmp_path / "killed")]
    with subprocess.Popen([sys.executable, "-c", command, *arguments]) as process:
        while not (found := [path for path in kept_files() if path.suffix == ".safetensors"]):
            assert process.poll() is None
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    kept = Checkpoint(found[0], 0).load()
    assert kept is not None
    assert not kept[1]["finished"]
    assert not (tmp_path / "killed").exists()
    again = tritium(*arguments, "--json")
    assert again.returncode == 0, again.stderr
    assert kept_files() == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    from tritium_builders.training import train

    whole = train(recipe, out=tmp_path / "whole")
    assert json.loads(again.stdout)["hash"] == whole.hash
    report = (whole.folder / "report.json").read_bytes()
    assert (Bundle.load(tmp_path / "killed").folder / "report.json").read_bytes() == report
