"""Traces: a run's model and tool calls are spans that say what they cost and nothing that was said."""

from __future__ import annotations

import io
import logging

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from perdure import App, ToolContext, tracing
from perdure.errors import SettingsError
from perdure.messages import Message
from perdure.telemetry import configure_tracing
from perdure.telemetry_redaction import LogRedaction, SpanRedaction
from perdure_activities.providers.provider import ProviderReply
from tests.harness import InProcessModel, agent, answer, in_turns, pending, serving, start, wish


async def test_model_and_tool_calls_are_spans_without_content(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names and attributes follow the conventions for generative AI."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "tracer", provider.get_tracer("test"))
    app = App()

    @app.tool()
    def find(name: str) -> str:
        """Find someone."""
        return f"{name} lives in a secret place"

    app.add(agent(tools=("find",)))
    model = InProcessModel(in_turns(wish(("find", {"name": "Ann Secret"})), answer("a secret")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await handle.result()

    spans = exporter.get_finished_spans()
    assert [span.name for span in spans] == [
        "chat scripted",
        "call_model",
        "execute_tool find",
        "chat scripted",
        "call_model",
        "run tester",
    ]
    attributes = [dict(span.attributes or {}) for span in spans]
    assert {each["gen_ai.conversation.id"] for each in attributes} == {handle.id}
    assert attributes[0]["gen_ai.usage.input_tokens"] == 10
    assert attributes[1]["perdure.model"] == "in-process:scripted"
    assert attributes[1]["perdure.skipped_models"] == ()
    assert attributes[2]["gen_ai.tool.name"] == "find"
    assert attributes[3]["gen_ai.response.finish_reasons"] == ("stop",)
    assert attributes[5]["perdure.status"] == "completed"
    assert len({span.context.trace_id for span in spans if span.context}) == 1
    assert "secret" not in str(attributes).lower()


async def test_a_span_names_the_models_that_did_not_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of the agent's models the call is for, and by what name of an error the others were passed over."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(tracing, "tracer", provider.get_tracer("test"))
    app, asked = App(), list[int]()
    app.add(agent(fallbacks=("in-process:spare",)))

    def second_time(messages: list[Message]) -> ProviderReply:
        asked.append(len(messages))
        if len(asked) == 1:
            raise ApplicationError("Overloaded", type="model_overloaded")
        return answer("here")

    async with serving(client, app, InProcessModel(second_time)) as settings:
        await (await start(client, app, settings)).result()

    first, second, span, _ = exporter.get_finished_spans()
    assert [each.name for each in (first, second)] == ["chat scripted", "chat spare"]
    assert (first.attributes or {})["error.type"] == "model_overloaded"
    assert span.attributes is not None
    assert span.attributes["perdure.model"] == "in-process:spare"
    assert span.attributes["perdure.skipped_models"] == ("in-process:scripted: model_overloaded",)


def test_tracing_without_its_exporter_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A configured endpoint that nothing can send to stops the process at start-up."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setattr("perdure.telemetry.OTLP_EXPORTER", "no_such_exporter")

    with pytest.raises(SettingsError, match=r"perdure\[otel\]"):
        configure_tracing("perdure-worker")


async def test_logs_and_spans_of_a_call_show_no_secret_argument(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the tool's own lines, nor ours, nor those of Temporal's SDK about a failure that repeats it."""
    written, exporter, provider = io.StringIO(), InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SpanRedaction(SimpleSpanProcessor(exporter)))
    monkeypatch.setattr(tracing, "tracer", provider.get_tracer("test"))
    handler = logging.StreamHandler(written)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                LogRedaction(),
                structlog.processors.JSONRenderer(default=str),
            ]
        )
    )
    sdk = logging.getLogger("temporalio")
    monkeypatch.setattr(sdk, "handlers", [handler])
    app = App()

    @app.tool(secrets=("pin",), max_attempts=1, effect="once", approval="allow")
    def unlock(ctx: ToolContext, pin: str) -> str:
        """Unlock."""
        logging.getLogger("temporalio.shop").warning("the pin is %s", pin)
        raise ConnectionResetError(f"no door for {pin}")

    app.add(agent(tools=("unlock",), on_reject="stop"))
    model = InProcessModel(in_turns(wish(("unlock", {"pin": "sesame-7"})), answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("reject", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await handle.result()

    spans = "".join(span.to_json() for span in exporter.get_finished_spans())
    assert "the pin is [secret]" in written.getvalue()
    assert "no door for [secret]" in written.getvalue()
    assert "Completing activity as failed" in written.getvalue()
    assert "no door for [secret]" in spans
    assert "sesame" not in written.getvalue()
    assert "sesame" not in spans
