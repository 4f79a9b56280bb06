"""What the person on call finds of a call: log lines and traces."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from tests.support.grpc_service import served
from tests.support.triton import free_port
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tritium_client import AsyncClient, Client, RetryPolicy, ServerUnavailable, TritiumClientError


class Recorder(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A gRPC server that keeps the metadata of what it is asked."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802 - Triton's name
        del request
        self.seen.append(dict(context.invocation_metadata()))
        return service_pb2.ServerMetadataResponse(name="tritium apps=")


@pytest.fixture
def recorder() -> Iterator[tuple[str, Recorder]]:
    recorder = Recorder()
    with served(recorder) as url:
        yield url, recorder


def test_the_trace_of_the_caller_travels_with_the_call(recorder: tuple[str, Recorder]) -> None:
    url, heard = recorder
    tracer = TracerProvider().get_tracer("test")
    with Client(url) as client, tracer.start_as_current_span("checkout") as span:
        client.apps()
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)

        async def ask() -> None:
            async with AsyncClient(url) as twin:
                await twin.apps()

        asyncio.run(ask())
    assert [one["traceparent"].split("-")[1] for one in heard.seen] == [trace_id] * 2


def test_outside_of_a_span_nothing_is_added(recorder: tuple[str, Recorder]) -> None:
    url, heard = recorder
    with Client(url) as client:
        client.apps()
    assert "traceparent" not in heard.seen[0]


def test_a_span_that_is_not_sampled_is_not_named(recorder: tuple[str, Recorder]) -> None:
    url, heard = recorder
    tracer = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test")
    with Client(url) as client, tracer.start_as_current_span("checkout"):
        client.apps()
    assert "traceparent" not in heard.seen[0]  # Triton would trace it


def test_opentelemetry_is_not_loaded_for_those_who_do_not_trace() -> None:
    script = (
        "import sys; from tritium_client import Client, MockTransport, MockApp\n"
        "app = MockApp(labels=('a', 'b'), answer=lambda *_: [1, 0])\n"
        "Client(app='x', transport=MockTransport({'x': app})).classify(text='a')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


SILENT = """
from tritium_client import Client, TritiumClientError
try:
    with Client(["{url}", "{url}"], app="x") as client:
        client.classify(text="a", timeout_s=5)
except TritiumClientError:
    pass
"""


def test_it_is_silent_until_logging_is_configured() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SILENT.replace("{url}", f"127.0.0.1:{free_port()}")],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")


def test_retries_and_ejections_are_logged_with_ids_and_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    urls = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    error: TritiumClientError
    with (
        caplog.at_level(logging.DEBUG, "tritium_client"),
        Client(urls, app="x", token="s3cret", retries=RetryPolicy(first_pause_s=0.01)) as client,
        pytest.raises(ServerUnavailable) as caught,
    ):
        client.classify(text="private words", timeout_s=5)
    error = caught.value
    lines = [record.getMessage() for record in caplog.records]
    assert any(str(error.request_id) in line and "sent again" in line for line in lines)
    assert any(urls[0] in line and "left out" in line for line in lines)
    assert not any("s3cret" in line or "private" in line for line in lines)
