"""Client against a real tritonserver that fails: each row of the translation tables."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.demo_repository import STAGES, expected_label, write_repository
from tests.support.triton import TritonServer, free_port, triton_server

from tritium_client import (
    AppNotFound,
    Client,
    ClientClosed,
    DeadlineExceeded,
    InvalidInput,
    ServerError,
    ServerUnavailable,
    TritiumClientError,
)
from tritium_client._call import Call
from tritium_client._sync.transport import GrpcTransport
from tritium_client._wire import infer_request

pytestmark = pytest.mark.e2e


def test_an_input_that_a_stage_refuses(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.classify(text="bad", image=b"\x01")
    error = caught.value
    assert (error.stage, error.index) == ("text_tokenizer", 0)
    assert error.reason == "cannot be read,\nsadly"
    assert error.endpoint == client.endpoint
    assert error.request_id
    assert error.elapsed_s is not None
    assert 0 < error.elapsed_s < 5
    assert error.__cause__ is not None
    with pytest.raises(InvalidInput) as caught:
        client.classify(text="good", image=b"bad")
    assert caught.value.stage == "image_decoder"


def test_an_input_that_the_client_refuses_never_travels(client: Client) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.classify(text="")
    assert caught.value.stage == "client"


@pytest.mark.parametrize("fault", ["name", "shape", "type", "count", "content"])
def test_a_request_that_triton_refuses(server: TritonServer, fault: str) -> None:
    request = infer_request("demo_classify_text", {"text": b"a"}, request_id="abc")
    if fault == "name":
        request.inputs[0].name = "words"
    elif fault == "shape":
        request.inputs[0].shape[:] = [1, 2]
    elif fault == "type":
        request.inputs[0].datatype = "INT64"
    elif fault == "count":
        del request.inputs[:], request.raw_input_contents[:]
    else:
        request.raw_input_contents[0] = b"a"
    transport = GrpcTransport(server.url)
    try:
        with pytest.raises(InvalidInput) as caught:
            transport.send("ModelInfer", request, Call(server.url, 5))
    finally:
        transport.close()
    assert caught.value.stage == "request"
    assert "abc" not in caught.value.reason


def test_a_bug_in_a_servable_is_a_server_error(client: Client) -> None:
    with pytest.raises(ServerError, match="a bug in a servable") as caught:
        client.classify(text="crash")
    assert caught.value.stage == "text_tokenizer"
    assert not caught.value.retryable


def test_one_deadline_for_the_whole_call(client: Client) -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 0\.2 s") as caught:
        client.classify(text="sleep1", timeout_s=0.2)
    assert caught.value.elapsed_s is not None
    assert 0.2 <= caught.value.elapsed_s < 0.9
    time.sleep(1)  # the server works to the end of what nobody waits for
    for senseless in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="timeout_s must be a positive number"):
            client.classify(text="a", timeout_s=senseless)


def test_a_closed_client_says_so(server: TritonServer) -> None:
    with Client(server.url, app="demo") as client:
        client.classify(text="a")
    client.close()
    for ask in (lambda: client.classify(text="a"), client.labels, client.apps):
        with pytest.raises(ClientClosed, match="is closed; make a new one"):
            ask()


def test_closing_ends_what_is_in_flight(server: TritonServer) -> None:
    client = Client(server.url, app="demo")
    errors: list[TritiumClientError] = []

    def ask() -> None:
        try:
            client.classify(text="sleep2")
        except TritiumClientError as error:
            errors.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    time.sleep(0.5)
    client.close()
    caller.join(1)
    assert [type(error) for error in errors] == [ClientClosed]
    time.sleep(1.5)  # as above


def test_an_address_that_cannot_be_one() -> None:
    for url in ("localhost", "http://localhost:8001", "localhost:", "", "a b:1", "host:123456"):
        with pytest.raises(ValueError, match="url must be host:port"):
            Client(url)


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_nobody_there(host: str) -> None:
    url = f"{host}:{free_port()}"
    with Client(url, app="demo") as client:
        with pytest.raises(ServerUnavailable, match=f"reached at {url}.*tritium serve") as caught:
            client.classify(text="a", timeout_s=30)
        assert caught.value.retryable
        assert caught.value.elapsed_s is not None
        assert caught.value.elapsed_s < 10


def test_a_peer_that_never_answers_is_no_hang() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with (
            Client(f"127.0.0.1:{listener.getsockname()[1]}", app="demo") as client,
            pytest.raises(DeadlineExceeded) as caught,
        ):
            client.classify(text="a", timeout_s=0.3)
    assert caught.value.elapsed_s is not None
    assert caught.value.elapsed_s < 2


class TestLifeOfAServer:
    """One server from before its start to after its end; the tests run in this order."""

    @pytest.fixture(scope="class")
    @classmethod
    def port(cls) -> int:
        return free_port()

    @pytest.fixture(scope="class")
    @classmethod
    def early_client(cls, port: int) -> Iterator[Client]:
        with Client(f"127.0.0.1:{port}", app="demo") as client:
            yield client

    @pytest.fixture(scope="class")
    @classmethod
    def mortal(
        cls, early_client: Client, port: int, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[TritonServer]:
        with pytest.raises(ServerUnavailable):
            early_client.classify(text="a")
        repository: Path = write_repository(tmp_path_factory.mktemp("mortal") / "repo")
        with triton_server(repository, port=port) as running:
            yield running

    def test_a_client_that_was_early_finds_the_server(
        self, mortal: TritonServer, early_client: Client
    ) -> None:
        deadline = time.monotonic() + 10
        while True:
            try:
                answer = early_client.classify(text="four")
                break
            except ServerUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert answer.label == expected_label(1, text=b"four")

    def test_an_app_that_is_unloaded_may_come_back(
        self, mortal: TritonServer, early_client: Client
    ) -> None:
        mortal.unload("demo_classify")
        with pytest.raises(AppNotFound, match="draining") as caught:
            early_client.classify(text="four", image=b"\x01")
        assert caught.value.retryable
        assert early_client.status().entry_points[0].modalities == ("text",)
        mortal.load("demo_classify")
        assert early_client.classify(text="four", image=b"\x01").release == 1

    def test_a_dead_process_is_unavailable_and_worth_another_try(
        self, mortal: TritonServer, early_client: Client
    ) -> None:
        stub = mortal.stub_pids(STAGES["text"][1])
        assert stub
        errors: list[TritiumClientError] = []

        def ask() -> None:
            try:
                early_client.classify(text="sleep3", timeout_s=20)
            except TritiumClientError as error:
                errors.append(error)

        in_flight = threading.Thread(target=ask)
        in_flight.start()
        time.sleep(0.5)
        for pid in stub:
            with contextlib.suppress(ProcessLookupError):  # one of before the app was loaded again
                os.kill(pid, signal.SIGKILL)
        in_flight.join(20)
        with pytest.raises(ServerUnavailable, match="died and has to be restarted") as caught:
            early_client.classify(text="four", timeout_s=20)
        assert caught.value.retryable
        assert caught.value.stage == "text_tokenizer"
        assert [type(error) for error in errors] == [ServerUnavailable]
        # The stages that still live answer.
        assert early_client.classify(image=b"\x01").release == 1

    def test_a_server_that_ended_is_unavailable(
        self, mortal: TritonServer, early_client: Client
    ) -> None:
        mortal.process.terminate()
        mortal.process.wait(30)
        with pytest.raises(ServerUnavailable) as caught:
            early_client.classify(text="four")
        assert caught.value.retryable
