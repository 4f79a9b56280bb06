"""The trace that a call belongs to travels with it, in applications that trace."""

from __future__ import annotations

import sys


def trace_headers() -> tuple[tuple[str, str], ...]:
    """GRPC metadata that names the current span, for instance W3C `traceparent`.

    Which headers is what the application configured as OpenTelemetry's propagators; without
    OpenTelemetry, or outside of a span, there are none. Nor are there for a span that is not
    sampled: Triton traces every request that names one, sampled or not.

    Source: W3C Trace Context, https://www.w3.org/TR/trace-context/
    """
    # Whoever traces has loaded it; nobody else should pay for its import.
    if "opentelemetry.trace" not in sys.modules:
        return ()
    from opentelemetry.propagate import inject
    from opentelemetry.trace import get_current_span

    if not get_current_span().get_span_context().trace_flags.sampled:
        return ()
    headers: dict[str, str] = {}
    inject(headers)
    return tuple((name.lower(), value) for name, value in headers.items())
