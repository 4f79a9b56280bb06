"""Typed calls to apps that Tritium serves.

    from tritium_client import Client

    with Client("localhost:8001", app="openmoji") as client:
        answer = client.classify(text="red apple", image="apple.png", timeout_s=0.5)
        print(answer.label, answer.probability, answer.release)

Every name below is loaded when it is first used: builders and the command line import this
package for its contract alone, and should not pay for gRPC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritium_client._client import Client
    from tritium_client._exceptions import (
        AppLacksCapability,
        AppNotFound,
        ClientClosed,
        DeadlineExceeded,
        IncompatibleRelease,
        InvalidInput,
        ServerError,
        ServerUnavailable,
        TritiumClientError,
    )
    from tritium_client._inputs import ImageInput, TextInput
    from tritium_client._results import AppStatus, Classification, Ranked, ServerStatus

__all__ = [
    "AppLacksCapability",
    "AppNotFound",
    "AppStatus",
    "Classification",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "ImageInput",
    "IncompatibleRelease",
    "InvalidInput",
    "Ranked",
    "ServerError",
    "ServerStatus",
    "ServerUnavailable",
    "TextInput",
    "TritiumClientError",
]

_MODULES = {
    "_client": ("Client",),
    "_inputs": ("ImageInput", "TextInput"),
    "_results": ("AppStatus", "Classification", "Ranked", "ServerStatus"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULE_OF.get(name, '_exceptions')}")
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
