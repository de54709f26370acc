"""Calls that take effect once: a lost attempt is never blindly repeated."""

from __future__ import annotations

from typing import Any

import pytest
from temporalio.client import Client

from perdure import NOT_DONE, App, ToolContext, ToolError
from perdure.contracts import RunStatus
from tests.harness import InProcessModel, agent, answer, in_turns, last_results, pending, serving, start, wish

PAY = wish(("pay", {"amount": 5}))


class Bank:
    """Payments that reach the bank although the connection breaks."""

    def __init__(self, *, breaks: int = 1, reaches: bool = True) -> None:
        self.breaks = breaks
        self.reaches = reaches
        self.payments: list[str] = []
        self.attempts = 0

    def pay(self, key: str) -> str:
        """Pay, and perhaps break off before saying so."""
        self.attempts += 1
        broken = self.attempts <= self.breaks
        if self.reaches or not broken:
            self.payments.append(key)
        if broken:
            raise ConnectionResetError("connection lost")
        return "paid"


def payer(bank: Bank, *, reconcile: Any = None) -> App:
    """An app that pays without being asked."""
    app = App()

    @app.tool(effect="once", approval="allow", reconcile=reconcile)
    async def pay(ctx: ToolContext, amount: int) -> str:
        """Pay an amount."""
        return bank.pay(ctx.idempotency_key)

    app.add(agent(tools=("pay",)))
    return app


async def test_a_lost_call_asks_a_human_who_says_it_is_done(client: Client) -> None:
    """Without a probe the run stops at a human, whose result the model reads."""
    bank = Bank()
    app = payer(bank)
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        decision = {"approval_id": asked.approval_id, "decided_by": "ann", "outcome": "done", "result": {"receipt": 7}}
        await handle.signal("approve", decision)
        await handle.result()

    assert asked.kind == "outcome"
    assert "connection lost" in asked.reason
    assert len(bank.payments) == 1
    assert last_results(model.seen[1]) == ['{"receipt": 7}']


async def test_a_human_may_have_a_lost_call_made_again(client: Client) -> None:
    """Outcome 'retry' dispatches it once more, under the same idempotency key."""
    bank = Bank(reaches=False)
    app = payer(bank)
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann", "outcome": "retry"})
        await handle.result()

    assert (bank.attempts, len(bank.payments)) == (2, 1)
    assert last_results(model.seen[1]) == ["paid"]


async def test_a_human_may_abort_after_a_lost_call(client: Client) -> None:
    """A rejection ends the run as 'rejected'."""
    app = payer(Bank())
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.signal("approve", {"approval_id": asked.approval_id, "decided_by": "ann"})
        await handle.signal("reject", {"approval_id": asked.approval_id, "decided_by": "ann", "reason": "calling them"})
        result = await handle.result()

    assert result.status is RunStatus.REJECTED


async def test_a_probe_that_finds_the_effect_supplies_the_result(client: Client) -> None:
    """A call that took effect is reconciled without a human and never repeated."""
    bank = Bank()

    async def find(ctx: ToolContext, amount: int) -> object:
        return {"found": amount} if ctx.idempotency_key in bank.payments else NOT_DONE

    app = payer(bank, reconcile=find)
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        result = await (await start(client, app, settings)).result()

    assert (bank.attempts, len(bank.payments)) == (1, 1)
    assert last_results(model.seen[1]) == ['{"found":5}']
    assert result.status is RunStatus.COMPLETED


async def test_a_probe_that_finds_nothing_lets_the_call_be_made_again(client: Client) -> None:
    """A call that certainly had no effect is dispatched again, as the same call."""
    bank = Bank(reaches=False)

    async def find(ctx: ToolContext, amount: int) -> object:
        return "found" if ctx.idempotency_key in bank.payments else NOT_DONE

    app = payer(bank, reconcile=find)
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        await (await start(client, app, settings)).result()

    assert (bank.attempts, len(bank.payments)) == (2, 1)
    assert last_results(model.seen[1]) == ["paid"]


async def test_a_call_that_is_lost_again_and_again_ends_at_a_human(client: Client) -> None:
    """Automatic repetition is bounded."""
    bank = Bank(breaks=99, reaches=False)

    async def find(ctx: ToolContext, amount: int) -> object:
        return NOT_DONE

    app = payer(bank, reconcile=find)
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.terminate()

    assert asked.kind == "outcome"
    assert bank.attempts == 3


@pytest.mark.timeout(60)
async def test_a_probe_that_cannot_tell_ends_at_a_human(client: Client) -> None:
    """A probe that raises leaves the outcome unknown."""

    async def find(ctx: ToolContext, amount: int) -> object:
        raise ToolError("the bank is closed")

    bank = Bank()
    app = payer(bank, reconcile=find)
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        await handle.terminate()

    assert asked.kind == "outcome"
    assert bank.attempts == 1


async def test_a_tool_error_of_a_once_tool_is_an_answer(client: Client) -> None:
    """ToolError says that nothing happened, so nothing is unknown."""
    app = App()
    attempts = []

    @app.tool(effect="once", approval="allow")
    async def pay(ctx: ToolContext, amount: int) -> str:
        """Pay an amount."""
        attempts.append(amount)
        raise ToolError("the account is closed", retry=True)

    app.add(agent(tools=("pay",)))
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        await (await start(client, app, settings)).result()

    assert attempts == [5]
    assert last_results(model.seen[1]) == ["the account is closed"]
