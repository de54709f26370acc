"""The ledger as a workflow: runs it hears no more of, days, its own executions, and the line of runs that wait."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import EventType
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.testing import TimeSkippingConfig, WorkflowEnvironment

from perdure.budget import Place
from perdure.codec import data_converter
from perdure.contracts import RunStatus
from perdure.ledger.book import SILENCE, SILENCE_IN_NEED
from perdure.ledger.contracts import PageRecord, page_id
from perdure.messages import Message
from perdure.search_attributes import STATUS
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from perdure_workers.dev_server import find_temporal, server_arguments
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.ledger import USAGE_KEPT
from tests.harness import Handle, InProcessModel, answer, serving, start, turn, used, view, wish
from tests.workflows.money import (
    CALL,
    PRICES,
    daily,
    ledger_of,
    looks,
    new_org,
    reader,
    rows,
    settled,
    standing,
    terms,
    until,
    view_of,
)


class Stuck:
    """A model that answers its first call and never another, until it is let go."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()

    async def __call__(self, messages: list[Message]) -> ProviderReply:
        if turn(messages):
            await self.let_go.wait()
        reply = answer("Done.") if turn(messages) else wish(("read", {"page": 1}))
        return used(reply, input_tokens=900, output_tokens=100)


async def called(model: InProcessModel, times: int) -> None:
    """Wait until the model was called so often."""
    await eventually(lambda: len(model.seen) == times, within=timedelta(seconds=20), what=f"call {times}")


async def test_a_dead_run_lets_go_of_what_it_held(env: WorkflowEnvironment) -> None:
    """A run that was terminated can say nothing: the ledger finds out, counts what it used, and frees the rest."""
    client, app, org = env.client, reader(), new_org()
    model = InProcessModel(Stuck())
    async with serving(client, app, model, prices=PRICES) as settings:
        dead = await start(client, app, settings, org=org, terms=terms(daily("1.3")))
        await called(model, 2)
        held = standing(await view_of(ledger_of(client, org)))
        await dead.terminate()
        waits = await start(client, app, settings, org=org, terms=terms(daily("1.3")))
        waits_in_line = await until(ledger_of(client, org), lambda seen: seen.waiting_runs == 1, what="the line")
        await env.fast_forward(ledger_of(client, org), SILENCE_IN_NEED + timedelta(seconds=5))
        found = await until(ledger_of(client, org), lambda seen: seen.waiting_runs == 0, what="the end of the line")
        await waits.terminate()

    assert held.reserved_usd > 1
    assert standing(waits_in_line).spent_usd == 0
    assert standing(found).spent_usd == CALL
    assert [(row.use.calls, row.use.cost_usd) for row in rows(found)] == [(1, CALL)]


async def test_a_run_that_is_silent_but_alive_keeps_what_it_holds(env: WorkflowEnvironment) -> None:
    """A call of the model may take hours; its reservation is not taken away."""
    client, app, org = env.client, reader(), new_org()
    model = InProcessModel(script := Stuck())
    async with serving(client, app, model, prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("2")))
        await called(model, 2)
        before = standing(await view_of(ledger_of(client, org)))
        await env.fast_forward(ledger_of(client, org), 3 * SILENCE)
        after = standing(await view_of(ledger_of(client, org)))
        script.let_go.set()
        await handle.result()
        seen = await settled(client, org, calls=2)

    assert after == before
    assert standing(seen).spent_usd == 2 * CALL


async def reset(client: Client, handle: Handle, *, task: int) -> Handle:
    """Have a run go on once more from one of its workflow tasks, and return the new execution's handle."""
    history = await handle.fetch_history()
    tasks = [e.event_id for e in history.events if e.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED]
    answered = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id, run_id=history.run_id),
            workflow_task_finish_event_id=tasks[task],
            reason="once more",
            request_id=uuid.uuid4().hex,
        )
    )
    return client.get_workflow_handle_for(AgentRun.run, handle.id, run_id=answered.run_id)


@pytest.mark.parametrize(("task", "calls"), [(-2, 4), (-5, 6)], ids=["after the last call", "two calls earlier"])
async def test_what_a_reset_run_spends_is_counted_once_more(client: Client, task: int, calls: int) -> None:
    """Both executions paid for their calls: what the first one spent stays, and the second adds only its own."""
    app, org = reader(), new_org()
    model = InProcessModel(looks(3))
    async with serving(client, app, model, prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("50")))
        await handle.result()
        before = await settled(client, org, calls=4)
        result = await (await reset(client, handle, task=task)).result()
        after = await settled(client, org, calls=calls)

    assert standing(before).spent_usd == 4 * CALL
    assert len(model.seen) == calls
    assert standing(after).spent_usd == calls * CALL
    assert result.totals.cost_usd == 4 * CALL


