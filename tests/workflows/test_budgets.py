"""Budgets in a run: no call is made that could be one too many, and whatever is held is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal

import pytest
from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError
from temporalio.testing import WorkflowEnvironment

from perdure import Limits
from perdure.activities import Finish
from perdure.budget import RunCap
from perdure.contracts import RunStatus
from perdure.events import SignalIgnored
from perdure.history import read_events
from perdure.ledger.contracts import OpenLedger
from perdure.messages import Message
from perdure.search_attributes import STATUS
from perdure.testing import eventually
from perdure_activities.ledger import open_ledger
from perdure_activities.providers.provider import ProviderReply
from perdure_api.gateway import Gateway
from perdure_api.recovery_schemas import RetryRequest
from perdure_workflows.agent_run import AgentRun
from tests.harness import Handle, InProcessModel, answer, pending, serving, start, turn, used, view, wish
from tests.workflows.money import (
    CALL,
    CHEAP,
    MODEL,
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
)


async def event_types(handle: Handle) -> list[str]:
    """Return the types of a run's events."""
    return [
        EventType.Name(event.event_type).removeprefix("EVENT_TYPE_") for event in (await handle.fetch_history()).events
    ]


def sent(types: Sequence[str]) -> int:
    """Return how often the run spoke to its ledger."""
    return types.count("EXTERNAL_WORKFLOW_EXECUTION_SIGNALED")


async def test_a_run_without_budgets_says_once_what_it_used(client: Client) -> None:
    """Where nothing is limited, the ledger hears of a run when it ends, at the price of five events."""
    app, org = reader(), new_org()
    async with serving(client, app, InProcessModel(looks(2)), prices=PRICES) as settings:
        first = await start(client, app, settings, org=org, terms=terms())
        await first.result()
        governed = await start(client, app, settings, org=org, user="ann", terms=terms())
        plain = await start(client, app, settings, org=org)
        result = await governed.result()
        await plain.result()
        seen = await settled(client, org, calls=6)

    assert result.totals.cost_usd == 3 * CALL
    assert {(row.user, row.agent, row.model, row.use.calls, row.use.cost_usd) for row in rows(seen)} == {
        (None, "tester", MODEL, 3, 3 * CALL),
        ("ann", "tester", MODEL, 3, 3 * CALL),
    }
    assert seen.standings == ()
    assert len(await event_types(governed)) == len(await event_types(plain)) + 5


async def test_most_calls_send_nothing(client: Client) -> None:
    """A run reserves for several calls at once; what they did not cost is given back at its end."""
    app, org = reader(), new_org()
    async with serving(client, app, InProcessModel(looks(5)), prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("50")))
        result = await handle.result()
        seen = await settled(client, org, calls=6)

    assert result.status is RunStatus.COMPLETED
    assert (standing(seen).spent_usd, standing(seen).reserved_usd) == (6 * CALL, Decimal(0))
    assert sent(await event_types(handle)) == 2


async def test_a_call_that_could_cross_the_budget_is_not_made(client: Client) -> None:
    """The run ends with what it has, and says which budget it was and when that begins anew."""
    app, org = reader(), new_org()
    model = InProcessModel(looks(99))
    async with serving(client, app, model, prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("1")))
        result = await handle.result()
        seen = await settled(client, org, calls=result.totals.model_calls)
        description = await handle.describe()

    assert result.status is RunStatus.OUT_OF_BUDGET
    assert description.typed_search_attributes.get(STATUS) == "out_of_budget"
    assert result.output == f"I read page {len(model.seen) - 1}."
    assert result.refusal is not None
    assert (result.refusal.budget, result.refusal.per) == ("daily", "day")
    assert result.refusal.resets_at == standing(seen).resets_at
    assert result.reason == result.refusal.why
    assert 0 < result.totals.cost_usd <= 1
    assert result.totals.cost_usd + result.refusal.needed_usd > 1
    assert standing(seen).spent_usd == result.totals.cost_usd


async def test_a_runs_own_limit_needs_no_ledger(client: Client) -> None:
    """`max_cost_usd` is judged by the run itself: nothing is sent before its end."""
    app, org = reader(), new_org()
    async with serving(client, app, InProcessModel(looks(99)), prices=PRICES) as settings:
        handle = await start(
            client, app, settings, org=org, terms=terms(RunCap(budget="max_cost_usd", usd=Decimal("0.7")))
        )
        result = await handle.result()

    assert result.status is RunStatus.OUT_OF_BUDGET
    assert result.refusal is not None
    assert (result.refusal.budget, result.refusal.cap_usd, result.refusal.resets_at) == (
        "max_cost_usd",
        Decimal("0.7"),
        None,
    )
    assert result.totals.cost_usd <= Decimal("0.7")
    assert sent(await event_types(handle)) == 1


