"""Reading and following the history of real runs: live, afterwards, from anywhere, over all executions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from perdure import App
from perdure.codec import data_converter
from perdure.errors import RunNotFoundError
from perdure.events import EventId, RunEnded, RunEvent, RunStarted
from perdure.history import export, fetch_executions, follow_events, load, project, read_events
from perdure_workers.dev_server import find_temporal, server_arguments
from perdure_workers.replay import replay
from tests.harness import InProcessModel, agent, answer, in_turns, pending, serving, start, wish
from tests.replay.record import SUGGESTING

PATIENCE = timedelta(seconds=20)


@pytest.fixture(scope="module")
async def restless() -> AsyncIterator[Client]:
    """A client of a server that suggests continue-as-new every few steps."""
    async with await WorkflowEnvironment.start_time_skipping_v2(
        ts_config=TimeSkippingConfig(enabled=False),
        dev_server_existing_path=find_temporal(),
        dev_server_extra_args=[*server_arguments(time_skipping=True), *SUGGESTING],
        dev_server_log_level="error",
        data_converter=data_converter(),
    ) as env:
        yield env.client


def shop() -> App:
    """An app with a tool that asks and one that does not."""
    app = App()

    @app.tool(effect="once")
    def refund(order_id: str) -> str:
        """Pay back."""
        return f"refunded {order_id}"

    @app.tool()
    def find(order_id: str) -> str:
        """Find an order."""
        return f"found {order_id}"

    app.add(agent(tools=("refund", "find")))
    return app


async def gather(events: AsyncIterator[RunEvent]) -> list[RunEvent]:
    """Follow to the end."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        return [event async for event in events]


def kinds(events: list[RunEvent]) -> list[str]:
    """Return the kinds of events."""
    return [event.kind for event in events]


async def test_a_run_is_followed_from_its_start_through_an_approval_to_its_end(client: Client) -> None:
    """The stream waits while the human does, and ends with the run."""
    app = shop()
    model = InProcessModel(in_turns(wish(("refund", {"order_id": "A1"})), answer("Done.")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        following = asyncio.create_task(gather(follow_events(client, handle.id)))
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        live = await following

    assert kinds(live) == [
        "run.started",
        "model.called",
        "model.replied",
        "approval.asked",
        "signal.received",
        "tool.called",
        "approval.approved",
        "tool.finished",
        "model.called",
        "model.replied",
        "run.ended",
    ]
    assert await read_events(client, handle.id) == live
    assert await gather(follow_events(client, handle.id)) == live
    assert list(project(load(export(await fetch_executions(client, handle.id))))) == live


async def test_reading_and_following_go_on_behind_any_event(client: Client) -> None:
    """A client that was cut off misses nothing and sees nothing twice."""
    app = shop()

    async with serving(
        client, app, InProcessModel(in_turns(wish(("find", {"order_id": "A1"})), answer("")))
    ) as settings:
        handle = await start(client, app, settings)
        await handle.result()
    events = await read_events(client, handle.id)

    for place, event in enumerate(events):
        assert await read_events(client, handle.id, after=event.id) == events[place + 1 :]
    assert await gather(follow_events(client, handle.id, after=events[3].id)) == events[4:]
    assert await gather(follow_events(client, handle.id, after=events[-1].id)) == []


async def test_a_run_of_many_executions_is_one_stream(restless: Client) -> None:
    """Continue-as-new is an event among others, live and afterwards, and one can go on behind it."""
    app = shop()
    look = wish(("find", {"order_id": "A1"}))

    async with serving(restless, app, InProcessModel(in_turns(look, look, look, look, answer("Done.")))) as settings:
        handle = await start(restless, app, settings)
        live = await gather(follow_events(restless, handle.id))

    ids = [EventId.parse(event.id) for event in live]
    last = ids[-1].execution
    assert last >= 1
    assert ids == sorted(ids)
    assert kinds(live).count("run.continued") == last
    assert kinds(live).count("run.started") == 1
    assert await read_events(restless, handle.id) == live
    middle = next(place for place, event_id in enumerate(ids) if event_id.execution == 1)
    assert await gather(follow_events(restless, handle.id, after=live[middle].id)) == live[middle + 1 :]
    assert len(await fetch_executions(restless, handle.id)) == last + 1


async def test_payloads_come_decoded(client: Client) -> None:
    """A long task travels compressed, and is read, exported and replayed as it was."""
    app, task = shop(), "broken " * 10_000

    async with serving(client, app, InProcessModel(in_turns(answer("Sorry.")))) as settings:
        handle = await start(client, app, settings, text=task)
        await handle.result()
    histories = await fetch_executions(client, handle.id)

    started = next(iter(project(histories)))
    assert isinstance(started, RunStarted)
    assert started.input == task
    assert "perdure-zstd" not in export(histories)
    assert (await replay(load(export(histories)))).deterministic


async def test_a_run_that_was_reset_has_one_history_and_replays(client: Client) -> None:
    """What the old execution did after the point it was reset to does not count."""
    app = shop()
    model = InProcessModel(in_turns(wish(("find", {"order_id": "A1"})), answer("Done.")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await handle.result()
        [history] = await fetch_executions(client, handle.id)
        turns = [e.event_id for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
        await client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=history.run_id),
                workflow_task_finish_event_id=turns[1],
                request_id="again",
                reason="try again",
            )
        )
        events = await gather(follow_events(client, handle.id))

    assert kinds(events).count("run.reset") == 1
    assert isinstance(events[-1], RunEnded)
    assert (await replay(await fetch_executions(client, handle.id))).deterministic


@pytest.mark.parametrize("run_id", ["nobody", "x" * 1001])
async def test_a_run_that_does_not_exist_is_not_found(client: Client, run_id: str) -> None:
    """However it is asked for."""
    with pytest.raises(RunNotFoundError, match=run_id):
        await read_events(client, run_id)
    with pytest.raises(RunNotFoundError):
        await gather(follow_events(client, run_id))


async def test_another_workflow_is_no_run(client: Client) -> None:
    """A namespace may hold workflows of its owner's own."""
    other = await client.start_workflow("Invoice", id="an-invoice", task_queue="nobody-polls-this")

    with pytest.raises(RunNotFoundError, match="'Invoice'"):
        await fetch_executions(client, other.id)

    await other.terminate()


async def test_what_is_no_event_id_is_refused(client: Client) -> None:
    """Before anything is asked of the server."""
    with pytest.raises(ValueError, match="'yesterday' is not an event id"):
        await read_events(client, "nobody", after="yesterday")
