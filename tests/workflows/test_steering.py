"""Steering: messages reach the model's next call, a paused run starts no step, and neither loses anything."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from perdure import App, Limits, ToolContext
from perdure.codec import data_converter
from perdure.contracts import MAX_MESSAGE_BYTES, RunStatus
from perdure.messages import Message, UserMessage
from perdure.oversight import SteeringMemo
from perdure.search_attributes import MEMO_STEERING, STATUS
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_workers.dev_server import find_temporal, server_arguments
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
    view,
    wish,
)

REFUND = wish(("refund", {"order": "o1", "amount": 5}))
LOOK = wish(("look", {"order": "o1"}))
MORE = {"text": "Be quick.", "from": "ann"}


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


class Held:
    """A model that answers its first call only when it is let go."""

    def __init__(self, *replies: ProviderReply) -> None:
        self.called = asyncio.Event()
        self.let_go = asyncio.Event()
        self._replies = replies

    async def __call__(self, messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            self.called.set()
            await self.let_go.wait()
        return self._replies[turn(messages)]


async def listed(handle: Handle, status: RunStatus) -> None:
    """Wait until the run's search attribute says so."""

    async def shown() -> bool:
        return (await handle.describe()).typed_search_attributes.get(STATUS) == status

    await eventually(shown, within=timedelta(seconds=20), what=f"status {status}")


async def records(handle: Handle, count: int) -> list[tuple[str, str]]:
    """Wait until the run has so many records of being steered, and return their kinds and reasons."""

    async def kept() -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = [(record.kind, record.reason) for record in (await view(handle)).steering]
        return found if len(found) >= count else []

    return await eventually(kept, within=timedelta(seconds=20), what=f"{count} records")


