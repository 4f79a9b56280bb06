"""OpenTelemetry traces of requests: what tritonserver is told to send, and where.

Source: triton-inference-server/server, docs/user_guide/trace.md, "OpenTelemetry trace support".
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from tritium_deploy.errors import TracingError

SERVICE = "tritium"
"""`service.name` of the spans, unless OTEL_RESOURCE_ATTRIBUTES names another."""
EXPORT_EVERY_MS = 1000
"""OpenTelemetry waits five seconds; who looks for a trace has just made the call."""


@dataclass(frozen=True)
class Tracing:
    """Which requests are traced, and where their spans go.

    Raises:
        TracingError: the endpoint is no URL that spans can be sent to.
        ValueError: the rate is negative.
    """

    endpoint: str
    """Of a collector that speaks OTLP over HTTP, for instance `http://127.0.0.1:4318/v1/traces`."""
    rate: int = 0
    """One in so many requests is traced whose caller does not trace; 0 for none. Requests that
    carry a W3C `traceparent` are traced always."""

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate must be 0 or more: {self.rate}")
        try:
            parts = urlsplit(self.endpoint)
            fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number
            fits = False
        if not fits:
            raise TracingError(
                f"trace endpoint {self.endpoint!r} is no http:// or https:// URL; a collector on "
                "this machine listens at http://127.0.0.1:4318/v1/traces"
            )
        if parts.path in ("", "/"):
            raise TracingError(
                f"trace endpoint {self.endpoint} has no path; collectors take spans at /v1/traces"
            )

    def arguments(self) -> list[str]:
        """What tritonserver is started with."""
        settings = {
            "mode": "opentelemetry",
            "level": "TIMESTAMPS",
            "rate": str(self.rate),
            "opentelemetry,url": self.endpoint,
            "opentelemetry,resource": f"service.name={SERVICE}",
            "opentelemetry,bsp_schedule_delay": str(EXPORT_EVERY_MS),
        }
        return [f"--trace-config={name}={value}" for name, value in settings.items()]