async def test_concurrent_runs_share_what_there_is(client: Client) -> None:
    """However many runs go on at once, together they never spend more than the budget."""
    app, org = reader(), new_org()
    async with serving(client, app, InProcessModel(looks(3)), prices=PRICES, cached_runs=100) as settings:
        handles = [await start(client, app, settings, org=org, terms=terms(daily("3"))) for _ in range(12)]
        results = await asyncio.gather(*(handle.result() for handle in handles))
        seen = await settled(client, org, calls=sum(result.totals.model_calls for result in results))

    assert {result.status for result in results} == {RunStatus.COMPLETED, RunStatus.OUT_OF_BUDGET}
    assert standing(seen).spent_usd == sum(result.totals.cost_usd for result in results) <= 3
    assert standing(seen).spent_usd > 2


async def test_a_human_can_allow_more(client: Client) -> None:
    """With `on_budget="ask"` the run waits for an amount, which counts for everyone whom the budget counts."""
    app, org = reader(on_budget="ask"), new_org()
    async with serving(client, app, InProcessModel(looks(6)), prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("0.5")))
        [asked] = await pending(handle)
        assert (await view(handle)).status is RunStatus.WAITING
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await handle.signal(
            "approve", {"approval_id": asked.approval_id, "decided_by": "ann", "amount_usd": "2", "reason": "go on"}
        )
        result = await handle.result()
        seen = await settled(client, org, calls=7)

    assert (asked.kind, asked.tool) == ("budget", "")
    assert asked.arguments["budget"] == "daily"
    assert asked.arguments["cap_usd"] == "0.5"
    assert "budget 'daily': of $0.5 for today" in asked.reason
    assert result.status is RunStatus.COMPLETED
    assert (standing(seen).cap_usd, standing(seen).spent_usd) == (Decimal("2.5"), 7 * CALL)


async def test_a_run_that_a_shared_budget_stopped_goes_on_once_there_is_room(client: Client) -> None:
    """A retry asks the budget again: it stops the run anew as long as it is full, and no page is read twice."""
    app, org = reader(), new_org()
    asking, model = reader(on_budget="ask"), InProcessModel(looks(6))
    async with serving(client, app, model, prices=PRICES) as settings:
        recovery = Gateway(client, app, settings).recovery
        handle = await start(client, app, settings, org=org, terms=terms(daily("0.5")))
        stopped = await handle.result()
        await recovery.retry(handle.id, RetryRequest(by="ann"))
        latest = client.get_workflow_handle_for(AgentRun.run, handle.id)
        again = await latest.result()
        other = await start(client, asking, settings, org=org, terms=terms(daily("0.5")))
        [asked] = await pending(other)
        more = {"approval_id": asked.approval_id, "decided_by": "bob", "amount_usd": "5"}
        await other.signal("approve", more)
        await other.result()
        await recovery.retry(handle.id, RetryRequest(by="ann"))
        result = await client.get_workflow_handle_for(AgentRun.run, handle.id).result()

    assert stopped.status is again.status is RunStatus.OUT_OF_BUDGET
    assert stopped.totals.model_calls == again.totals.model_calls
    assert (result.status, result.totals.model_calls) == (RunStatus.COMPLETED, 7)


async def test_a_human_can_raise_a_runs_own_limit(client: Client) -> None:
    """What is added to the run's own limit holds for this run alone."""
    app, org = reader(on_budget="ask"), new_org()
    limit = terms(RunCap(budget="max_cost_usd", usd=Decimal("0.4")))
    async with serving(client, app, InProcessModel(looks(3)), prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=limit)
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann", "amount_usd": 5})
        result = await handle.result()

    assert result.status is RunStatus.COMPLETED
    assert result.totals.cost_usd == 4 * CALL


async def test_a_human_can_allow_no_more(client: Client) -> None:
    """A rejection ends the run, with the budget and who said no."""
    app, org = reader(on_budget="ask"), new_org()
    async with serving(client, app, InProcessModel(looks(6)), prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("0.5")))
        [asked] = await pending(handle)
        await handle.signal("reject", {"approval_id": asked.approval_id, "decided_by": "bob", "reason": "not for this"})
        result = await handle.result()

    assert result.status is RunStatus.OUT_OF_BUDGET
    assert result.reason.endswith("; bob allowed no more: not for this")


