"""Rolling releases out to running servers: `Rollout(repository, endpoints)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritium_deploy.rollout.operator import Rollout
    from tritium_deploy.rollout.settings import RolloutSettings, read_settings

__all__ = ["Rollout", "RolloutSettings", "read_settings"]

_HOMES = {
    "Rollout": "tritium_deploy.rollout.operator",
    "RolloutSettings": "tritium_deploy.rollout.settings",
    "read_settings": "tritium_deploy.rollout.settings",
}


def __getattr__(name: str) -> Any:
    # `tritium --help` imports this package; gRPC and pydantic wait until they are needed.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
