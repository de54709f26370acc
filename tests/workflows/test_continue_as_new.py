"""A run that outgrows one execution: nothing is lost, whatever it was doing and however large it is."""

from __future__ import annotations

import asyncio
import base64
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from temporalio.client import WorkflowFailureError
from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from perdure import App, ScoredRun, ToolContext, metrics, tracing
from perdure.codec import data_converter
from perdure.contracts import RunStatus
from perdure.history import fetch_executions
from perdure.messages import Message, ToolMessage, UserMessage
from perdure.oversight import ApprovalsMemo
from perdure.priority import Priority
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import ForkRequest, RetryRequest
from perdure_workers.dev_server import find_temporal, server_arguments
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.state import RunArguments
from perdure_workflows.transcript import ADOPT_AFTER
from tests.harness import (
    Handle,
    InProcessModel,
    agent,
    answer,
    assert_valid,
    page,
    pending,
    serving,
    start,
    turn,
    wish,
)
from tests.receiver import receiving

EVENTS = 20
"""After so many events the server suggests to continue as new."""


@pytest.fixture(scope="module")
async def restless() -> AsyncIterator[WorkflowEnvironment]:
    """A server that suggests continue-as-new every other step."""
    suggestions = [
        "--dynamic-config-value",
        f"limit.historyCount.suggestContinueAsNew={EVENTS}",
        "--dynamic-config-value",
        'history.continueAsNewMinInterval="10ms"',
    ]
    async with await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        dev_server_existing_path=find_temporal(),
        dev_server_extra_args=[*server_arguments(time_skipping=True), *suggestions],
        dev_server_log_level="error",
        data_converter=data_converter(),
    ) as environment:
        yield environment


def reader(size: int, *scorers: str) -> App:
    """An app that reads pages of that many characters, and one tool that asks."""
    app = App()

    @app.tool(max_result_bytes=1024 * 1024)
    def read(page: int) -> str:
        """Read a page."""
        return f"page {page} " + "x" * size

    @app.tool(effect="once")
    async def sign(ctx: ToolContext, page: int) -> str:
        """Sign a page."""
        return f"signed {page}"

    app.add(agent(tools=("read", "sign"), scorers=scorers))
    return app


def read_pages(count: int, messages: list[Message]) -> ProviderReply:
    """Read so many pages one after the other, then answer with what was seen."""
    if turn(messages) < count:
        return wish(("read", {"page": turn(messages)}))
    return answer(f"read {count} pages in {len(messages)} messages")


@pytest.mark.parametrize(
    ("size", "cached_runs"), [(100, 0), (60_000, 100)], ids=["carried along", "left in earlier executions"]
)
async def test_the_model_sees_the_whole_conversation(
    restless: WorkflowEnvironment, size: int, cached_runs: int
) -> None:
    """Over many executions each model call is sent every message, once and in order."""
    app = reader(size)
    model = InProcessModel(lambda messages: read_pages(8, messages))

    async with serving(restless.client, app, model, cached_runs=cached_runs) as settings:
        handle = await start(restless.client, app, settings, text="read")
        result = await handle.result()

    assert result.output == "read 8 pages in 17 messages"
    assert (await restless.client.count_workflows(f"WorkflowId = '{handle.id}'")).count > 2
    assert_valid(model.seen[-1])
    assert model.seen[-1][0] == UserMessage(text="read")


