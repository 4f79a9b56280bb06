"""Why an app answers what it answers, for one item: what each token and image region adds.

    command.py -> explaining.py (which method, which output) -> gradients.py, attention.py or
    occlusion.py -> records.Explanation -> page.py or picture.py

Names are imported when they are used: the command line shows its help without PyTorch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritium_builders.explain.explaining import explain
    from tritium_builders.explain.records import Explanation

__all__ = ["Explanation", "explain"]

_HOMES = {"Explanation": "records", "explain": "explaining"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
