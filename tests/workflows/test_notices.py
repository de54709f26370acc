"""Notices of a run: told by deliveries that outlive it, never waited for, and no command without a target."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client, WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.testing import WorkflowEnvironment

from perdure import App, ToolContext
from perdure.activities import Finish
from perdure.contracts import RunStatus
from perdure.events import NoticeChanged, RunEnded
from perdure.history import fetch_executions, read_events
from perdure.notice import DELIVERY_NAME, MAX_OUTPUT_BYTES
from perdure.notification import NotificationTarget
from perdure.policy import Policy
from perdure.search_attributes import ORG
from perdure.settings import Settings
from perdure.testing import eventually
from tests.harness import (
    Handle,
    InProcessModel,
    Script,
    agent,
    answer,
    in_turns,
    pending,
    serving,
    start,
    wish,
)
from tests.receiver import PATIENCE, Received, receiving, status

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
PAY = wish(("pay", {"card": "9999-0000-SECRET-1", "amount": 5}))


def bank() -> App:
    """An app whose payments need an approval."""
    app = App()

    @app.tool(effect="once", approval="ask", secrets=("card",))
    async def pay(ctx: ToolContext, card: str, amount: int) -> str:
        """Pay."""
        return f"paid {amount}"

    app.add(agent(tools=("pay",)))
    return app


@asynccontextmanager
async def desk(client: Client, script: Script, **options: Any) -> AsyncIterator[tuple[App, Settings]]:
    """A worker that may call loopback, and signs."""
    app = bank()
    settings = {"webhook_secrets": [SECRET], "callback_allowed_networks": ["127.0.0.1/32"], **options}
    async with serving(client, app, InProcessModel(script), **settings) as served:
        yield app, served


async def deliveries(client: Client, handle: Handle) -> list[WorkflowHandle[Any, Any]]:
    """Return the deliveries that the run has started."""
    [history] = await fetch_executions(client, handle.id)
    started = [
        event.start_child_workflow_execution_initiated_event_attributes.workflow_id
        for event in history.events
        if event.HasField("start_child_workflow_execution_initiated_event_attributes")
    ]
    return [client.get_workflow_handle(workflow_id) for workflow_id in started]


def told(received: Received) -> Any:
    """Return a delivery's payload, its signature checked."""
    return received.verified(SECRET)


async def approve(handle: Handle) -> None:
    """Approve the only question."""
    [asked] = await pending(handle)
    await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})


async def test_a_callback_is_told_when_a_human_is_needed_and_when_the_run_ends(client: Client) -> None:
    """Two signed deliveries, each with an id of its own; secret arguments are masked before they leave the run."""
    async with receiving() as receiver, desk(client, in_turns(PAY, answer("Paid."))) as (app, settings):
        handle = await start(client, app, settings, callback_url=receiver.url(), org="acme", user="ann")
        await receiver.told(1)
        await approve(handle)
        await handle.result()
        asked, ended = map(told, await receiver.told(2))
        [first, _] = await deliveries(client, handle)
        result = await first.result()
        described = await first.describe()

    assert asked["type"] == "approval.asked"
    assert asked["data"]["approval"]["arguments"] == {"card": "[secret]", "amount": 5}
    assert asked["data"]["user"] == "ann"
    assert ended["type"] == "run.ended"
    assert ended["data"]["result"]["status"] == "completed"
    assert ended["data"]["result"]["output"] == "Paid."
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 2
    assert result["status"] == 200
    assert described.workflow_type == DELIVERY_NAME
    assert described.typed_search_attributes.get(ORG) == "acme"
    assert b"9999-0000" not in receiver.received[0].body


async def test_a_policys_targets_are_told_what_they_asked_for(client: Client) -> None:
    """Each target has its own occasions and its own form."""
    async with receiving() as hook, receiving() as slack, desk(client, in_turns(PAY, answer("Paid."))) as (app, served):
        policy = Policy(
            notify=(
                NotificationTarget(url=hook.url(), on=("approval.approved",)),
                NotificationTarget(url=slack.url(), format="slack"),
            ),
            rules=({"tool": "pay", "permission": "ask", "name": "payments"},),
        )
        handle = await start(client, app, served, policy=policy)
        await approve(handle)
        await handle.result()
        await slack.told(2)
        await hook.told(1)
        await asyncio.gather(*[delivery.result() for delivery in await deliveries(client, handle)])

    [approved] = map(told, hook.received)
    assert approved["type"] == "approval.approved"
    assert approved["data"]["record"]["decided_by"] == "ann"
    texts = [received.json["text"] for received in slack.received]
    assert texts == ["tester asks: may pay run?", "tester: the run is completed"]


async def test_a_run_without_targets_gives_no_command_for_them(client: Client) -> None:
    """Its history is what it was before there were notices."""
    async with desk(client, in_turns(PAY, answer("Paid."))) as (app, settings):
        handle = await start(client, app, settings)
        await approve(handle)
        await handle.result()

        assert await deliveries(client, handle) == []