async def test_a_run_of_many_executions_is_one_trace_and_counts_once(
    restless: WorkflowEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither going on in a new execution nor replaying each workflow task makes a span or a number twice."""
    spans, traces, numbers = InMemorySpanExporter(), TracerProvider(), InMemoryMetricReader()
    traces.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(tracing, "tracer", traces.get_tracer("test"))
    meter = MeterProvider(metric_readers=[numbers]).get_meter("test")
    for name in ("runs_started", "runs_ended"):
        monkeypatch.setattr(metrics, name, meter.create_counter(name))
    app = reader(100)

    async with serving(restless.client, app, InProcessModel(lambda messages: read_pages(8, messages))) as settings:
        handle = await start(restless.client, app, settings)
        await handle.result()

    assert (await restless.client.count_workflows(f"WorkflowId = '{handle.id}'")).count > 2
    found = spans.get_finished_spans()
    assert Counter(span.name for span in found) == {
        "chat scripted": 9,
        "call_model": 9,
        "execute_tool read": 8,
        "run tester": 1,
    }
    assert len({span.context.trace_id for span in found if span.context}) == 1
    data = numbers.get_metrics_data()
    assert data is not None
    counted = {
        metric.name: sum(point.value for point in metric.data.data_points if isinstance(point, NumberDataPoint))
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }
    assert counted == {"runs_started": 1, "runs_ended": 1}


async def test_another_worker_reads_the_conversation_from_every_execution(restless: WorkflowEnvironment) -> None:
    """A worker that never saw the run asks for what is spread over its executions, and goes on."""
    app = reader(60_000)
    waits = InProcessModel(
        lambda messages: wish(("sign", {"page": 1})) if turn(messages) == 9 else read_pages(10, messages)
    )

    async with serving(restless.client, app, waits) as settings:
        handle = await start(restless.client, app, settings)
        [asked] = await pending(handle)
    later = InProcessModel(lambda messages: answer(f"{len(messages)} messages"))
    async with serving(restless.client, app, later, task_queue=settings.task_queue):
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await handle.result()

    assert result.output == "21 messages"
    assert_valid(later.seen[0])


async def test_a_pending_approval_survives(restless: WorkflowEnvironment) -> None:
    """A flood of decisions that do not count moves the run to new executions; the one that counts is still heard."""
    app = reader(100)
    model = InProcessModel(
        lambda messages: answer("signed") if turn(messages) else wish(("sign", {"page": 1}), ("read", {"page": 1}))
    )

    async with serving(restless.client, app, model) as settings:
        handle = await start(restless.client, app, settings)
        [asked] = await pending(handle)
        first = (await handle.describe()).run_id

        async def moved() -> bool:
            await handle.signal("approve", {"approval_id": "nonsense", "decided_by": "eve"})
            return (await handle.describe()).run_id != first

        await eventually(moved, within=timedelta(seconds=20))
        [still_asked] = await pending(handle)
        memo = await (await handle.describe()).memo_value("approvals", type_hint=ApprovalsMemo)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await handle.result()

    assert still_asked.approval_id == asked.approval_id
    assert memo.pending == (still_asked,)
    assert (result.status, result.output) == (RunStatus.COMPLETED, "signed")


async def test_a_run_keeps_its_priority(restless: WorkflowEnvironment) -> None:
    """Temporal orders the tasks of a run's later executions as it does those of the first."""
    app = reader(100)
    model = InProcessModel(lambda messages: read_pages(8, messages))
    keys = Priority.HIGH.keys(org="acme")

    async with serving(restless.client, app, model) as settings:
        handle = await restless.client.start_workflow(
            AgentRun.run,
            RunArguments(spec=app.resolve(next(app.agents())), input="read"),
            id=f"run-{uuid.uuid4().hex}",
            task_queue=settings.task_queue,
            priority=keys,
        )
        await handle.result()
    description = await handle.describe()

    history = await restless.client.get_workflow_handle(handle.id, run_id=description.run_id).fetch_history()
    assert history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
    assert description.raw_description.workflow_execution_info.priority == keys._to_proto()


async def test_open_results_too_large_to_carry_keep_the_run_where_it_is(restless: WorkflowEnvironment) -> None:
    """Results beside a pending approval may be larger than Temporal's limit of 2 MiB for the next execution's input."""
    app = reader(100)

    @app.tool(max_result_bytes=1024 * 1024)
    def noise(page: int) -> str:
        """Return what no codec makes smaller."""
        return base64.b85encode(random.Random(page).randbytes(800_000)).decode()

    app.add(agent(name="listener", tools=("noise", "sign")))
    calls = [("sign", {"page": 1}), *(("noise", {"page": page}) for page in range(3))]
    model = InProcessModel(lambda messages: answer("signed") if turn(messages) else wish(*calls))

    async with serving(restless.client, app, model) as settings:
        spec = app.resolve(app.agent("listener"))
        handle = await restless.client.start_workflow(
            AgentRun.run,
            RunArguments(spec=spec, input="go"),
            id=f"run-{uuid.uuid4().hex}",
            task_queue=settings.task_queue,
        )
        [asked] = await pending(handle)
        for _ in range(EVENTS):
            await handle.signal("approve", {"approval_id": "nonsense", "decided_by": "eve"})
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        async with asyncio.timeout(40):
            result = await handle.result()

    assert (result.status, result.output) == (RunStatus.COMPLETED, "signed")
    assert_valid(model.seen[-1])


async def test_a_long_wait_takes_the_conversation_over_before_its_history_is_deleted(
    restless: WorkflowEnvironment,
) -> None:
    """Half a day after its predecessors closed, nothing depends on their histories any more."""
    app = reader(60_000)
    model = InProcessModel(
        lambda messages: wish(("sign", {"page": 1})) if turn(messages) == 9 else read_pages(10, messages)
    )

    async with serving(restless.client, app, model) as settings:
        handle = await start(restless.client, app, settings)
        [asked] = await pending(handle)
        before = await page(handle)
        await restless.fast_forward(handle, ADOPT_AFTER + timedelta(minutes=1))

        async def adopted() -> bool:
            return all(segment.closed_at > before.segments[-1].closed_at for segment in (await page(handle)).segments)

        await eventually(adopted, within=timedelta(seconds=20))
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await handle.result()

    assert before.base > 0
    assert before.segments
    assert result.output == "read 10 pages in 21 messages"
    assert_valid(model.seen[-1])


async def test_each_thing_is_told_once_across_executions(restless: WorkflowEnvironment) -> None:
    """A question that is carried over is not told again, and one that is asked at a hand-over is told."""
    app = App()

    @app.tool(approval="ask")
    async def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    app.add(agent(tools=("pay",)))
    calls = [wish(("pay", {"amount": amount})) for amount in range(5)]
    async with (
        receiving() as receiver,
        serving(
            restless.client,
            app,
            InProcessModel(lambda messages: [*calls, answer("Paid.")][turn(messages)]),
            webhook_secrets=["whsec_" + base64.b64encode(b"0" * 32).decode()],
            callback_allowed_networks=["127.0.0.1/32"],
        ) as settings,
    ):
        handle = await start(restless.client, app, settings, callback_url=receiver.url())
        decided: list[str] = []
        for count in range(5):
            # For a moment after a hand-over the memo is that of the execution before.
            approval_id = await eventually(partial(_asked_beside, handle, decided), what="the next question")
            await receiver.told(count + 1)
            await handle.signal("approve", {"approval_id": approval_id, "decided_by": "ann"})
            decided.append(approval_id)
        await handle.result()
        told = [received.json for received in await receiver.told(6)]

    assert [one["type"] for one in told] == ["approval.asked"] * 5 + ["run.ended"]
    amounts = [one["data"]["approval"]["arguments"]["amount"] for one in told[:5]]
    assert amounts == list(range(5))
    assert (await handle.describe()).run_id != handle.first_execution_run_id


async def test_a_cancellation_at_a_hand_over_is_not_lost(restless: WorkflowEnvironment) -> None:
    """It comes while the run goes over into its next execution, which would not know of it."""
    app = App()

    @app.tool(approval="ask")
    def pay(amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    app.add(agent(tools=("pay",)))
    model = InProcessModel(lambda _: wish(*(("pay", {"amount": amount}) for amount in range(4))))

    async def cancelled(settings: Settings) -> BaseException:
        handle = await start(restless.client, app, settings)
        await pending(handle, count=4)
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as failure:
            await asyncio.wait_for(handle.result(), 40)
        return failure.value.cause

    async with serving(restless.client, app, model, cached_runs=100) as settings:
        ends = await asyncio.gather(*(cancelled(settings) for _ in range(20)))

    assert {type(end) for end in ends} == {CancelledError}


async def _asked_beside(handle: Handle, decided: list[str]) -> str:
    return next((one.approval_id for one in await pending(handle) if one.approval_id not in decided), "")


async def test_a_run_of_several_executions_is_judged_once_and_whole(restless: WorkflowEnvironment) -> None:
    """By its last execution; the scorer gets the calls of the earlier ones too, which hold them still."""
    app = reader(100_000, "counts")
    seen: list[ScoredRun] = []

    @app.scorer()
    def counts(run: ScoredRun) -> float:
        seen.append(run)
        return 1

    model = InProcessModel(partial(read_pages, 8))
    async with serving(restless.client, app, model) as settings:
        handle = await start(restless.client, app, settings, text="Read.")
        await handle.result()
        assert (await page(handle)).base > 0
        await eventually(lambda: bool(seen), within=timedelta(seconds=30), what="the scorer")

    [run] = seen
    assert run.input == "Read."
    assert [call.arguments["page"] for call in run.tool_calls] == list(range(8))
    assert all(call.result.startswith(f"page {call.arguments['page']} ") for call in run.tool_calls)


def fails_once(turns: int) -> tuple[InProcessModel, list[str]]:
    """A model that reads so many pages, is gone for a moment, and then answers; and whether it is gone."""
    trouble = ["the model is gone"]

    def script(messages: list[Message]) -> ProviderReply:
        said = turn(messages)
        if said < turns:
            return wish(("read", {"page": said}))
        if trouble:
            raise ApplicationError(trouble.pop(), type="model_unknown", non_retryable=True)
        return answer("Done.")

    return InProcessModel(script), trouble


def pages_of(messages: list[Message]) -> list[str]:
    """Return the pages that a conversation has, in order."""
    return [
        result.content.strip() for message in messages if isinstance(message, ToolMessage) for result in message.results
    ]


async def test_a_run_that_failed_in_a_later_execution_is_retried(restless: WorkflowEnvironment) -> None:
    """What earlier executions hold is its conversation still, and no page is read twice."""
    client, app = restless.client, reader(0)
    model, _ = fails_once(8)

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        before = await fetch_executions(client, handle.id)
        await Gateway(client, app, settings).recovery.retry(handle.id, RetryRequest(by="ann"))
        result = await client.get_workflow_handle_for(AgentRun.run, handle.id).result()

    assert len(before) > 2
    assert (result.status, result.output, result.totals.model_calls) == (RunStatus.COMPLETED, "Done.", 9)
    assert_valid(model.seen[-1])
    assert pages_of(model.seen[-1]) == [f"page {number}" for number in range(8)]
    assert len(model.seen) == 10


@pytest.mark.parametrize(("step", "pages"), [(None, 8), (5, 2)])
async def test_a_run_of_several_executions_is_forked(
    restless: WorkflowEnvironment, step: int | None, pages: int
) -> None:
    """At its end, or at a step of its first execution, which others came after."""
    client, app = restless.client, reader(0)
    model, trouble = fails_once(8)
    trouble.clear()

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await handle.result()
        asked = len(model.seen)
        request = ForkRequest(step=step, message="Be brief.")
        fork = await Gateway(client, app, settings).recovery.fork(handle.id, request)
        result = await client.get_workflow_handle_for(AgentRun.run, fork.run_id).result()

    first = model.seen[asked]
    assert (result.status, result.output) == (RunStatus.COMPLETED, "Done.")
    assert pages_of(first) == [f"page {number}" for number in range(pages)]
    assert first[-1] == UserMessage(text="Be brief.")
    assert_valid(model.seen[-1])
    assert pages_of(model.seen[-1]) == [f"page {number}" for number in range(8)]
