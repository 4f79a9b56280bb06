"""The servable that reads and encodes: what it asks which step, and what failures become."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritium_builders.servables import encoders as encoders_module
from tritium_builders.servables.encoders import CoreAtWork, Encoders, Tensors, share_cores

STEP = """
class Step:
    def __init__(self, folder, spec):
        self.spec = spec

    def __call__(self, requests):
        return [self.answer(dict(request)) for request in requests]

    def answer(self, request):
        import threading
        import numpy as np
        name = self.spec["name"]
        word = str(request[name.partition("_")[0]][0, 0])
        if name in word:
            kind = "tritium.invalid_input " if "refuse" in word else ""
            return ValueError(f"{kind}stage={name} item=0: as asked")
        return {name: np.array([[threading.get_ident()]])}
"""
STEPS = ("text_tokenizer", "text_encoder", "image_decoder", "image_encoder")


def make(folder: Path, **changed: Any) -> tuple[Encoders, list[tuple[str, int]]]:
    """Encoders over steps that say which thread ran them."""
    for name in STEPS:
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(STEP)
    (folder / "encoders" / "1").mkdir(parents=True)
    steps = {
        name: {"model": name, "servable": "Step", "spec": {"name": name, "threads": 99}}
        for name in STEPS
    }
    spec = {"threads": 1, "streams": 1, "max_batch": 8, "steps": steps, **changed}
    seen: list[tuple[str, int]] = []
    encoders = Encoders(
        folder / "encoders" / "1", spec, lambda step, count, *_: seen.append((step, count))
    )
    return encoders, seen


def request(text: str | None = None, image: str | None = None) -> Tensors:
    given = {"text": text, "image": image}
    return {name: np.array([[value]], object) for name, value in given.items() if value is not None}


def ran(found: Tensors | Exception) -> list[str]:
    """The steps that a request met."""
    assert not isinstance(found, Exception), found
    return sorted(name for name in found if name in STEPS)


def test_every_request_meets_the_steps_of_what_it_has(tmp_path: Path) -> None:
    encoders, seen = make(tmp_path)
    both, text, image = encoders([request("a", "b"), request(text="a"), request(image="b")])
    assert ran(both) == sorted(STEPS)
    assert ran(text) == ["text_encoder", "text_tokenizer"]
    assert ran(image) == ["image_decoder", "image_encoder"]
    assert seen == [(step, 2) for step in STEPS]


def test_a_text_alone_runs_no_step_of_pictures(tmp_path: Path) -> None:
    encoders, seen = make(tmp_path)
    encoders([request(text="a")])
    assert [step for step, _ in seen] == ["text_tokenizer", "text_encoder"]


def test_a_request_alone_has_both_read_side_by_side(tmp_path: Path) -> None:
    encoders, _ = make(tmp_path)
    (found,) = encoders([request("a", "b")])
    assert ran(found) == sorted(STEPS)
    assert not isinstance(found, Exception)
    assert found["image_encoder"][0, 0] == threading.get_ident()
    assert found["text_encoder"][0, 0] != threading.get_ident()


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_is_one_request_s_own(tmp_path: Path, step: str, alone: bool) -> None:
    encoders, _ = make(tmp_path)
    neighbours = [] if alone else [request("good", "good"), request(text="good")]
    failed, *others = encoders([request(f"break {step}", f"break {step}"), *neighbours])
    assert isinstance(failed, RuntimeError)
    assert str(failed).startswith(f"{step}: ")
    refused, *_ = encoders([request(f"refuse {step}", f"refuse {step}"), *neighbours])
    assert str(refused) == f"tritium.invalid_input stage={step} item=0: as asked"
    assert [len(ran(other)) for other in others] == [4, 2][: len(others)]


def test_no_step_runs_for_a_request_that_has_failed(tmp_path: Path) -> None:
    encoders, seen = make(tmp_path)
    encoders([request("break text_tokenizer", "b"), request("break text_tokenizer", "b")])
    assert seen == [("text_tokenizer", 2)]


def test_refused_inputs_are_counted_and_broken_steps_are_not(tmp_path: Path) -> None:
    encoders, _ = make(tmp_path)
    counted: list[tuple[str, int, int]] = []
    encoders._on_step = lambda step, count, _, refused: counted.append((step, count, refused))
    encoders([request("refuse text_tokenizer"), request("break text_tokenizer"), request("a")])
    assert counted == [("text_tokenizer", 3, 1), ("text_encoder", 1, 0)]


def test_the_encoders_setting_is_every_step_s(tmp_path: Path) -> None:
    encoders, _ = make(tmp_path, threads=3, streams=2, max_batch=4)
    step: Any = encoders._steps["text_encoder"]
    assert step.spec == {"name": "text_encoder", "threads": 3, "streams": 2, "max_batch": 4}


def test_instances_take_cores_in_turn() -> None:
    cores = sorted(os.sched_getaffinity(0))
    shared = [share_cores(f"demo_encoders_0_{number}", 1) for number in range(len(cores))]
    if len(cores) == 1:
        assert shared == [None]
        return
    assert [one and one["own"] for one in shared] == [[core] for core in cores]
    assert all(one is not None and one["own"] != one["beside"] for one in shared)
    assert share_cores("demo_encoders_0_0", 0) is None
    assert share_cores("demo_encoders_0_0", len(cores)) is None


def in_a_thread(run: Callable[[], None]) -> None:
    """Cores are kept to for good: the thread of the tests keeps all of them."""
    before = os.sched_getaffinity(0)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
    assert os.sched_getaffinity(0) == before


def test_what_keeps_to_cores_does(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    own, beside = cores[:1], cores[-1:]

    def run() -> None:
        encoders, _ = make(tmp_path, cores={"own": own, "beside": beside})
        assert os.sched_getaffinity(0) == set(own)
        assert encoders._beside.submit(os.sched_getaffinity, 0).result() == set(beside)

    in_a_thread(run)


def test_a_core_of_an_instance_at_work_is_left_alone(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    locks = tmp_path / "locks"
    locks.mkdir()

    def threads_of_one_request(encoders: Encoders) -> int:
        (found,) = encoders([request("a", "b")])
        assert not isinstance(found, Exception)
        return len({int(found[name][0, 0]) for name in ("text_encoder", "image_encoder")})

    def run() -> None:
        # Twice the same core where there is but one: it is at work, too.
        shared = {"own": cores[:1], "beside": cores[-1:], "locks": str(locks)}
        encoders, _ = make(tmp_path, cores=shared)
        assert threads_of_one_request(encoders) == min(len(cores), 2)
        with CoreAtWork(locks / f"core-{cores[-1]}") as was_idle:
            assert was_idle
            assert threads_of_one_request(encoders) == 1
        assert threads_of_one_request(encoders) == min(len(cores), 2)

    in_a_thread(run)


def test_what_a_dead_instance_said_is_over(tmp_path: Path) -> None:
    said = (
        "import os, pathlib, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from encoders import CoreAtWork\n"
        "CoreAtWork(pathlib.Path(sys.argv[2])).__enter__()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    folder = str(Path(encoders_module.__file__).parent)
    subprocess.run([sys.executable, "-c", said, folder, str(tmp_path / "core-0")], check=False)
    with CoreAtWork(tmp_path / "core-0") as was_idle:
        assert was_idle
