"""Retry: a run that failed goes on from the step that failed, once, and nothing that it finished is done again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from perdure import App, Limits, ToolContext
from perdure.contracts import RunStatus
from perdure.errors import NotRetriableError
from perdure.events import EventId, RunReset
from perdure.history import fetch_executions, follow_events, read_events
from perdure.messages import Message, UserMessage
from perdure.oversight import ApprovalsMemo
from perdure.policy import Policy
from perdure.search_attributes import MEMO_APPROVALS
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import Retried, RetryRequest
from perdure_workers.replay import replay
from perdure_workflows.agent_run import AgentRun
from tests.harness import (
    Handle,
    InProcessModel,
    agent,
    answer,
    assert_valid,
    in_turns,
    pending,
    serving,
    start,
    transcript,
    turn,
    wish,
)

WORK = wish(("look", {"order": "o1"}), ("pay", {"order": "o1"}))
BY_ANN = RetryRequest(by="ann", reason="the provider is back")


def shop(*, approval: str = "allow", **changes: Any) -> tuple[App, list[str]]:
    """An app with a harmless tool and one with an effect, and what was called of them."""
    app = App()
    made: list[str] = []

    @app.tool()
    def look(order: str) -> str:
        """Look an order up."""
        made.append("look")
        return f"{order} is paid"

    @app.tool(effect="once", approval="ask" if approval == "ask" else "allow")
    async def pay(ctx: ToolContext, order: str) -> str:
        """Pay back."""
        made.append("pay")
        return "paid"

    app.add(agent(tools=("look", "pay"), **changes))
    return app, made


class Breaks:
    """A model that works in its first turn, breaks so many times in its second, and then answers."""

    def __init__(self, times: int = 1) -> None:
        self.times = times
        self.called = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def __call__(self, messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return WORK
        self.called.set()
        await self.let_go.wait()
        self.times -= 1
        if self.times >= 0:
            raise ApplicationError("the model is gone", type="model_unknown", non_retryable=True)
        return answer("Done.")


async def failed(handle: Handle) -> None:
    """Wait until a run has failed."""
    with pytest.raises(WorkflowFailureError):
        await handle.result()


async def retry(client: Client, app: App, settings: Settings, handle: Handle) -> Retried:
    """Have a run retried."""
    return await Gateway(client, app, settings).recovery.retry(handle.id, BY_ANN)


def latest(client: Client, handle: Handle) -> Handle:
    """Return the handle of whichever execution is the run's latest."""
    return client.get_workflow_handle_for(AgentRun.run, handle.id)


async def test_only_the_failed_step_is_made_again(client: Client) -> None:
    """The finished model and tool calls are not, and the model is asked exactly what it was asked before."""
    app, made = shop()
    model = InProcessModel(Breaks())

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await failed(handle)
        retried = await retry(client, app, settings, handle)
        again = latest(client, handle)
        result = await again.result()
        messages = await transcript(again)
        replayed = await replay(await fetch_executions(client, handle.id))

    assert (retried.created, retried.confirmed, retried.step) == (True, True, 4)
    assert (result.status, result.output) == (RunStatus.COMPLETED, "Done.")
    assert (result.totals.steps, result.totals.model_calls) == (4, 2)
    assert sorted(made) == ["look", "pay"]
    assert len(model.seen) == 3
    assert model.seen[1] == model.seen[2]
    assert_valid(messages)
    assert replayed.deterministic


async def test_two_requests_at_once_are_one_retry(client: Client) -> None:
    """Both are told of the same execution, and only one of them made it."""
    app, _ = shop()
    model = InProcessModel(Breaks())

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await failed(handle)
        retries = await asyncio.gather(*(retry(client, app, settings, handle) for _ in range(4)))
        await latest(client, handle).result()

    assert len({one.execution_id for one in retries}) == 1
    assert sorted(one.created for one in retries) == [False, False, False, True]
    assert len(model.seen) == 3


