"""Traces over a real OTLP/HTTP connection: one for each run, from the caller's span to the tools'."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from temporalio.client import Client

from perdure import App, ToolContext, tracing
from perdure.search_attributes import MEMO_TRACE
from perdure.telemetry_redaction import SpanRedaction
from perdure.testing import eventually
from tests.api.conftest import Api
from tests.harness import InProcessModel, agent, answer, in_turns, serving, wish
from tests.otlp_receiver import OtlpReceiver, otlp_receiver

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[OtlpReceiver]:
    """A receiver that the spans of this process are exported to."""
    with otlp_receiver() as received:
        provider = TracerProvider()
        exporter = OTLPSpanExporter(endpoint=f"{received.url}/v1/traces")
        provider.add_span_processor(SpanRedaction(BatchSpanProcessor(exporter, schedule_delay_millis=50)))
        monkeypatch.setattr(tracing, "tracer", provider.get_tracer("test"))
        yield received
        provider.shutdown()


async def test_a_run_is_one_trace_that_is_seen_while_it_waits(api: Api, receiver: OtlpReceiver) -> None:
    """What a run did is in the backend while it waits for a human; its tools and its end join the caller's trace."""
    script = in_turns(wish(("refund", {"order": "7", "amount": 3})), answer("done"))
    async with api.worker(script):
        response = await api.http.post(
            "/v1/runs", json={"agent": "tester", "input": "go", "user": "ann"}, headers={"traceparent": CALLER}
        )
        run_id = response.json()["run_id"]
        asked = await api.approval(run_id)
        await eventually(lambda: bool(receiver.named("call_model")), what="the spans of a run that waits")
        [root], [start], [chat] = (
            receiver.named(name) for name in ("POST /v1/runs", "invoke_agent tester", "chat scripted")
        )
        assert receiver.named("run tester") == []
        await api.http.post(
            f"/v1/runs/{run_id}/approvals/{asked['approval_id']}", json={"decision": "approve", "decided_by": "bob"}
        )
        run = await api.ended(run_id)
        await eventually(lambda: bool(receiver.named("run tester")), what="the span of the whole run")

    [called, _], [tool], [whole] = (
        receiver.named(name) for name in ("call_model", "execute_tool refund", "run tester")
    )
    mine = [span for span in receiver.spans if span.attributes.get("gen_ai.conversation.id") == run_id]
    assert {span.trace_id for span in mine} == {root.trace_id} == {TRACE}
    assert (root.parent_id, start.parent_id) == ("b7ad6b7169203331", root.span_id)
    assert {called.parent_id, tool.parent_id, whole.parent_id} == {start.span_id}
    assert chat.parent_id == called.span_id
    assert start.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.usage.input_tokens"] == 10
    assert chat.attributes["gen_ai.response.finish_reasons"] == ["tool_calls"]
    assert tool.attributes["gen_ai.operation.name"] == "execute_tool"
    assert whole.attributes["perdure.status"] == "completed"
    assert whole.end - whole.start > chat.end - chat.start
    assert run["trace_id"] == TRACE
    description = await api.temporal.get_workflow_handle(run_id).describe()
    assert await description.memo_value(MEMO_TRACE, type_hint=str) == TRACE
    assert f"trace: `{TRACE}`" in (await description.static_details() or "")


async def test_each_attempt_is_a_span_and_knows_its_own(client: Client, receiver: OtlpReceiver) -> None:
    """An attempt that failed is told as an error beside the one that did not; a tool can hand its own span on."""
    seen = list[str]()
    app = App()

    @app.tool()
    def flaky(ctx: ToolContext) -> str:
        """Work the second time."""
        seen.append(ctx.traceparent)
        if ctx.attempt == 1:
            raise ConnectionResetError("lost")
        return "here"

    app.add(agent(tools=("flaky",)))
    api = Api(client, app)
    async with api.http, api.worker(in_turns(wish(("flaky", {})), answer("done"))):
        run_id = await api.start()
        run = await api.ended(run_id)
        await eventually(lambda: len(receiver.named("execute_tool flaky")) == 2, what="both attempts")

    first, second = receiver.named("execute_tool flaky")
    assert [span.attributes["perdure.attempt"] for span in (first, second)] == [1, 2]
    assert (first.error, second.error) == (True, False)
    assert [text.split("-")[2] for text in seen] == [first.span_id, second.span_id]
    assert {first.trace_id, second.trace_id} == {run["trace_id"]}


async def test_content_is_shown_only_where_that_is_switched_on(client: Client, receiver: OtlpReceiver) -> None:
    """By default no span says what was said; switched on, secret arguments stay masked all the same."""
    app = App()

    @app.tool(secrets=("pin",))
    def unlock(pin: str) -> str:
        """Unlock."""
        return f"unlocked with {pin}"

    app.add(agent(tools=("unlock",), instructions="Be brief."))
    script = in_turns(wish(("unlock", {"pin": "sesame-7"}), text="I try"), answer("it is open"))

    async def spans_of(**options: Any) -> str:
        receiver.spans.clear()
        api = Api(client, app)
        queue = api.settings.task_queue
        async with api.http, serving(client, app, InProcessModel(script), task_queue=queue, **options):
            await api.ended(await api.start(input="open the door"))
            await eventually(lambda: bool(receiver.named("run tester")), what="the end")
        return str([span.attributes for span in receiver.spans])

    without, with_content = await spans_of(), await spans_of(trace_content=True)

    for text in ("open the door", "it is open", "Be brief.", "unlocked"):
        assert text not in without
        assert text in with_content
    assert "sesame" not in with_content


async def test_without_tracing_nothing_is_added(api: Api) -> None:
    """A run that nobody traces carries no trace and says so; one that a caller traces carries the caller's."""
    async with api.worker(lambda _: answer("done")):
        plain = await api.ended(await api.start())
        headers = {"traceparent": CALLER}
        sent = await api.http.post("/v1/runs", json={"agent": "tester", "input": "go"}, headers=headers)
        traced = await api.ended(sent.json()["run_id"])

    assert plain["trace_id"] is None
    assert traced["trace_id"] == TRACE
    description = await api.temporal.get_workflow_handle(plain["run_id"]).describe()
    assert MEMO_TRACE not in await description.memo()
