"""Redaction of logs and spans: our lines and the libraries', exceptions, attributes; ids and counts stay."""

from __future__ import annotations

import contextvars
import json
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from perdure.redaction import take_in_hand
from perdure.telemetry_redaction import SpanRedaction

KEY = "sk-" + "ant-api03-A1b2C3d4E5f6G7h8J9k0"
PROGRAM = """
import logging, structlog
from perdure.redaction import take_in_hand
from perdure.settings import Settings
from perdure.telemetry import configure_logging

configure_logging(Settings(log_format="{form}"))
key = "sk-" + "ant-api03-A1b2C3d4E5f6G7h8J9k0"
log = structlog.get_logger("shop")

class Order:
    def __str__(self):
        return "order paid with " + key

take_in_hand(["4000 1234"])
try:
    raise ValueError(f"no card 4000 1234, no key {{key}}")
except ValueError:
    log.warning("tool_raised", exc_info=True, password="hunter2", order=Order(), run_id="run-4000 1234")
log.info("replied", text=f"it is {{key}}", max_tokens=100, nested={{"api_key": "x", "card": "4000 1234"}})
logging.getLogger("library").warning("failed with %s and password=%s", key, "hunter2")
"""


@pytest.mark.parametrize("form", ["console", "json"])
def test_log_lines_show_no_secret(form: str) -> None:
    """Neither in a value, nor in an exception, nor in what a library writes; what names the run stays."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(form=form)], capture_output=True, text=True, check=True
    )

    written = ended.stderr
    assert "tool_raised" in written
    assert "ValueError: no card [secret], no key [secret]" in written
    assert "order paid with [secret]" in written
    assert "failed with [secret] and password=[secret]" in written
    assert "run-4000 1234" in written
    assert "100" in written
    assert KEY not in written
    assert "hunter2" not in written
    if form == "json":
        replied = json.loads(written.splitlines()[1])
        assert replied["text"] == "it is [secret]"
        assert replied["nested"] == {"api_key": "[secret]", "card": "[secret]"}
        assert replied["max_tokens"] == 100


def test_spans_show_no_secret() -> None:
    """Attributes, the recorded exception and the status are masked; counts, ids and times are as they were."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SpanRedaction(SimpleSpanProcessor(exporter)))
    tracer = provider.get_tracer("test")

    def call() -> None:
        take_in_hand(["4000 1234"])
        with tracer.start_as_current_span(
            "execute_tool pay",
            attributes={
                "gen_ai.usage.input_tokens": 12,
                "gen_ai.conversation.id": "run-1",
                "http.request.header.authorization": "Basic abc",
                "note": f"key {KEY}",
                "notes": ["with 4000 1234", "plain"],
            },
        ):
            raise ValueError(f"no card 4000 1234 and no {KEY}")

    with pytest.raises(ValueError, match="4000"):
        contextvars.copy_context().run(call)

    [span] = exporter.get_finished_spans()
    assert dict(span.attributes or {}) == {
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.conversation.id": "run-1",
        "http.request.header.authorization": "[secret]",
        "note": "key [secret]",
        "notes": ["with [secret]", "plain"],
    }
    recorded = dict(span.events[0].attributes or {})
    assert recorded["exception.message"] == "no card [secret] and no [secret]"
    assert KEY not in str(recorded["exception.stacktrace"])
    assert "4000 1234" not in str(recorded["exception.stacktrace"])
    assert span.status.description == "ValueError: no card [secret] and no [secret]"
    assert span.context.is_valid
    assert span.end_time
    assert span.start_time
    assert span.end_time >= span.start_time
    assert provider.force_flush()