async def test_a_run_can_fail_and_be_retried_again(client: Client) -> None:
    """Each failure is one that a retry is for; the record names all of them, and no event has the id of another."""
    app, made = shop()
    model = InProcessModel(Breaks(3))
    told: dict[str, str] = {}

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        for _ in range(3):
            await failed(latest(client, handle))
            for event in await read_events(client, handle.id):
                assert told.setdefault(event.id, event.model_dump_json()) == event.model_dump_json()
            await retry(client, app, settings, handle)
        await latest(client, handle).result()
        events = await read_events(client, handle.id)

    for event in events:
        assert told.setdefault(event.id, event.model_dump_json()) == event.model_dump_json()
    resets = [event for event in events if isinstance(event, RunReset)]
    assert [EventId.parse(event.id).resets for event in resets] == [1, 2, 3]
    assert {(event.by, event.reason) for event in resets} == {("ann", "the provider is back")}
    assert sorted(made) == ["look", "pay"]


async def test_a_viewer_that_comes_back_after_a_retry_misses_nothing(client: Client) -> None:
    """The last id that it knows is before everything that the retry brings, however far the failed execution got."""
    app, _ = shop()

    async with serving(client, app, InProcessModel(Breaks())) as settings:
        handle = await start(client, app, settings)
        await failed(handle)
        seen = (await read_events(client, handle.id))[-1].id
        await retry(client, app, settings, handle)
        after = [event async for event in follow_events(client, handle.id, after=seen)]

    assert after[0].kind == "run.reset"
    assert [event.kind for event in after if event.kind.startswith("model.")] == ["model.called", "model.replied"]
    assert after[-1].kind == "run.ended"


async def test_what_people_said_while_it_failed_is_heard_once(client: Client) -> None:
    """The message joins the call that is made again; a late cancellation does not end the retry."""
    app, _ = shop()
    script = Breaks()
    script.let_go.clear()
    model = InProcessModel(script)

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.signal("message", {"text": "Be quick.", "from": "ann"})
        script.let_go.set()
        await failed(handle)
        await retry(client, app, settings, handle)
        again = latest(client, handle)
        result = await again.result()
        messages = await transcript(again)

    assert result.output == "Done."
    assert messages.count(UserMessage(text="Be quick.")) == 1
    assert model.seen[-1][-1] == UserMessage(text="Be quick.")


async def test_time_begins_anew(env: WorkflowEnvironment) -> None:
    """A run that is retried when its time limit has long passed has the whole limit again."""
    client = env.client
    app, _ = shop(limits=Limits(run_timeout=timedelta(hours=1)))
    script = Breaks()
    script.let_go.clear()

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.signal("pause", {"by": "ann"})
        script.let_go.set()
        await failed(handle)
        retried = await retry(client, app, settings, handle)
        again = client.get_workflow_handle_for(AgentRun.run, handle.id, run_id=retried.execution_id)
        await env.fast_forward(again, timedelta(minutes=50))
        await again.signal("resume", {"by": "ann"})
        result = await again.result()

    assert result.status is RunStatus.COMPLETED


async def test_a_run_that_ran_out_of_time_goes_on(client: Client) -> None:
    """What was under way is made again; what was finished is not."""
    app, made = shop(limits=Limits(run_timeout=timedelta(seconds=3)))
    script = Breaks(0)
    script.let_go.clear()

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        timed_out = await handle.result()
        script.let_go.set()
        retried = await retry(client, app, settings, handle)
        result = await latest(client, handle).result()

    assert timed_out.status is RunStatus.TIMED_OUT
    assert retried.step == 4
    assert (result.status, result.output) == (RunStatus.COMPLETED, "Done.")
    assert sorted(made) == ["look", "pay"]


async def test_an_approval_that_nobody_gave_in_time_is_asked_for_again(client: Client) -> None:
    """Calls beside it that are done stay done, and people have as long as before to decide."""
    approval = {"deadline": "5s", "on_deadline": "fail"}
    rule = {"name": "pay", "tool": "pay", "permission": "ask", "approval": approval}
    policy = Policy.model_validate({"rules": [rule]})
    app, made = shop(approval="ask")

    async with serving(client, app, InProcessModel(in_turns(WORK, answer("Done.")))) as settings:
        handle = await start(client, app, settings, policy=policy)
        [asked] = await pending(handle)
        await eventually(lambda: made, what="the other call")
        await failed(handle)
        await retry(client, app, settings, handle)
        again = latest(client, handle)

        async def asked_again() -> bool:
            description = await again.describe()
            memo = await description.memo_value(MEMO_APPROVALS, ApprovalsMemo(), type_hint=ApprovalsMemo)
            return any(one.deadline != asked.deadline for one in memo.pending)

        await eventually(asked_again, within=timedelta(seconds=20), what="the question")
        await again.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await again.result()

    assert result.output == "Done."
    assert sorted(made) == ["look", "pay"]


