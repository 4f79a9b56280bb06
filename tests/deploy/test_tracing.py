"""One call is one trace, from the caller's span through every step of the graph."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.deploy.calls import infer, wait_until
from tests.deploy.conftest import Start
from tests.deploy.tiny_repository import publish
from tests.support.otlp import Collector, Span, collector
from tests.support.triton import free_port
from tritonclient.grpc import InferenceServerClient

from tritium_client import Client, contract
from tritium_deploy import Server
from tritium_deploy.errors import TracingError
from tritium_deploy.server import ServeOptions
from tritium_deploy.tracing import Tracing
from tritium_deploy.watch import WatchOptions

Connect = Callable[[Server], InferenceServerClient]


@pytest.fixture
def spans() -> Iterator[Collector]:
    with collector() as found:
        yield found


def test_one_call_is_one_trace_from_the_caller_through_every_step(
    repository: Path, start: Start, spans: Collector, connect: Connect
) -> None:
    publish(repository)
    server = start(tracing=Tracing(spans.endpoint))
    own = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(own))
    with Client(server.grpc_url, app="tiny") as client:
        infer(connect(server), "tiny_classify", {"text": b"nobody traces", "image": b"this"})
        with provider.get_tracer("shop").start_as_current_span("checkout"):
            client.classify(text="red apple", image=b"\x89PNG\r\n\x1a\n picture")
    (caller,) = own.get_finished_spans()
    assert caller.context is not None
    trace_id = trace.format_trace_id(caller.context.trace_id)
    assert wait_until(lambda: bool(spans.named("InferRequest")), 10)
    # Neither the golden samples nor a call that nobody traces.
    assert {span.trace_id for span in spans.spans} == {trace_id}
    assert {span.service for span in spans.spans} == {"tritium"}
    assert paths(spans.spans, trace.format_span_id(caller.context.span_id)) == {
        "InferRequest",
        "InferRequest > tiny_classify",
        "InferRequest > tiny_classify > tiny_classify_r1",
        *(
            f"InferRequest > tiny_classify > tiny_classify_r1 > {step}{compute}"
            for step in ("text_encoder", "image_encoder", "fusion_head")
            for compute in ("", " > compute")
        ),
    }
    assert all(span.milliseconds > 0 for span in spans.spans)


def test_some_of_the_calls_that_nobody_traces_are_traced(
    repository: Path, start: Start, spans: Collector, connect: Connect
) -> None:
    publish(repository)
    unprobed = ServeOptions(watch=WatchOptions(probe_every_s=600))
    client = connect(start(tracing=Tracing(spans.endpoint, rate=2), options=unprobed))
    time.sleep(1.5)  # spans of golden samples are sent by then
    before = len(spans.named("InferRequest"))
    for _ in range(8):
        infer(client, "tiny_classify_text", {"text": b"red apple"})
    assert wait_until(lambda: len(spans.named("InferRequest")) == before + 4, 10)


def test_a_collector_that_is_away_costs_no_answer(
    repository: Path, start: Start, connect: Connect
) -> None:
    publish(repository)
    server = start(tracing=Tracing(f"http://127.0.0.1:{free_port()}/v1/traces", rate=1))
    for _ in range(20):
        infer(connect(server), "tiny_classify_text", {"text": b"red apple"})
    began = time.monotonic()
    assert server.close()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ("localhost:4318", "is no http:// or https:// URL"),
        ("grpc://localhost:4317", "is no http:// or https:// URL"),
        ("http:///v1/traces", "is no http:// or https:// URL"),
        ("http://localhost:port/v1/traces", "is no http:// or https:// URL"),
        ("http://localhost:4318", "has no path; collectors take spans at /v1/traces"),
    ],
)
def test_an_endpoint_that_takes_no_spans_is_refused_by_name(endpoint: str, said: str) -> None:
    with pytest.raises(TracingError, match=said) as refused:
        Tracing(endpoint)
    assert endpoint in str(refused.value)


def paths(spans: list[Span], caller: str) -> set[str]:
    """Where each span lies below the caller's; components by what they do."""
    by_id = {span.span_id: span for span in spans}

    def path(span: Span) -> str:
        name = contract.role_of(span.name) or span.name
        if span.parent_id == caller:
            return name
        return f"{path(by_id[span.parent_id])} > {name}"

    return {path(span) for span in spans}
