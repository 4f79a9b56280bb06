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
    from tritium_client._async.client import AsyncClient
    from tritium_client._async.mock import AsyncMockTransport
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
    from tritium_client._hedging import HedgePolicy
    from tritium_client._inputs import ImageInput, Item, TextInput
    from tritium_client._labelling import LabellingCounts, LabellingQueue
    from tritium_client._mock import MockApp
    from tritium_client._results import (
        Annotation,
        AppStatus,
        Classification,
        Embedding,
        Entity,
        EntryPoint,
        ItemResult,
        Ranked,
        Score,
        ServerStatus,
        ShadowReport,
        Tag,
        Tagging,
        Timing,
    )
    from tritium_client._retries import RetryPolicy
    from tritium_client._security import Tls
    from tritium_client._sync.client import Client
    from tritium_client._sync.mock import MockTransport

__all__ = [
    "Annotation",
    "AppLacksCapability",
    "AppNotFound",
    "AppStatus",
    "AsyncClient",
    "AsyncMockTransport",
    "Classification",
    "Client",
    "ClientClosed",
    "DeadlineExceeded",
    "Embedding",
    "Entity",
    "EntryPoint",
    "HedgePolicy",
    "ImageInput",
    "IncompatibleRelease",
    "InvalidInput",
    "Item",
    "ItemResult",
    "LabellingCounts",
    "LabellingQueue",
    "MockApp",
    "MockTransport",
    "Ranked",
    "RetryPolicy",
    "Score",
    "ServerError",
    "ServerStatus",
    "ServerUnavailable",
    "ShadowReport",
    "Tag",
    "Tagging",
    "TextInput",
    "Timing",
    "Tls",
    "TritiumClientError",
]

_MODULES = {
    "_async.client": ("AsyncClient",),
    "_async.mock": ("AsyncMockTransport",),
    "_mock": ("MockApp",),
    "_inputs": ("ImageInput", "Item", "TextInput"),
    "_hedging": ("HedgePolicy",),
    "_labelling": ("LabellingCounts", "LabellingQueue"),
    "_results": (
        "Annotation",
        "AppStatus",
        "Classification",
        "Embedding",
        "Entity",
        "EntryPoint",
        "ItemResult",
        "Ranked",
        "Score",
        "ServerStatus",
        "ShadowReport",
        "Tag",
        "Tagging",
        "Timing",
    ),
    "_retries": ("RetryPolicy",),
    "_security": ("Tls",),
    "_sync.client": ("Client",),
    "_sync.mock": ("MockTransport",),
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