async def test_a_decision_that_a_reset_brings_before_its_question_counts(client: Client) -> None:
    """Whoever resets a run, by Temporal's own means, to where it asks: the answer that was given is good again."""
    app = App()

    @app.tool(approval="ask")
    def look(order: str) -> str:
        """Look an order up."""
        return f"{order} is paid"

    app.add(agent(tools=("look",)))
    script = in_turns(wish(("look", {"order": "o1"})), answer("Done."))
    async with serving(client, app, InProcessModel(script), cached_runs=100) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await handle.result()
        await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=handle.first_execution_run_id or ""),
                workflow_task_finish_event_id=_asked_in((await handle.fetch_history()).events),
                request_id=str(uuid.uuid4()),
                reason="look again",
            )
        )
        again = latest(client, handle)
        result = await asyncio.wait_for(again.result(), 30)
        events = await read_events(client, handle.id)
        replayed = await replay(await fetch_executions(client, handle.id))

    assert (result.status, result.output) == (RunStatus.COMPLETED, "Done.")
    assert [event.kind for event in events].count("approval.approved") == 1
    assert replayed.deterministic


def _asked_in(events: Iterable[HistoryEvent]) -> int:
    """Return the workflow task, by its completion, that wrote the question into the memo."""
    tasks: list[int] = []
    for event in events:
        if event.HasField("workflow_task_completed_event_attributes"):
            tasks.append(event.event_id)
        if event.HasField("workflow_properties_modified_event_attributes"):
            return tasks[-1]
    raise AssertionError("it asked nobody")


async def test_what_has_not_failed_is_not_retried(client: Client) -> None:
    """An open run, an answer and a cancellation are conflicts, each with what to do instead."""
    app, _ = shop(approval="ask")

    async with serving(client, app, InProcessModel(in_turns(answer("Done.")))) as settings:
        done = await start(client, app, settings)
        await done.result()
        with pytest.raises(NotRetriableError, match="has its answer"):
            await retry(client, app, settings, done)
    async with serving(client, app, InProcessModel(in_turns(WORK))) as settings:
        waiting = await start(client, app, settings)
        await pending(waiting)
        with pytest.raises(NotRetriableError, match="goes on"):
            await retry(client, app, settings, waiting)
        await waiting.cancel()
        with pytest.raises(WorkflowFailureError):
            await waiting.result()
        with pytest.raises(NotRetriableError, match="somebody cancelled it"):
            await retry(client, app, settings, waiting)
    short, _ = shop(limits=Limits(max_steps=1))
    async with serving(client, short, InProcessModel(in_turns(WORK))) as settings:
        handle = await start(client, short, settings)
        await handle.result()
        with pytest.raises(NotRetriableError, match="its step limit is reached"):
            await retry(client, short, settings, handle)


async def test_a_once_call_under_way_is_never_made_again(client: Client) -> None:
    """A run that was terminated while it paid cannot be retried, as nobody knows whether it has paid."""
    app = App()
    paying, made = asyncio.Event(), list[str]()

    @app.tool(effect="once", approval="allow")
    async def pay(ctx: ToolContext) -> str:
        """Pay."""
        made.append(ctx.idempotency_key)
        paying.set()
        await asyncio.Event().wait()
        return "paid"

    app.add(agent(tools=("pay",)))
    async with serving(client, app, InProcessModel(in_turns(wish(("pay", {}))))) as settings:
        handle = await start(client, app, settings)
        await paying.wait()
        await handle.terminate("wrong customer")
        with pytest.raises(NotRetriableError, match=r"its call of pay \(step 2\) has an effect that must not be repea"):
            await retry(client, app, settings, handle)

    assert len(made) == 1


async def test_a_terminated_run_goes_on_where_it_was(client: Client) -> None:
    """Nothing of it had failed."""
    app, made = shop()
    script = Breaks(0)
    script.let_go.clear()

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.terminate("by mistake")
        script.let_go.set()
        retried = await retry(client, app, settings, handle)
        result = await latest(client, handle).result()

    assert (retried.step, result.output) == (4, "Done.")
    assert sorted(made) == ["look", "pay"]
