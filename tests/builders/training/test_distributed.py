"""Two processes that train one network: shares of every batch, and one set of weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.manifests import pairs, tiny_encoders, write_csv, write_recipe
from tritium_builders import Bundle
from tritium_builders.training.distributed import ALONE, Processes

Line = tuple[str, int, list[int]]
"""Which training, which epoch, and the items of one step."""

LOGGED = """
import json, os, sys
from pathlib import Path
from tritium_builders.training import __main__ as start
from tritium_builders.training.fit import _Fitting
step = _Fitting._step

def logged(self, parts, stream):
    indices = [index for part in parts for index in part.indices.tolist()]
    with (Path(os.environ["SEEN"]) / os.environ.get("RANK", "alone")).open("a") as file:
        file.write(json.dumps([self.own.title, self.progress.epoch, indices]) + "\\n")
    step(self, parts, stream)

_Fitting._step = logged
start.main()
"""
"""The entry point that launchers start, and which items each process computes."""


@pytest.mark.parametrize("items", [1, 3, 8, 9])
def test_shares_are_equal_and_cover_the_batch(items: int) -> None:
    batch = torch.arange(100, 100 + items)
    shares = [Processes(number, 4).shard(batch) for number in range(4)]
    assert len({len(share) for share in shares}) == 1
    assert set(torch.cat(shares).tolist()) == set(batch.tolist())
    if items == 8:
        assert sorted(torch.cat(shares).tolist()) == batch.tolist()
    assert torch.equal(ALONE.shard(batch), batch)


def run(command: list[str], folder: Path, name: str) -> tuple[Bundle, list[list[Line]]]:
    """Train with a cache of its own; gives the bundle and, by process, what it computed."""
    seen = folder / f"{name}-seen"
    seen.mkdir()
    out = folder / name
    done = subprocess.run(
        [*command, str(folder / "logged.py"), str(folder / "recipe.toml"), "--out", str(out)],
        env=os.environ
        | {
            "SEEN": str(seen),
            "XDG_CACHE_HOME": str(folder / f"{name}-cache"),
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote ") == 1  # and not once for each process
    logs = [path.read_text().splitlines() for path in sorted(seen.iterdir())]
    return Bundle.load(out), [[tuple(json.loads(line)) for line in lines] for lines in logs]


def items_of_epochs(lines: list[Line]) -> list[set[int]]:
    """The items of each epoch of the first training."""
    title = lines[0][0]
    epochs = {line[1] for line in lines if line[0] == title}
    return [
        {index for line in lines if line[:2] == (title, epoch) for index in line[2]}
        for epoch in sorted(epochs)
    ]


@pytest.mark.full
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    write_csv(tmp_path / "pairs.csv", pairs(tmp_path, 72))
    split = "batch_size = 8\nlearning_rate = 0.005\n[split]\nfolds = 3\nvalidation_folds = 4\n"
    recipe = write_recipe(tmp_path, tiny_encoders(tmp_path), "pairs.csv", split=split)
    content = recipe.read_text().replace("max_epochs = 4", "max_epochs = 12")
    # Without dropout, the two differ in nothing but the order of additions.
    content = content.replace("[fusion]", "[fusion]\ndropout = 0.0\nmodality_dropout = 0.0")
    recipe.write_text(content.replace("[image_encoder]", 'train = "lora"\n[image_encoder]'))
    (tmp_path / "logged.py").write_text(LOGGED)
    one, (whole,) = run([sys.executable], tmp_path, "one")
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
    ]
    two, (first, second) = run(torchrun, tmp_path, "two")
    # Each process has its share of every batch, and together they have what one has.
    assert [line[:2] for line in first] == [line[:2] for line in second]
    for own, other in zip(first, second, strict=True):
        assert len(own[2]) == len(other[2])
        assert len(set(own[2]) & set(other[2])) <= len(own[2]) % 2  # an odd batch is filled up
    assert items_of_epochs(whole)[0] == items_of_epochs([*first, *second])[0]
    reports = [json.loads((bundle.folder / "report.json").read_text()) for bundle in (one, two)]
    for figure in ("fusion", "text_model"):
        assert reports[1][figure]["mean"] == pytest.approx(reports[0][figure]["mean"], abs=0.05)
    assert one.manifest.files.keys() == two.manifest.files.keys()
