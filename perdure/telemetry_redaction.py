"""Redaction of what a process tells of itself: a structlog processor for log lines, a span processor for traces.

`perdure worker` and `perdure api` have both. A worker of your own adds them to its own logging and tracing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import Status
from opentelemetry.util.types import AttributeValue
from structlog.typing import EventDict

from perdure.redaction import IDENTIFIERS, SECRETS, Redactor, Stages, in_hand, redact_json
from perdure.secret_forms import MASK
from perdure.secret_names import is_secret_name

OF_THE_LINE: Final = frozenset({"timestamp", "level", "logger", "activity", "attempt", "step"})
"""Keys of a log line that are not about what happened, or count."""


class LogRedaction:
    """Masks secrets in a log line: in its values, in an exception's text, and whatever is kept under a secret's name.

    It comes after exceptions are formatted, and before the line is rendered.
    """

    def __init__(self, redactor: Redactor = SECRETS) -> None:
        self._redactor = redactor

    def __call__(self, _: Any, __: str, event: EventDict) -> EventDict:
        """Return the line's fields, redacted."""
        redactor = _with_values_in_hand(self._redactor)
        for name, value in event.items():
            if name not in IDENTIFIERS and name not in OF_THE_LINE:
                event[name] = _field(name, value, redactor)
        return event


class SpanRedaction(SpanProcessor):
    """Hands spans on with secrets masked: in attributes, in recorded exceptions, and in the status."""

    def __init__(self, inner: SpanProcessor, redactor: Redactor = SECRETS) -> None:
        """Begin.

        Args:
            inner: What exports the spans.
            redactor: Masks what they must not show.
        """
        self._inner = inner
        self._redactor = redactor

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Pass on that a span has started."""
        self._inner.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Pass on a redacted copy. This is still within the call that the span is about, so its secrets are known."""
        redactor = _with_values_in_hand(self._redactor)
        status = span.status
        self._inner.on_end(
            ReadableSpan(
                name=redactor.redact(span.name),
                context=span.context,
                parent=span.parent,
                resource=span.resource,
                attributes=_attributes(span.attributes, redactor),
                events=[_event(event, redactor) for event in span.events],
                links=span.links,
                kind=span.kind,
                status=Status(status.status_code, redactor.redact(status.description))
                if status.description
                else status,
                start_time=span.start_time,
                end_time=span.end_time,
                instrumentation_scope=span.instrumentation_scope,
            )
        )

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what has not been."""
        return self._inner.force_flush(timeout_millis)


def _with_values_in_hand(redactor: Redactor) -> Redactor:
    values = in_hand()
    return Stages(values, redactor) if values else redactor


def _field(name: str, value: Any, redactor: Redactor) -> Any:
    if value and not isinstance(value, bool) and is_secret_name(name):
        return MASK
    match value:
        case str() | Mapping() | list() | tuple():
            return redact_json(value, redactor)
        case bool() | int() | float() | None:
            return value
        case _:
            return redactor.redact(str(value))  # what a renderer would make of it


def _event(event: Event, redactor: Redactor) -> Event:
    return Event(event.name, _attributes(event.attributes, redactor), event.timestamp)


def _attributes(attributes: Mapping[str, AttributeValue] | None, redactor: Redactor) -> dict[str, AttributeValue]:
    return {name: _attribute(name, value, redactor) for name, value in (attributes or {}).items()}


def _attribute(name: str, value: AttributeValue, redactor: Redactor) -> AttributeValue:
    if is_secret_name(name):
        return MASK
    if name.rpartition(".")[2] in IDENTIFIERS:
        return value
    if isinstance(value, str):
        return redactor.redact(value)
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return [redactor.redact(str(item)) for item in value]
    return value
