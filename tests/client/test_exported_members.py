"""The public names of tritium_client: what `from tritium_client import ...` promises."""

from __future__ import annotations

import importlib
import re

import pytest

import tritium_client
from tritium_client import _exceptions


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert tritium_client.__all__ == sorted(set(tritium_client.__all__))
    for name in tritium_client.__all__:
        assert getattr(tritium_client, name) is not None
    assert set(tritium_client.__all__) <= set(dir(tritium_client))


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Cleint'"):
        tritium_client.Cleint  # noqa: B018


def test_every_exception_is_public_and_drawn_in_the_tree() -> None:
    drawn = re.findall(r"^    (?:├── |└── )?(\w+)", _exceptions.__doc__ or "", re.MULTILINE)
    defined = [
        name
        for name, value in vars(_exceptions).items()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert drawn == defined
    assert set(defined) <= set(tritium_client.__all__)


def test_only_private_modules_besides_the_contract_and_the_command_line() -> None:
    package = importlib.import_module("tritium_client")
    folder = package.__path__[0]
    from pathlib import Path

    public = {path.stem for path in Path(folder).glob("*.py") if not path.stem.startswith("_")}
    assert public == {"cli", "commands", "contract"}
