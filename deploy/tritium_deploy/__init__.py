"""Starting, watching and draining Triton: `serve(repository)`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tritium_deploy.ports import Ports
    from tritium_deploy.security import Security, ServerTls
    from tritium_deploy.server import Server, serve

__all__ = ["Ports", "Security", "Server", "ServerTls", "serve"]

_HOMES = {
    "Ports": "tritium_deploy.ports",
    "Security": "tritium_deploy.security",
    "Server": "tritium_deploy.server",
    "ServerTls": "tritium_deploy.security",
    "serve": "tritium_deploy.server",
}


def __getattr__(name: str) -> Any:
    # `tritium --help` imports this package; gRPC, psutil and pydantic wait until they are needed.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
