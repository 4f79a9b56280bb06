"""Arguments that could never be right, refused before anything is opened or sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from tritium_client import contract

TransportName = Literal["auto", "grpc", "shared_memory"]
DEFAULT_URL = "localhost:8001"


def check_transport(name: str) -> None:
    """Refuse the name of a transport that there is not.

    Raises:
        ValueError: naming those that there are.
    """
    names = get_args(TransportName)
    if name not in names:
        raise ValueError(f"transport is one of {', '.join(names)}, not {name!r}")


def check_top_k(top_k: int) -> None:
    """Refuse an empty ranking.

    Raises:
        ValueError: `top_k` is below 1.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1: {top_k}")


def check_route_key(key: str | None) -> None:
    """Refuse a route key that cannot say whom a request is for.

    Args:
        key: None where the caller gave none.

    Raises:
        ValueError: it is empty, no text, or has half a surrogate pair.
    """
    if key is None:
        return
    if not (isinstance(key, str) and key):
        raise ValueError("route_key must be a text that is not empty, for instance a user's id")
    key.encode()  # UnicodeEncodeError is a ValueError


def checked_endpoints(url: str | Sequence[str]) -> tuple[str, ...]:
    """Each server's host:port.

    Raises:
        ValueError: there is none, or one is something else.
    """
    endpoints = (url,) if isinstance(url, str) else tuple(url)
    if not endpoints:
        raise ValueError("url names no server; give at least one host:port")
    for endpoint in endpoints:
        if re.fullmatch(r"[^\s/,]+:\d{1,5}", endpoint) is None:
            raise ValueError(
                f"url must be host:port, for instance {DEFAULT_URL!r}, not {endpoint!r}"
            )
    return endpoints


def checked_app(app: str) -> str:
    """An app's name.

    Raises:
        ValueError: it cannot be one.
    """
    if not contract.is_app_name(app):
        raise ValueError(f"{app!r} is no app name: lower-case letters, digits and _, at most 63")
    return app