@pytest.fixture(scope="module")
async def restless() -> AsyncIterator[WorkflowEnvironment]:
    """A server that suggests continue-as-new after twenty events."""
    suggestions = [
        "--dynamic-config-value",
        "limit.historyCount.suggestContinueAsNew=20",
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


async def test_a_message_while_the_model_answers_keeps_the_run_from_ending(client: Client) -> None:
    """The final answer stays in the conversation, the message follows it, and the model is called once more."""
    app, _ = shop()
    script = Held(answer("It is paid."), answer("Hurry!"))
    model = InProcessModel(script)

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.signal("message", MORE)
        await handle.signal("message", {"text": "Very."})
        script.let_go.set()
        result = await handle.result()
        messages = await transcript(handle)

    assert (result.output, result.totals.model_calls) == ("Hurry!", 2)
    assert model.seen[1][-2:] == [UserMessage(text="Be quick."), UserMessage(text="Very.")]
    assert messages[:-1] == model.seen[1]
    assert_valid(messages)


async def test_a_message_while_a_human_is_asked_comes_after_the_results(client: Client) -> None:
    """It leaves the approval alone, and the model reads it behind the results of its calls."""
    app, made = shop()
    model = InProcessModel(in_turns(REFUND, answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("message", MORE)
        await records(handle, 1)
        before = (await view(handle)).status
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await handle.result()

    assert (before, made) == (RunStatus.WAITING, [("o1", 5)])
    assert_valid(model.seen[1])
    assert model.seen[1][-1] == UserMessage(text="Be quick.")


async def test_messages_and_pauses_are_kept_while_no_worker_runs(client: Client) -> None:
    """What is sent before the first worker comes holds the run, and reaches its first model call."""
    app, _ = shop()
    model = InProcessModel(in_turns(answer("done")))
    async with serving(client, app, model) as settings:
        queue = settings.task_queue

    handle = await start(client, app, settings)
    await handle.signal("message", MORE)
    await handle.signal("pause")
    async with serving(client, app, model, task_queue=queue):
        await listed(handle, RunStatus.PAUSED)
        seen = len(model.seen)
        await handle.signal("resume")
        await handle.result()

    assert seen == 0
    assert model.seen == [[UserMessage(text="go"), UserMessage(text="Be quick.")]]


async def test_a_message_that_does_not_count_changes_nothing_and_is_kept(client: Client) -> None:
    """Nothing, no text, no object and too much are records; the model never hears of them."""
    app, _ = shop()
    script = Held(answer("done"))
    model = InProcessModel(script)

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.signal("message")
        await handle.signal("message", 17)
        await handle.signal("message", {"text": ["no"]})
        await handle.signal("message", {"text": "  ", "from": "ann"})
        await handle.signal("message", {"text": "ü" * (MAX_MESSAGE_BYTES // 2 + 1)})
        kept = await records(handle, 5)
        script.let_go.set()
        result = await handle.result()

    assert (result.output, len(model.seen)) == ("done", 1)
    for (kind, reason), said in zip(
        kept, ("no text", "must be an object", "text: ", "no text", "65,538 bytes"), strict=True
    ):
        assert kind == "ignored"
        assert said in reason


async def test_a_message_that_nobody_can_hear_any_more_is_kept_as_ignored(client: Client) -> None:
    """At the step limit the run ends; its memo says that the message came too late."""
    app, _ = shop(limits=Limits(max_steps=1))
    script = Held(answer("done"))

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.signal("message", MORE)
        await records(handle, 1)
        script.let_go.set()
        result = await handle.result()
        memo = await (await handle.describe()).memo_value(MEMO_STEERING, type_hint=SteeringMemo)

    assert (result.status, result.output) == (RunStatus.MAX_STEPS, "done")
    assert [(record.kind, record.text) for record in memo.changes] == [("ignored", "Be quick.")]


async def test_no_step_starts_while_paused_and_what_runs_ends(client: Client) -> None:
    """The model call that was running counts, its tool call waits for the resume."""
    app, _ = shop()
    script = Held(LOOK, answer("done"))
    model = InProcessModel(script)

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.signal("pause", {"by": "ann", "reason": "lunch"})
        await listed(handle, RunStatus.PAUSED)
        script.let_go.set()

        async def replied() -> bool:
            return (await view(handle)).totals.model_calls == 1

        await eventually(replied)
        held = await view(handle)
        await handle.signal("resume", {"by": "bob"})
        result = await handle.result()

    assert held.status is RunStatus.PAUSED
    assert held.paused
    assert (held.paused.by, held.paused.reason, held.messages) == ("ann", "lunch", 2)
    assert (result.status, result.totals.steps) == (RunStatus.COMPLETED, 3)


async def test_a_pause_holds_the_final_answer_back(client: Client) -> None:
    """Whoever paused may still answer it: the run ends only after the resume, and not if there is a message."""
    app, _ = shop()
    script = Held(answer("Shall I?"), answer("done"))
    model = InProcessModel(script)

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.signal("pause")
        await listed(handle, RunStatus.PAUSED)
        script.let_go.set()

        async def replied() -> bool:
            return (await view(handle)).messages == 2

        await eventually(replied)
        await handle.signal("message", {"text": "Yes."})
        await handle.signal("resume")
        result = await handle.result()

    assert (result.output, model.seen[1][-1]) == ("done", UserMessage(text="Yes."))


async def test_a_decision_while_paused_counts_and_is_acted_upon_after_the_resume(client: Client) -> None:
    """The approval is settled at once, the call is made when the run goes on."""
    app, made = shop()
    model = InProcessModel(in_turns(REFUND, answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("pause")
        await listed(handle, RunStatus.PAUSED)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await eventually(lambda: _settled(handle))
        held, before = (await view(handle)).status, list(made)
        await handle.signal("resume")
        result = await handle.result()

    assert (held, before, made) == (RunStatus.PAUSED, [], [("o1", 5)])
    assert result.status is RunStatus.COMPLETED


async def test_pausing_and_resuming_twice_changes_nothing_and_is_kept(client: Client) -> None:
    """The first pause keeps its name and reason; what had no effect says why; a malformed signal is no pause."""
    app, _ = shop()
    model = InProcessModel(in_turns(REFUND))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await pending(handle)
        await handle.signal("resume", {"by": "eve"})
        await handle.signal("pause", "now")
        await handle.signal("pause", {"by": "ann"})
        await handle.signal("pause", {"by": "bob"})
        held = await view(handle)
        await handle.signal("resume", {"by": "bob"})
        kept = await records(handle, 5)
        await listed(handle, RunStatus.WAITING)
        await handle.terminate()

    assert held.paused
    assert held.paused.by == "ann"
    assert [kind for kind, _ in kept] == ["ignored", "ignored", "paused", "ignored", "resumed"]
    assert kept[0][1] == "the run is not paused"
    assert "must be an object" in kept[1][1]
    assert kept[3][1] == "already paused by 'ann'"


@pytest.mark.parametrize("asks", [True, False], ids=["at a call", "before the model"])
async def test_cancelling_ends_a_paused_run(client: Client, *, asks: bool) -> None:
    """A hold keeps nobody from cancelling, and the transcript is valid."""
    app, made = shop()
    script = Held(REFUND if asks else LOOK)

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        if asks:
            script.let_go.set()
            [asked] = await pending(handle)
            await handle.signal("pause")
            await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
            await eventually(lambda: _settled(handle))
        else:
            await handle.signal("pause")
            await listed(handle, RunStatus.PAUSED)
            script.let_go.set()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        ended, messages = await view(handle), await transcript(handle)

    assert (ended.status, ended.paused, made) == (RunStatus.CANCELLED, None, [])
    assert "unknown" not in str(messages)
    assert_valid(messages)


async def test_the_deadline_ends_a_paused_run(env: WorkflowEnvironment, client: Client) -> None:
    """A pause does not stop the run's clock."""
    app, _ = shop(limits=Limits(run_timeout=timedelta(hours=1)))

    async with serving(client, app, InProcessModel(in_turns(REFUND))) as settings:
        handle = await start(client, app, settings)
        await pending(handle)
        await handle.signal("pause")
        await listed(handle, RunStatus.PAUSED)
        await env.fast_forward(handle, timedelta(hours=2))
        result = await handle.result()

    assert result.status is RunStatus.TIMED_OUT


async def test_a_paused_run_outgrows_its_execution_and_stays_paused(restless: WorkflowEnvironment) -> None:
    """Hold, messages, a decision and a place in line survive continue-as-new, also under a flood of signals."""
    client = restless.client
    app, made = shop()
    model = InProcessModel(in_turns(REFUND, answer("done")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("pause", {"by": "ann"})
        await handle.signal("message", MORE)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        for _ in range(15):
            await handle.signal("pause", {"by": "eve"})

        async def continued() -> bool:
            return (await client.count_workflows(f"WorkflowId = '{handle.id}'")).count > 1

        await eventually(continued, within=timedelta(seconds=20))
        held, before = await view(handle), list(made)
        await handle.signal("resume")
        result = await handle.result()

    assert (held.status, before, made) == (RunStatus.PAUSED, [], [("o1", 5)])
    assert held.paused
    assert held.paused.by == "ann"
    assert result.status is RunStatus.COMPLETED
    assert model.seen[1][-1] == UserMessage(text="Be quick.")


async def test_a_held_answer_survives_continue_as_new(restless: WorkflowEnvironment) -> None:
    """The next execution does not call the model for an answer that is there."""
    client = restless.client
    app, _ = shop()
    script = Held(answer("done"))
    model = InProcessModel(script)

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        await handle.signal("pause")
        script.let_go.set()
        for _ in range(20):
            await handle.signal("pause")

        async def continued() -> bool:
            return (await client.count_workflows(f"WorkflowId = '{handle.id}'")).count > 1

        await eventually(continued, within=timedelta(seconds=20))
        await handle.signal("resume")
        result = await handle.result()

    assert (result.status, result.output, len(model.seen)) == (RunStatus.COMPLETED, "done", 1)


async def test_steering_by_the_temporal_command_works(client: Client) -> None:
    """`temporal workflow signal` pauses, says and resumes as the API does."""
    app, _ = shop()
    script = Held(answer("one"), answer("two"))
    model = InProcessModel(script)

    async def send(handle: Handle, name: str, *payload: str) -> int:
        address = client.service_client.config.target_host
        command = await asyncio.create_subprocess_exec(
            *(find_temporal(), "workflow", "signal", "--address", address, "--workflow-id", handle.id),
            *("--name", name, *payload),
            stdout=asyncio.subprocess.DEVNULL,
        )
        return await command.wait()

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await script.called.wait()
        codes = [
            await send(handle, "pause"),
            await send(handle, "message", "--input", json.dumps(MORE)),
            await send(handle, "resume", "--input", json.dumps({"by": "ann"})),
        ]
        script.let_go.set()
        result = await handle.result()
        kept = await records(handle, 3)

    assert codes == [0, 0, 0]
    assert (result.output, model.seen[1][-1]) == ("two", UserMessage(text="Be quick."))
    assert [kind for kind, _ in kept] == ["paused", "message", "resumed"]


async def _settled(handle: Handle) -> bool:
    return not (await view(handle)).pending_approvals