async def test_a_run_that_is_reset_while_it_holds_money_leaves_none_behind(env: WorkflowEnvironment) -> None:
    """The execution that was left behind is found dead, and the new one reserves for itself."""
    client, app, org = env.client, reader(), new_org()
    model = InProcessModel(script := Stuck())
    async with serving(client, app, model, prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("50")))
        await called(model, 2)
        again = await reset(client, handle, task=-1)
        await called(model, 3)
        script.let_go.set()
        await again.result()
        left = standing(await view_of(ledger_of(client, org)))
        await env.fast_forward(ledger_of(client, org), SILENCE + timedelta(seconds=5))
        seen = await until(ledger_of(client, org), lambda seen: standing(seen).reserved_usd == 0, what="the release")

    assert left.reserved_usd > 0
    assert standing(seen).spent_usd == 2 * CALL  # one call of each execution; the one that was cut off has no price
    assert sum(row.use.calls for row in rows(seen)) == 2


async def test_a_day_becomes_a_page_that_needs_no_worker(env: WorkflowEnvironment) -> None:
    """When a day is over its usage is a workflow of its own, and the next day's budget is whole."""
    client, app, org = env.client, reader(), new_org()
    async with serving(client, app, InProcessModel(looks(1)), prices=PRICES) as settings:
        await (await start(client, app, settings, org=org, user="ann", terms=terms(daily("50")))).result()
        before = await settled(client, org, calls=2)
        assert before.calendar is not None
        await env.fast_forward(ledger_of(client, org), timedelta(days=1, seconds=5))
        after = await until(ledger_of(client, org), lambda seen: not seen.standings, what="the next day")
        await (await start(client, app, settings, org=org, user="ann", terms=terms(daily("50")))).result()
        later = await until(ledger_of(client, org), lambda seen: bool(seen.standings), what="the next reservation")

    [open_page] = before.pages
    page = client.get_workflow_handle(page_id(open_page))
    started = (await anext(page.fetch_history_events(page_size=1))).workflow_execution_started_event_attributes
    record = PageRecord.model_validate_json(started.input.payloads[0].data)
    assert (record.org, record.day, record.time_zone) == (org, before.calendar.day, "UTC")
    assert [(row.user, row.use.calls, row.use.cost_usd) for row in record.rows] == [("ann", 2, 2 * CALL)]
    config = (await page.describe()).raw_description.execution_config
    assert config.workflow_execution_timeout.ToTimedelta() == USAGE_KEPT
    assert after.calendar is not None
    assert after.calendar.day > before.calendar.day
    assert standing(later).spent_usd < 2 * CALL + Decimal("0.01")
    assert standing(later).period == after.calendar.day


