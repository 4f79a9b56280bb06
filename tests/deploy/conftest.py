"""Servers for these tests: one shared, and ones of their own for tests that break theirs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.calls import orphaned_regions, regions, wait_until
from tests.deploy.tiny_repository import TinyApp, publish
from tritonclient.grpc import InferenceServerClient

from tritium_deploy import Ports, Server, serve

Start = Callable[..., Server]


@pytest.fixture(scope="session", autouse=True)
def run_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run folders of servers lie here; the logs that failed starts keep go with the session."""
    folder = tmp_path_factory.mktemp("run")
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    yield folder
    tempfile.tempdir = before


@pytest.fixture(scope="session")
def shared(run_folders: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A ready server with the tiny app; leave it as it was."""
    repository = tmp_path_factory.mktemp("repository")
    publish(repository, TinyApp())
    with serve(repository, ports=Ports.free()) as server:
        yield server


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """An empty repository."""
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


@pytest.fixture
def start(repository: Path) -> Iterator[Start]:
    """Start a server on `repository` that is closed after the test."""
    with ExitStack() as stack:

        def begin(**arguments: Any) -> Server:
            arguments.setdefault("ports", Ports.free())
            return stack.enter_context(serve(repository, **arguments))

        yield begin


@pytest.fixture
def connect() -> Iterator[Callable[[Server], InferenceServerClient]]:
    """Open gRPC clients that are closed after the test."""
    with ExitStack() as stack:

        def open_client(server: Server) -> InferenceServerClient:
            return stack.enter_context(InferenceServerClient(server.grpc_url))

        yield open_client


@pytest.fixture
def no_new_regions() -> Iterator[None]:
    """The test leaves nothing in /dev/shm that was not there before."""
    before = regions()
    yield
    # Other servers of this machine come and go; theirs have a living stub each.
    assert wait_until(lambda: orphaned_regions() <= before, 3), orphaned_regions() - before
