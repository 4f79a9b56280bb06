"""Who may answer otherwise than PyTorch, and by how much."""

from __future__ import annotations

from tritium_benchmarks.contenders import TRITIUM, TWIN
from tritium_benchmarks.fairness import problems
from tritium_benchmarks.records import Fairness


def answers(contender: str, differ: int, accuracy: float | None) -> Fairness:
    return Fairness(contender=contender, items=200, differ=differ, accuracy=accuracy)


def test_fp32_answers_as_pytorch_does() -> None:
    everybody = [answers(TRITIUM, 1, 0.83), answers("fastapi-pytorch", 0, 0.83)]
    (said,) = problems(everybody, "fp32")
    assert said == f"{TRITIUM} answers 1 of 200 held-out items otherwise than PyTorch"


def test_reduced_precision_may_answer_otherwise_and_hardly_worse() -> None:
    other = answers("litserve-onnxruntime", 0, 0.83)
    for accuracy in (0.85, 0.83, 0.825):
        assert problems([answers(TRITIUM, 3, accuracy), other], "bf16") == []
    (said,) = problems([answers(TRITIUM, 3, 0.83), answers(TWIN, 4, 0.82), other], "bf16")
    assert said == f"{TWIN} is 1.0 points less accurate than fp32"


def test_who_serves_fp32_beside_it_answers_as_pytorch_does() -> None:
    (said,) = problems([answers(TRITIUM, 3, None), answers("pytriton", 2, None)], "bf16")
    assert said.startswith("pytriton answers 2 of 200")
