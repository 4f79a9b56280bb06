"""The servable that runs a whole graph: what it asks which step, and what failures become."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tritium_builders.servables.pipeline import Pipeline, Tensors, share_cores

STEP = """
class Step:
    def __init__(self, folder, spec):
        self.spec = spec

    def __call__(self, requests):
        return [self.answer(dict(request)) for request in requests]

    def answer(self, request):
        import threading
        import numpy as np
        words = [value for key, value in sorted(request.items()) if key in ("text", "image")]
        for word in words:
            if self.spec["name"] in str(word[0, 0]):
                kind = "tritium.invalid_input " if "refuse" in str(word[0, 0]) else ""
                return ValueError(f"{kind}stage={self.spec['name']} item=0: as asked")
        if self.spec["name"].startswith("fusion_head"):
            said = ",".join(sorted(key for key in request if key.endswith("er")))
            return {"probabilities": np.array([[self.spec["name"], said]])}
        return {self.spec["name"]: np.array([[threading.get_ident()]])}
"""
STEPS = (
    "text_tokenizer", "text_encoder", "image_decoder", "image_encoder",
    "fusion_head", "fusion_head_text", "fusion_head_image",
)  # fmt: skip
HEADS = {"text,image": "fusion_head", "text": "fusion_head_text", "image": "fusion_head_image"}


def make(folder: Path, **changed: Any) -> tuple[Pipeline, list[tuple[str, int]]]:
    """A pipeline over steps that say what they were asked."""
    for name in STEPS:
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "model.py").write_text(STEP)
    (folder / "pipeline" / "1").mkdir(parents=True)
    steps = {
        name: {"model": name, "servable": "Step", "spec": {"name": name, "threads": 99}}
        for name in STEPS
    }
    spec = {"threads": 1, "streams": 1, "max_batch": 8, "steps": steps, "heads": HEADS, **changed}
    seen: list[tuple[str, int]] = []
    pipeline = Pipeline(
        folder / "pipeline" / "1", spec, lambda step, count, _: seen.append((step, count))
    )
    return pipeline, seen


def request(text: str | None = None, image: str | None = None) -> Tensors:
    given = {"text": text, "image": image}
    return {name: np.array([[value]], object) for name, value in given.items() if value is not None}


def answer(found: Tensors | Exception) -> list[str]:
    assert not isinstance(found, Exception), found
    probabilities: list[str] = found["probabilities"][0].tolist()
    return probabilities


def test_every_request_meets_the_steps_of_what_it_has(tmp_path: Path) -> None:
    pipeline, seen = make(tmp_path)
    both, text, image = pipeline([request("a", "b"), request(text="a"), request(image="b")])
    assert answer(both) == [
        "fusion_head", "image_decoder,image_encoder,text_encoder,text_tokenizer",
    ]  # fmt: skip
    assert answer(text) == ["fusion_head_text", "text_encoder,text_tokenizer"]
    assert answer(image) == ["fusion_head_image", "image_decoder,image_encoder"]
    assert seen == [
        ("text_tokenizer", 2), ("text_encoder", 2), ("image_decoder", 2), ("image_encoder", 2),
        ("fusion_head", 1), ("fusion_head_text", 1), ("fusion_head_image", 1),
    ]  # fmt: skip


def test_a_text_alone_runs_no_step_of_pictures(tmp_path: Path) -> None:
    pipeline, seen = make(tmp_path)
    pipeline([request(text="a")])
    assert [step for step, _ in seen] == ["text_tokenizer", "text_encoder", "fusion_head_text"]


def test_a_request_alone_has_both_read_side_by_side(tmp_path: Path) -> None:
    pipeline, _ = make(tmp_path)
    (found,) = pipeline([request("a", "b")])
    assert not isinstance(found, Exception)
    assert answer(found)[0] == "fusion_head"
    assert found["image_encoder"][0, 0] == threading.get_ident()
    assert found["text_encoder"][0, 0] != threading.get_ident()


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("step", ["text_tokenizer", "text_encoder", "image_decoder", "fusion_head"])
def test_a_failure_is_one_request_s_own(tmp_path: Path, step: str, alone: bool) -> None:
    pipeline, _ = make(tmp_path)
    neighbours = [] if alone else [request("good", "good"), request(text="good")]
    failed, *others = pipeline([request(f"break {step}", f"break {step}"), *neighbours])
    assert isinstance(failed, RuntimeError)
    assert str(failed).startswith(f"{step}: ")
    refused, *_ = pipeline([request(f"refuse {step}", f"refuse {step}"), *neighbours])
    assert str(refused) == f"tritium.invalid_input stage={step} item=0: as asked"
    assert [answer(other)[0] for other in others] == ["fusion_head", "fusion_head_text"][
        : len(others)
    ]


def test_no_step_runs_for_a_request_that_has_failed(tmp_path: Path) -> None:
    pipeline, seen = make(tmp_path)
    pipeline([request("break text_tokenizer", "b"), request("break text_tokenizer", "b")])
    assert seen == [("text_tokenizer", 2)]


def test_the_pipeline_s_setting_is_every_step_s(tmp_path: Path) -> None:
    pipeline, _ = make(tmp_path, threads=3, streams=2, max_batch=4)
    step: Any = pipeline._steps["text_encoder"]
    assert step.spec == {"name": "text_encoder", "threads": 3, "streams": 2, "max_batch": 4}


def test_instances_take_cores_in_turn() -> None:
    cores = sorted(os.sched_getaffinity(0))
    shared = [share_cores(f"demo_pipeline_0_{number}", 1) for number in range(len(cores))]
    if len(cores) == 1:
        assert shared == [None]
        return
    assert [one and one["own"] for one in shared] == [[core] for core in cores]
    assert all(one is not None and one["own"] != one["beside"] for one in shared)
    assert share_cores("demo_pipeline_0_0", 0) is None
    assert share_cores("demo_pipeline_0_0", len(cores)) is None


def test_what_keeps_to_cores_does(tmp_path: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    own, beside = cores[:1], cores[-1:]

    def run() -> None:
        pipeline, _ = make(tmp_path, cores={"own": own, "beside": beside})
        assert os.sched_getaffinity(0) == set(own)
        assert pipeline._beside.submit(os.sched_getaffinity, 0).result() == set(beside)

    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            run()
        except BaseException as error:  # noqa: BLE001 - an assertion's, too
            errors.append(error)

    # In a thread of its own: the test's keeps its cores.
    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    assert errors == []
    assert sorted(os.sched_getaffinity(0)) == cores


def test_a_spec_survives_json(tmp_path: Path) -> None:
    """It travels as a parameter of a Triton config."""
    pipeline, _ = make(tmp_path)
    assert json.loads(json.dumps(HEADS)) == pipeline._heads