@pytest.fixture(scope="module")
async def restless() -> AsyncIterator[WorkflowEnvironment]:
    """A server that suggests continue-as-new after forty events."""
    suggestions = [
        "--dynamic-config-value",
        "limit.historyCount.suggestContinueAsNew=40",
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


@pytest.mark.parametrize("cached_runs", [0, 100])
async def test_a_ledger_of_many_executions_forgets_nothing(restless: WorkflowEnvironment, cached_runs: int) -> None:
    """Requests that wait, reservations and sums go on through continue-as-new, of the ledger and of the runs."""
    client, app, org = restless.client, reader(), new_org()
    async with serving(client, app, InProcessModel(looks(6)), prices=PRICES, cached_runs=cached_runs) as settings:
        handles = [
            await start(client, app, settings, org=org, terms=terms(daily("4"), places=(Place(subject="org", most=3),)))
            for _ in range(9)
        ]
        results = await asyncio.gather(*(handle.result() for handle in handles))
        seen = await settled(client, org, calls=sum(result.totals.model_calls for result in results))
        executions = await client.count_workflows(f"WorkflowId = '{ledger_of(client, org).id}'")

    assert executions.count > 2
    assert (seen.open_runs, seen.queued_runs, seen.waiting_runs) == (0, 0, 0)
    assert standing(seen).spent_usd == sum(result.totals.cost_usd for result in results) <= 4
    assert {result.status for result in results} == {RunStatus.COMPLETED, RunStatus.OUT_OF_BUDGET}


def places(most: int) -> Any:
    """Return terms by which so many runs of the organisation may be open."""
    return terms(places=(Place(subject="org", most=most),))


async def statuses(handles: list[Handle]) -> list[str]:
    """Return what visibility says of runs."""
    return [str((await handle.describe()).typed_search_attributes.get(STATUS)) for handle in handles]


async def test_runs_beyond_the_cap_wait_in_line(client: Client) -> None:
    """A run that finds as many open as may be waits, visibly, and begins when another has ended; first come first."""
    app, org = reader(), new_org()
    model = InProcessModel(script := Stuck())
    async with serving(client, app, model, prices=PRICES) as settings:
        first = await start(client, app, settings, org=org, terms=places(1))
        await called(model, 2)
        second = await start(client, app, settings, org=org, terms=places(1))
        await until(ledger_of(client, org), lambda seen: seen.queued_runs == 1, what="the second in line")
        third = await start(client, app, settings, org=org, terms=places(1))
        queued = await until(ledger_of(client, org), lambda seen: seen.queued_runs == 2, what="the third in line")
        waiting = [(await view(handle)).status for handle in (first, second, third)]
        script.let_go.set()
        ends = {handle.id: await ended(handle) for handle in (first, second, third)}
        seen = await until(ledger_of(client, org), lambda seen: seen.open_runs == 0, what="the end of all")

    assert queued.open_runs == 1
    assert waiting == [RunStatus.RUNNING, RunStatus.QUEUED, RunStatus.QUEUED]
    assert ends[first.id] < ends[second.id] < ends[third.id]
    assert seen.queued_runs == 0
    assert await statuses([first, second, third]) == ["completed"] * 3


async def ended(handle: Handle) -> datetime:
    """Wait for a run's end, and return when that was."""
    await handle.result()
    closed = (await handle.describe()).close_time
    assert closed is not None
    return closed


async def test_a_queued_run_can_be_paused_and_cancelled(client: Client) -> None:
    """People can do with a run in line what they can do with any, and its place in line is free then."""
    app, org = reader(), new_org()
    model = InProcessModel(script := Stuck())
    async with serving(client, app, model, prices=PRICES) as settings:
        first = await start(client, app, settings, org=org, terms=places(1))
        await called(model, 2)
        second = await start(client, app, settings, org=org, terms=places(1))
        third = await start(client, app, settings, org=org, terms=places(1))
        await until(ledger_of(client, org), lambda seen: seen.queued_runs == 2, what="two in line")
        await second.cancel()
        with pytest.raises(WorkflowFailureError):
            await second.result()
        await third.signal("pause", {"by": "ann"})
        await third.signal("message", {"text": "Be quick."})
        script.let_go.set()
        await first.result()
        await until(
            ledger_of(client, org), lambda seen: (seen.open_runs, seen.queued_runs) == (1, 0), what="the third's place"
        )
        paused = (await view(third)).status
        await third.signal("resume", {"by": "ann"})
        result = await third.result()

    assert paused is RunStatus.PAUSED
    assert result.status is RunStatus.COMPLETED
    assert await statuses([second]) == ["cancelled"]
    assert "Be quick." in [getattr(message, "text", "") for message in model.seen[-1]]


async def test_a_queued_runs_time_runs(client: Client) -> None:
    """Waiting in line counts for the run's time limit."""
    app, org = reader(), new_org()
    model = InProcessModel(Stuck())
    async with serving(client, app, model, prices=PRICES) as settings:
        first = await start(client, app, settings, org=org, terms=places(1))
        await called(model, 2)
        limits = next(app.agents()).limits.model_copy(update={"run_timeout": timedelta(seconds=2)})
        second = await start(client, app, settings, org=org, terms=places(1), limits=limits)
        result = await second.result()
        left = await until(ledger_of(client, org), lambda seen: seen.queued_runs == 0, what="an empty line")
        await first.terminate()

    assert result.status is RunStatus.TIMED_OUT
    assert result.totals.model_calls == 0
    assert left.open_runs == 1


async def test_a_dead_run_frees_its_place(env: WorkflowEnvironment) -> None:
    """A place that a terminated run had goes to who waits for it, and one that died in line is passed over."""
    client, app, org = env.client, reader(), new_org()
    model = InProcessModel(script := Stuck())
    async with serving(client, app, model, prices=PRICES) as settings:
        first = await start(client, app, settings, org=org, terms=places(1))
        await called(model, 2)
        second = await start(client, app, settings, org=org, terms=places(1))
        await until(ledger_of(client, org), lambda seen: seen.queued_runs == 1, what="the second in line")
        third = await start(client, app, settings, org=org, terms=places(1))
        await until(ledger_of(client, org), lambda seen: seen.queued_runs == 2, what="the third in line")
        await first.terminate()
        await second.terminate()
        script.let_go.set()
        await env.fast_forward(ledger_of(client, org), SILENCE_IN_NEED + timedelta(seconds=5))
        result = await third.result()

    assert result.status is RunStatus.COMPLETED


async def test_a_signal_that_is_nonsense_disturbs_nobody(client: Client) -> None:
    """Whatever reaches the ledger, or a run in the ledger's name, it goes on."""
    app, org = reader(), new_org()
    model = InProcessModel(script := Stuck())
    async with serving(client, app, model, prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("5")))
        await called(model, 2)
        ledger = ledger_of(client, org)
        for nonsense in ({}, {"holder": 7}, {"holder": "x", "run_id": "y", "minimum": "NaN"}, [1], None):
            await ledger.signal("reserve", nonsense)
            await ledger.signal("settle", nonsense)
            await handle.signal("ledger", nonsense)
        await handle.signal("ledger", {"request_id": "another", "kind": "reserved", "usd": "1000"})
        script.let_go.set()
        await handle.result()
        seen = await settled(client, org, calls=2)

    assert standing(seen).spent_usd == 2 * CALL