async def test_nobody_allows_more_in_time(env: WorkflowEnvironment) -> None:
    """The question has the approvals' deadline, and nobody's answer is a no."""
    app, org = reader(on_budget="ask", limits=Limits(approval_timeout=timedelta(hours=2))), new_org()
    async with serving(env.client, app, InProcessModel(looks(6)), prices=PRICES) as settings:
        handle = await start(env.client, app, settings, org=org, terms=terms(daily("0.5")))
        await pending(handle)
        await env.fast_forward(handle, timedelta(hours=3))
        result = await handle.result()

    assert result.status is RunStatus.OUT_OF_BUDGET
    assert "nobody decided before the deadline" in result.reason


async def test_a_run_goes_on_with_a_cheaper_model(client: Client) -> None:
    """With `on_budget="downgrade"` the cheaper model answers from then on, until that does not fit either."""
    app, org = reader(on_budget="downgrade", budget_model=CHEAP), new_org()
    asked: list[str] = []

    class Watched(InProcessModel):
        async def call(self, spec, *rest, **more):  # type: ignore[no-untyped-def]  # it only looks at the model
            asked.append(spec.model)
            return await super().call(spec, *rest, **more)

    async with serving(client, app, Watched(looks(99)), prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("0.7")))
        result = await handle.result()
        seen = await settled(client, org, calls=result.totals.model_calls)

    assert result.status is RunStatus.OUT_OF_BUDGET
    cheap = asked.count(CHEAP)
    assert asked == [MODEL] * (len(asked) - cheap) + [CHEAP] * cheap
    assert cheap > 5
    costs = {row.model: row.use.cost_usd for row in rows(seen)}
    assert costs == {MODEL: (len(asked) - cheap) * CALL, CHEAP: cheap * CALL / 10}
    assert sum(costs.values()) <= Decimal("0.7")


async def test_the_dearest_of_the_models_must_fit(client: Client) -> None:
    """Which model will answer is not known before: room is kept for any of them, and the one that did is paid."""
    app, org = reader(fallbacks=(CHEAP,)), new_org()

    class Failing(InProcessModel):
        async def call(self, spec, *rest, **more):  # type: ignore[no-untyped-def]  # it only looks at the model
            if spec.model == MODEL:
                raise ApplicationError("overloaded", type="model_overloaded")
            return await super().call(spec, *rest, **more)

    async with serving(client, app, Failing(looks(99)), prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("0.7")))
        result = await handle.result()
        seen = await settled(client, org, calls=result.totals.model_calls)

    assert result.status is RunStatus.OUT_OF_BUDGET
    assert {row.model: row.use.cost_usd for row in rows(seen)} == {CHEAP: result.totals.model_calls * CALL / 10}
    assert result.refusal is not None
    assert result.refusal.needed_usd > Decimal("0.1"), "as much as the dearer model takes for its output alone"
    assert result.refusal.spent_usd < Decimal("0.6")


async def test_a_model_without_a_price_is_not_called_if_the_policy_says_so(client: Client) -> None:
    """`unpriced: deny` ends the run before the call, and says why; `flag` calls and marks it."""
    app, org = reader(), new_org()
    model = InProcessModel(looks(0))
    async with serving(client, app, model) as settings:
        denied = await start(client, app, settings, org=org, terms=terms(ceilings={}, unpriced="deny"))
        with pytest.raises(WorkflowFailureError) as caught:
            await denied.result()
        assert model.seen == []
        flagged = await start(client, app, settings, org=org, terms=terms(daily("1"), ceilings={}))
        result = await flagged.result()
        seen = await settled(client, org, calls=1)

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "model_unpriced"
    assert "nobody has a price for 'in-process:scripted'" in caught.value.cause.message
    assert result.totals.unpriced_calls == 1
    assert [row.use.unpriced_calls for row in rows(seen)] == [1]


@pytest.mark.parametrize("held_by", ["approval", "pause"])
async def test_nothing_is_held_while_humans_are_waited_for(client: Client, held_by: str) -> None:
    """A run that waits for people keeps no money from others, and reserves again when it goes on."""
    app, org = reader(), new_org()
    let_go = asyncio.Event()

    async def script(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0 and held_by == "pause":
            await let_go.wait()
        wanted = "sign" if held_by == "approval" else "read"
        reply = wish((wanted, {"page": 1})) if turn(messages) == 0 else answer("Signed.")
        return used(reply, input_tokens=900, output_tokens=100)

    model = InProcessModel(script)
    async with serving(client, app, model, prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("50")))
        await eventually(lambda: len(model.seen) == 1, within=timedelta(seconds=20), what="the first call")
        if held_by == "pause":
            await handle.signal("pause", {"by": "ann"})
            let_go.set()
        waiting = await settled(client, org, calls=1)
        if held_by == "pause":
            await handle.signal("resume", {"by": "ann"})
        else:
            [asked] = await pending(handle)
            await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        result = await handle.result()
        await settled(client, org, calls=2)

    assert (standing(waiting).spent_usd, standing(waiting).reserved_usd) == (CALL, Decimal(0))
    assert result.status is RunStatus.COMPLETED
    assert sent(await event_types(handle)) == 4


