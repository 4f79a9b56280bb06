"""One night for all chapters: two servers on a machine of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runbook.machine import Machine
from tests.runbook.night import Night


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Night]:
    """Someone who has begun as the page says; nothing runs yet."""
    folder: Path = tmp_path_factory.mktemp("night")
    machine = Machine(folder)
    try:
        begun = Night(machine, folder)
        begun.follow("Before you begin", "check")
        yield begun
    finally:
        machine.close()