async def test_a_runs_end_waits_for_nobody(client: Client) -> None:
    """A receiver that is away holds nothing up: the run ends, and its delivery goes on."""
    async with receiving() as gone:
        pass
    async with desk(client, in_turns(answer("Done."))) as (app, settings):
        handle = await start(client, app, settings, callback_url=gone.url())
        result = await handle.result()
        [delivery] = await deliveries(client, handle)
        await eventually(lambda: _is_running(delivery), what="the delivery")

    assert result.status is RunStatus.COMPLETED
    await delivery.terminate()


async def _is_running(delivery: WorkflowHandle[Any, Any]) -> bool:
    return (await delivery.describe()).status is WorkflowExecutionStatus.RUNNING


async def test_every_end_of_a_run_is_told(client: Client) -> None:
    """Also of one that fails, and of one that is cancelled while a human is asked."""
    refused = wish(("pay", {"card": "x", "amount": 1}))
    async with receiving() as receiver, desk(client, in_turns(refused)) as (app, settings):
        cancelled = await start(client, app, settings, callback_url=receiver.url())
        await receiver.told(1)
        await cancelled.cancel()
        with pytest.raises(WorkflowFailureError):
            await cancelled.result()
        await receiver.told(2)
    no = answer("", finish=Finish.REFUSAL, detail="no")
    async with receiving() as other, desk(client, in_turns(no)) as (app, settings):
        failed = await start(client, app, settings, callback_url=other.url())
        with pytest.raises(WorkflowFailureError):
            await failed.result()
        await other.told(1)

    assert told(receiver.received[1])["data"]["result"]["status"] == "cancelled"
    assert told(other.received[0])["data"]["result"]["error"]["type"] == "model_refused"


async def test_a_delivery_is_tried_for_days(client: Client, env: WorkflowEnvironment) -> None:
    """Later and later, under the same id, until the receiver takes it; a signature is of the attempt's own time."""
    refusals = [status(503)] * 8
    async with receiving(*refusals) as receiver, desk(client, in_turns(answer("Done."))) as (app, settings):
        handle = await start(client, app, settings, callback_url=receiver.url())
        await handle.result()
        await receiver.told(1)
        [delivery] = await deliveries(client, handle)
        await env.fast_forward(delivery, timedelta(hours=40))
        await receiver.told(9)
        result = await delivery.result()

    assert result == {"status": 200, "attempts": 9}
    assert len({received.headers["webhook-id"] for received in receiver.received}) == 1
    assert told(receiver.received[-1])["type"] == "run.ended"


async def test_a_delivery_that_nobody_takes_fails_after_three_days(client: Client, env: WorkflowEnvironment) -> None:
    """It is then a failed workflow that lists show, with the receiver's last answer."""
    async with receiving(*[status(500)] * 60) as receiver, desk(client, in_turns(answer("Done."))) as (app, settings):
        handle = await start(client, app, settings, callback_url=receiver.url())
        await handle.result()
        [delivery] = await deliveries(client, handle)
        await env.fast_forward(delivery, timedelta(hours=80))
        with pytest.raises(WorkflowFailureError) as failed:
            await delivery.result()

    assert "500" in str(failed.value.cause)
    assert 10 < len(receiver.received) < 40


async def test_a_final_refusal_fails_the_delivery_and_not_the_run(client: Client) -> None:
    """The run's events say that somebody was not told, and where; the address itself stays out."""
    async with receiving(status(410)) as receiver, desk(client, in_turns(PAY, answer("Paid."))) as (app, settings):
        handle = await start(client, app, settings, callback_url=receiver.url("/T0/secret-path"))
        await eventually(lambda: _events(client, handle, "notice.failed"), within=PATIENCE, what="the failure")
        await approve(handle)
        result = await handle.result()
        events = await read_events(client, handle.id)

    sent, failed = [event for event in events if isinstance(event, NoticeChanged)][:2]
    assert result.status is RunStatus.COMPLETED
    assert (sent.kind, sent.about, sent.host) == ("notice.sent", "approval.asked", "127.0.0.1")
    assert (failed.kind, failed.error) == ("notice.failed", "127.0.0.1 answered 410")
    assert "secret-path" not in "".join(event.model_dump_json() for event in events)
    assert isinstance(events[-1], RunEnded)


async def _events(client: Client, handle: Handle, kind: str) -> list[Any]:
    return [event for event in await read_events(client, handle.id) if event.kind == kind]


async def test_a_large_output_is_cut_in_the_notice_only(client: Client) -> None:
    """A notice fits in Temporal's limits whatever the run has to say."""
    async with receiving() as receiver, desk(client, in_turns(answer("x" * 300_000))) as (app, settings):
        handle = await start(client, app, settings, callback_url=receiver.url())
        result = await handle.result()
        await receiver.told(1)

    output = told(receiver.received[0])["data"]["result"]["output"]
    assert len(result.output or "") == 300_000
    assert len(output) <= MAX_OUTPUT_BYTES
    assert "cut by Perdure" in output


@pytest.mark.parametrize("url", ["http://user:x@h.example/", "ftp://h.example/", "https://127.1/"])
def test_a_policy_with_an_address_that_cannot_be_is_refused(url: str) -> None:
    """When it is loaded, not when the first approval is asked."""
    with pytest.raises(ValueError, match="URL"):
        Policy.model_validate({"notify": [{"url": url}]})
