"""Approval by signal: what counts, what does not and is kept, and that waiting loses nothing."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from datetime import timedelta
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import CancelledError
from temporalio.testing import WorkflowEnvironment

from perdure import App, Limits, ToolContext
from perdure.contracts import RunStatus
from perdure.messages import Message
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_workers.dev_server import find_temporal
from perdure_workflows.tool_calls import MAX_REMARK_BYTES
from tests.harness import (
    Handle,
    InProcessModel,
    agent,
    answer,
    assert_valid,
    in_turns,
    last_results,
    pending,
    serving,
    start,
    transcript,
    turn,
    view,
    wish,
)


def shop(**changes: Any) -> tuple[App, list[tuple[str, int]]]:
    """An app whose refunds need an approval, and the refunds made."""
    app = App()
    made: list[tuple[str, int]] = []

    @app.tool(effect="once", approval="ask")
    async def refund(ctx: ToolContext, order: str, amount: int) -> str:
        """Pay back."""
        made.append((order, amount))
        return f"refunded {amount} for {order}"

    @app.tool()
    def look(order: str) -> str:
        """Look an order up."""
        return f"{order} is paid"

    app.add(agent(tools=("refund", "look"), **changes))
    return app, made


async def finished(handle: Handle, activity: str) -> bool:
    """Tell whether an activity of that type has completed, by the run's history."""
    scheduled: dict[int, str] = {}
    async for event in handle.fetch_history_events():
        started = event.activity_task_scheduled_event_attributes
        scheduled[event.event_id] = started.activity_type.name
        if event.HasField("activity_task_completed_event_attributes"):
            ended = event.activity_task_completed_event_attributes
            if scheduled[ended.scheduled_event_id] == activity:
                return True
    return False


