"""`--target auto`: the faster runtime is taken, the first one in doubt; the release says why."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tritium_builders import Bundle, build, choose
from tritium_builders.choose import LEAD, Candidate, decide
from tritium_builders.release import Target

RATES = st.floats(0.1, 1e4)


@given(RATES, RATES)
def test_another_runtime_has_to_lead_by_more_than_noise(first: float, other: float) -> None:
    rates = {Candidate("openvino"): first, Candidate("onnxruntime"): other}
    choice = decide(rates, {target: 1000 / rate for target, rate in rates.items()}, 1)
    assert (choice.target == "onnxruntime") == (other / first > LEAD)
    # As much faster in batches as slower alone: nothing to choose.
    assert decide(rates, rates, 1).target == "openvino"


def test_the_faster_runtime_is_found(custom: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "ROUND_S", 0.02)
    asked: list[tuple[Target, int]] = []

    def loader(target: Target, seconds: float) -> Callable[[int], choose.Servable]:
        def load(threads: int) -> choose.Servable:
            def answer(requests: Sequence[dict[str, Any]]) -> Sequence[Any]:
                assert all(request.keys() == {"text", "image"} for request in requests)
                asked.append((target, threads))
                time.sleep(seconds)
                return requests

            return answer

        return load

    choice = choose.choose(
        custom,
        {
            Candidate("openvino"): loader("openvino", 0.01),
            Candidate("onnxruntime"): loader("onnxruntime", 0.002),
        },
    )
    assert choice.target == "onnxruntime"
    assert choice.per_second["onnxruntime"] > choice.per_second["openvino"]
    assert {target for target, _ in asked} == {"openvino", "onnxruntime"}
    assert {threads for _, threads in asked} == {choice.threads}


def test_a_release_says_why_it_has_its_runtime_and_keeps_it(
    custom: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "ROUND_S", 0.02)
    steps: list[tuple[str, str]] = []
    release = build(
        custom,
        target="auto",
        repository=tmp_path,
        progress=lambda step, item: steps.append((step, item)),
    )
    assert release.choice is not None
    assert release.choice.target == release.target
    assert release.choice.per_second.keys() == {"openvino", "onnxruntime"}
    assert [item for step, item in steps if step == "measure"] == ["openvino", "onnxruntime"]
    assert {"openvino", "onnxruntime"} <= release.tools.keys()
    assert "--target auto" in release.command
    # Asked again, nothing is measured: noise must not change what is served.
    steps.clear()
    assert build(custom, target="auto", repository=tmp_path).number == release.number
    assert steps == []
    assert build(custom, target=release.target, repository=tmp_path).number == release.number + 1
