"""Real servers with the tiny apps of tests/support/demo_repository.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.demo_repository import write_repository
from tests.support.other_verbs import write_other_verbs
from tests.support.triton import TritonServer, triton_server

from tritium_client import Client, contract


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """One for all tests that leave it as they found it."""
    repository = write_repository(tmp_path_factory.mktemp("shared") / "repo")
    write_other_verbs(repository)
    name = contract.format_server_id(("demo", "words", "gone", "many"))
    with triton_server(repository, arguments=[f"--id={name}"]) as running:
        yield running


@pytest.fixture
def client(server: TritonServer) -> Iterator[Client]:
    with Client(server.url, app="demo") as open_client:
        yield open_client
