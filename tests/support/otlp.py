"""A collector of OpenTelemetry spans for tests: OTLP over HTTP, as tritonserver sends it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

PATH = "/v1/traces"


@dataclass(frozen=True)
class Span:
    """One span."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for the first one of a trace."""
    service: str
    milliseconds: float


@dataclass
class Collector:
    """What has arrived so far."""

    endpoint: str
    spans: list[Span] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        """The spans of one name."""
        return [span for span in list(self.spans) if span.name == name]


@contextmanager
def collector() -> Iterator[Collector]:
    """Collect spans until the block ends."""
    found: Collector

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path == PATH and self.headers["Content-Type"] == "application/json"
            if known:
                found.spans.extend(read_spans(json.loads(body)))
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found = Collector(f"http://127.0.0.1:{server.server_port}{PATH}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()


def read_spans(body: Any) -> list[Span]:
    """Read OTLP's JSON, which is protobuf's but for ids: they are hexadecimal.

    Source: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
    """
    for resource in body["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span in scope["spans"]:
                for name in ("traceId", "spanId", "parentSpanId"):
                    span[name] = base64.b64encode(bytes.fromhex(span.get(name, ""))).decode()
    request = json_format.ParseDict(body, ExportTraceServiceRequest())
    return [
        Span(
            span.name,
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            next(
                one.value.string_value
                for one in resource.resource.attributes
                if one.key == "service.name"
            ),
            (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6,
        )
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