async def test_an_approved_call_runs_once(client: Client) -> None:
    """Until the signal nothing happens; after it the tool runs and the model reads its result."""
    app, made = shop()
    model = InProcessModel(in_turns(wish(("refund", {"order": "o1", "amount": 5})), answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        waiting, before = await view(handle), list(made)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann", "digest": asked.digest})
        result = await handle.result()

    assert (waiting.status, before) == (RunStatus.WAITING, [])
    assert (asked.tool, asked.arguments, asked.kind) == ("refund", {"order": "o1", "amount": 5}, "call")
    assert made == [("o1", 5)]
    assert last_results(model.seen[1]) == ["refunded 5 for o1"]
    assert result.status is RunStatus.COMPLETED


async def test_a_rejected_call_tells_the_model_why_and_the_run_goes_on(client: Client) -> None:
    """The reason is the call's result."""
    app, made = shop()
    model = InProcessModel(in_turns(wish(("refund", {"order": "o1", "amount": 5})), answer("sorry")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        decision = {"approval_id": asked.approval_id, "decided_by": "ann", "reason": "too late"}
        await handle.signal("reject", decision)
        result = await handle.result()

    assert made == []
    assert last_results(model.seen[1]) == ["Rejected by ann: too late"]
    assert (result.status, result.output) == (RunStatus.COMPLETED, "sorry")


async def test_words_of_a_human_and_problems_of_arguments_are_cut(client: Client) -> None:
    """Neither a megabyte of reasons nor one line for each of many thousand wrong arguments fills a history."""
    app, _ = shop()
    wrong = {f"x{number}": 1 for number in range(30_000)}
    right = {"order": "o1", "amount": 5}
    model = InProcessModel(in_turns(wish(("refund", wrong)), wish(("refund", right)), answer("sorry")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        decision = {"approval_id": asked.approval_id, "decided_by": "ann", "reason": "no " * 300_000}
        await handle.signal("reject", decision)
        await handle.result()

    [problem], [refusal] = last_results(model.seen[1]), last_results(model.seen[2])
    assert "do not fit its schema" in problem
    assert len(problem) <= MAX_REMARK_BYTES
    assert refusal.startswith("Rejected by ann: no no no")
    assert len(refusal) <= MAX_REMARK_BYTES


async def test_a_rejection_ends_the_run_of_an_agent_that_says_so(client: Client) -> None:
    """With on_reject='stop' the run's end is 'rejected', and its transcript is valid."""
    app, _ = shop(on_reject="stop")
    model = InProcessModel(in_turns(wish(("refund", {"order": "o1", "amount": 5}), ("look", {"order": "o1"}))))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("reject", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await handle.result()
        messages = await transcript(handle)

    assert result.status is RunStatus.REJECTED
    assert last_results(messages) == ["Rejected by ann: no reason given", "o1 is paid"]
    assert_valid(messages)


async def test_a_rejection_that_ends_the_run_waits_for_no_other_decision(client: Client) -> None:
    """With on_reject='stop' the first no is enough: the other questions are withdrawn, and their calls do not run."""
    app, made = shop(on_reject="stop")
    calls = [("refund", {"order": order, "amount": 5}) for order in ("o1", "o2")]
    model = InProcessModel(in_turns(wish(*calls)))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        first = next(asked for asked in await pending(handle, count=2) if asked.arguments["order"] == "o1")
        await handle.signal("reject", {"approval_id": first.approval_id, "decided_by": "ann"})
        async with asyncio.timeout(20):
            result = await handle.result()
        ended, messages = await view(handle), await transcript(handle)

    assert (result.status, made) == (RunStatus.REJECTED, [])
    assert [record.kind for record in ended.approvals] == ["asked", "asked", "rejected", "withdrawn"]
    assert last_results(messages) == [
        "Rejected by ann: no reason given",
        "This call has no result: the run was stopped by a rejection.",
    ]


async def test_a_cancelled_run_asks_nobody_although_its_arguments_were_just_checked(client: Client) -> None:
    """A check that ends in spite of the cancellation does not lead to a question that nobody will answer."""
    app = App()
    run_id = f"run-{uuid.uuid4().hex}"

    async def cancel(run_id: str) -> None:
        other = await Client.connect(client.service_client.config.target_host)
        await other.get_workflow_handle(run_id).cancel()

    def cancelling(run_id: str) -> str:
        """Cancel the run while it waits for this very check: the worker is busy with it and cannot stop it."""
        thread = threading.Thread(target=lambda: asyncio.run(cancel(run_id)))
        thread.start()
        thread.join()
        return run_id

    async def refund(run_id: str) -> str:
        """Pay back."""
        return "refunded"

    refund.__annotations__["run_id"] = Annotated[str, AfterValidator(cancelling)]
    app.tool(effect="once")(refund)
    app.add(agent(tools=("refund",)))
    model = InProcessModel(lambda _: wish(("refund", {"run_id": run_id})))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings, run_id=run_id)
        with pytest.raises(WorkflowFailureError) as failure:
            async with asyncio.timeout(20):
                await handle.result()

    assert isinstance(failure.value.cause, CancelledError)


async def test_a_reply_may_ask_for_hundreds_of_approvals(client: Client) -> None:
    """The search attribute holds as many ids as the server takes; the run does not hang on it."""
    app, _ = shop()
    calls = [("refund", {"order": f"o{number}", "amount": 5}) for number in range(200)]
    model = InProcessModel(in_turns(wish(*calls), answer("done")))

    async with serving(client, app, model, cached_runs=1) as settings:
        handle = await start(client, app, settings, limits=Limits(max_steps=500, approval_timeout=timedelta(seconds=2)))
        async with asyncio.timeout(60):
            result = await handle.result()

    assert result.status is RunStatus.COMPLETED


async def test_what_does_not_count_changes_nothing_and_is_kept(client: Client) -> None:
    """Unknown ids, wrong digests, malformed payloads and second decisions are records and nothing else."""
    app, made = shop()
    all_sent = asyncio.Event()

    async def script(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return wish(("refund", {"order": "o1", "amount": 5}))
        await all_sent.wait()
        return answer("done")

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        good = {"approval_id": asked.approval_id, "decided_by": "ann"}
        await handle.signal("approve")
        await handle.signal("approve", 17)
        await handle.signal("approve", {"approval_id": ["no"]})
        await handle.signal("approve", {"approval_id": "c9-ffffffff", "decided_by": "ann"})
        await handle.signal("approve", {"approval_id": asked.approval_id})
        await handle.signal("approve", {**good, "digest": "0" * 64})
        await handle.signal("approve", {**good, "outcome": "done"})
        still_waiting = (await view(handle)).pending_approvals
        await handle.signal("approve", {**good, "surprise": "field"})
        await handle.signal("reject", {"approval_id": asked.approval_id, "decided_by": "bob"})
        all_sent.set()
        await handle.result()
        records = (await view(handle)).approvals

    assert [approval.approval_id for approval in still_waiting] == [asked.approval_id]
    assert made == [("o1", 5)]
    assert [record.kind for record in records] == ["asked", *["ignored"] * 7, "approved", "ignored"]
    reasons = [record.reason for record in records if record.kind == "ignored"]
    for reason, said in zip(
        reasons,
        ("no payload", "must be an object", "approval_id", "no pending", "decided_by", "digest", "outcome", "by 'ann'"),
        strict=True,
    ):
        assert said in reason


async def test_an_approver_may_edit_the_arguments(client: Client) -> None:
    """Arguments that fit run in place of the model's, and the model is told; those that do not are refused."""
    app, made = shop()
    model = InProcessModel(in_turns(wish(("refund", {"order": "o1", "amount": 500})), answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        decision = {"approval_id": asked.approval_id, "decided_by": "ann"}
        await handle.signal("approve", {**decision, "arguments": {"order": "o1", "amount": "lots"}})

        async def refused() -> bool:
            return any(record.kind == "ignored" for record in (await view(handle)).approvals)

        await eventually(refused)
        asked_again = await pending(handle)
        await handle.signal("approve", {**decision, "arguments": {"order": "o1", "amount": 5}})
        await handle.result()

    assert [approval.approval_id for approval in asked_again] == [asked.approval_id]
    assert made == [("o1", 5)]
    assert last_results(model.seen[1]) == [
        '[ann changed the arguments to {"order": "o1", "amount": 5}]\nrefunded 5 for o1'
    ]


async def test_arguments_that_do_not_fit_are_not_asked_about(client: Client) -> None:
    """Nobody is asked to approve a call that could not run."""
    app, _ = shop()
    model = InProcessModel(in_turns(wish(("refund", {"order": "o1"})), answer("oh")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await handle.result()
        records = (await view(handle)).approvals

    assert "amount: Field required" in last_results(model.seen[1])[0]
    assert records == ()


async def test_an_approval_nobody_gives_is_rejected_at_its_deadline(env: WorkflowEnvironment) -> None:
    """The deadline is a durable timer, and the model hears of it."""
    app, made = shop(limits=Limits(approval_timeout=timedelta(hours=24)))
    model = InProcessModel(in_turns(wish(("refund", {"order": "o1", "amount": 5})), answer("no one there")))

    async with serving(env.client, app, model) as settings:
        handle = await start(env.client, app, settings)
        [asked] = await pending(handle)
        await env.fast_forward(handle, timedelta(hours=23))
        before = (await view(handle)).status
        await env.fast_forward(handle, timedelta(hours=2))
        result = await handle.result()

    assert asked.deadline == asked.asked_at + timedelta(hours=24)
    assert before is RunStatus.WAITING
    assert made == []
    assert last_results(model.seen[1]) == ["Rejected by deadline: nobody decided before the deadline"]
    assert result.output == "no one there"


async def test_calls_that_need_no_approval_do_not_wait_for_those_that_do(client: Client) -> None:
    """Several questions are open at once while the allowed call runs, and each is decided by itself."""
    app, made = shop()
    calls: list[tuple[str, dict[str, object]]] = [
        ("refund", {"order": "o1", "amount": 1}),
        ("look", {"order": "o1"}),
        ("refund", {"order": "o2", "amount": 2}),
    ]
    model = InProcessModel(in_turns(wish(*calls), answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        first, second = await pending(handle, count=2)
        await eventually(lambda: finished(handle, "call_tool"))
        await handle.signal("reject", {"approval_id": second.approval_id, "decided_by": "ann", "reason": "no"})
        await handle.signal("approve", {"approval_id": first.approval_id, "decided_by": "bob"})
        await handle.result()

    assert last_results(model.seen[1]) == ["refunded 1 for o1", "o1 is paid", "Rejected by ann: no"]
    assert made == [("o1", 1)]


async def test_a_decision_made_while_no_worker_runs_is_honoured(client: Client) -> None:
    """The signal waits in the server; the approval is readable from visibility meanwhile."""
    app, made = shop()
    model = InProcessModel(in_turns(wish(("refund", {"order": "o1", "amount": 5})), answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
    await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
    async with serving(client, app, model, task_queue=settings.task_queue):
        result = await handle.result()

    assert made == [("o1", 5)]
    assert result.status is RunStatus.COMPLETED


async def test_the_temporal_command_decides_like_the_api(client: Client) -> None:
    """`temporal workflow signal` with a plain JSON object approves."""
    app, made = shop()
    model = InProcessModel(in_turns(wish(("refund", {"order": "o1", "amount": 5})), answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        command = await asyncio.create_subprocess_exec(
            find_temporal(),
            "workflow",
            "signal",
            "--address",
            client.service_client.config.target_host,
            "--workflow-id",
            handle.id,
            "--name",
            "approve",
            "--input",
            json.dumps({"approval_id": asked.approval_id, "decided_by": "ann"}),
            stdout=asyncio.subprocess.DEVNULL,
        )
        exit_code = await command.wait()
        await handle.result()

    assert exit_code == 0
    assert made == [("o1", 5)]