LIMITS = {"max_steps": Limits(max_steps=2), "timed_out": Limits(run_timeout=timedelta(seconds=3))}


@pytest.mark.parametrize("end", ["cancelled", "timed_out", "failed", "max_steps", "rejected"])
async def test_whatever_ends_a_run_it_gives_back_what_it_holds(client: Client, end: str) -> None:
    """No end leaves a reservation behind, and what was spent is counted."""
    app, org, limits = reader(on_reject="stop"), new_org(), LIMITS.get(end, Limits())

    async def script(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            reply = wish(("sign" if end == "rejected" else "read", {"page": 1}))
        else:
            if end != "failed":
                await asyncio.Event().wait()
            reply = answer("No.", finish=Finish.REFUSAL, detail="never")
        return used(reply, input_tokens=900, output_tokens=100)

    model = InProcessModel(script)
    async with serving(client, app, model, prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms(daily("50")), limits=limits)
        if end == "rejected":
            [asked] = await pending(handle)
            await handle.signal("reject", {"approval_id": asked.approval_id, "decided_by": "bob"})
        elif end == "cancelled":
            await eventually(lambda: len(model.seen) == 2, what="the second call")
            await handle.cancel()
        try:
            status = (await handle.result()).status
        except WorkflowFailureError:
            status = RunStatus.FAILED if end == "failed" else RunStatus.CANCELLED
        seen = await settled(client, org, calls=2 if end == "failed" else 1)

    assert status == end
    assert standing(seen).reserved_usd == 0


async def test_words_that_come_after_the_end_are_turned_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has failed may still wait for its ledger; what people say meanwhile is told to have come too late."""
    app, org = reader(), new_org()

    @activity.defn(name="open_ledger")
    async def interrupted(wanted: OpenLedger) -> None:
        run = client.get_workflow_handle(activity.info().workflow_id or "")
        await run.signal("message", {"text": "and another thing", "from": "ann"})
        await open_ledger(wanted)

    monkeypatch.setattr("perdure_workers.plugin.open_ledger", interrupted)
    refusal = used(answer("No.", finish=Finish.REFUSAL, detail="never"), input_tokens=900, output_tokens=100)
    async with serving(client, app, InProcessModel(lambda messages: refusal), prices=PRICES) as settings:
        handle = await start(client, app, settings, org=org, terms=terms())
        with pytest.raises(WorkflowFailureError):
            await handle.result()
        events = await read_events(client, handle.id)

    assert [(event.kind, event.text) for event in events if isinstance(event, SignalIgnored)] == [
        ("signal.ignored", "and another thing")
    ]
    assert events[-1].kind == "run.ended"


async def test_a_ledger_that_is_gone_is_opened_again(client: Client) -> None:
    """Terminating a ledger forgets what it knew, and stops no run."""
    app, org = reader(), new_org()
    async with serving(client, app, InProcessModel(looks(1)), prices=PRICES) as settings:
        await (await start(client, app, settings, org=org, terms=terms(daily("50")))).result()
        before = await settled(client, org, calls=2)
        await ledger_of(client, org).terminate()
        await (await start(client, app, settings, org=org, terms=terms(daily("50")))).result()
        after = await settled(client, org, calls=2)

    assert (standing(before).spent_usd, standing(after).spent_usd) == (2 * CALL, 2 * CALL)
    assert (await view_of_closed(client, org)) == 1


async def view_of_closed(client: Client, org: str) -> int:
    """Return how many executions of a ledger have ended."""
    await eventually_listed(client, org)
    return (
        await client.count_workflows(f"WorkflowId = '{ledger_of(client, org).id}' AND ExecutionStatus != 'Running'")
    ).count


async def eventually_listed(client: Client, org: str) -> None:
    """Wait until visibility knows both executions of a ledger."""

    async def both() -> bool:
        return (await client.count_workflows(f"WorkflowId = '{ledger_of(client, org).id}'")).count == 2

    await eventually(both, what="two executions of the ledger")
