"""The trace of a run: what of it travels with the run, and how a span finds its place in it.

A run carries one text, the W3C `traceparent` of the span that it began with. The spans of all its model calls,
tool calls and deliveries hang there, in whatever process and however much later. Without a trace the text is empty.
"""

from __future__ import annotations

import hashlib
from typing import Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

tracer = trace.get_tracer("perdure")
"""Records nothing, and costs next to nothing, until the process configures tracing."""
HEADER: Final = "traceparent"
_W3C: Final = TraceContextTextMapPropagator()


def current_traceparent() -> str:
    """Return the span that is active here, as the header `traceparent` has it; empty without one."""
    carrier: dict[str, str] = {}
    _W3C.inject(carrier)
    return carrier.get(HEADER, "")


def context_of(traceparent: str, *, run_id: str = "") -> Context:
    """Return the context in which spans belong to this trace.

    Args:
        traceparent: As the header has it. What is none is as if it were not there.
        run_id: Without a traceparent, spans are of the run's own trace: all processes derive the same one from its id.
    """
    context = _W3C.extract({HEADER: traceparent}, context=Context())
    if run_id and not trace.get_current_span(context).get_span_context().is_valid:
        digest = hashlib.sha256(f"perdure:{run_id}".encode()).digest()
        root = SpanContext(
            trace_id=int.from_bytes(digest[:16]),
            span_id=int.from_bytes(digest[16:24]),
            is_remote=True,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
        return trace.set_span_in_context(NonRecordingSpan(root), context)
    return context


def trace_id_of(traceparent: str) -> str | None:
    """Return the trace's id, 32 hexadecimal digits; None if the text is no traceparent."""
    found = trace.get_current_span(context_of(traceparent)).get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else None
