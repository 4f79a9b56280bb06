"""What a run may compare."""

from __future__ import annotations

from pathlib import Path

import pytest

from tritium_benchmarks.contenders import CONTENDERS, TWIN, Contender
from tritium_benchmarks.errors import BenchmarkError
from tritium_benchmarks.planning import Asked, require_same_precision
from tritium_benchmarks.workload import load_workload
from tritium_builders.release import Precision, Release, Target

OTHER = CONTENDERS["litserve-onnxruntime"]


def asked(*baselines: Contender, limit: bool = False) -> Asked:
    workload = load_workload("single")
    return Asked("app", workload, list(baselines), Path(), None, None, limit=limit)


def release(target: Target, precision: Precision) -> Release:
    return Release.model_construct(target=target, precision=precision)


def test_int8_is_not_measured_beside_what_would_be_fp32() -> None:
    int8 = release("openvino", "int8")
    for wrong in (asked(CONTENDERS[TWIN]), asked(limit=True)):
        with pytest.raises(BenchmarkError, match="int8, which neither the limit nor litserve-tu"):
            require_same_precision(wrong, int8)
    require_same_precision(asked(OTHER), int8)


def test_other_precisions_have_a_twin_and_a_limit() -> None:
    both = asked(CONTENDERS[TWIN], limit=True)
    for precision in ("fp32", "bf16"):
        require_same_precision(both, release("openvino", precision))
    require_same_precision(both, None)
