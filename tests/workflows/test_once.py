"""Calls that take effect once: a lost attempt is never blindly repeated."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import CancelledError

from perdure import NOT_DONE, App, ToolContext, ToolError
from perdure.contracts import RunStatus
from tests.harness import (
    InProcessModel,
    agent,
    answer,
    in_turns,
    last_results,
    pending,
    serving,
    start,
    transcript,
    wish,
)

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


async def test_a_plain_function_that_ends_late_is_believed(client: Client) -> None:
    """A thread cannot be stopped: what it does right after its time is up is the call's outcome, and not repeated."""
    bank = Bank(breaks=0)

    async def find(ctx: ToolContext, amount: int) -> object:
        return "found" if ctx.idempotency_key in bank.payments else NOT_DONE

    def overrun(ctx: ToolContext) -> str:
        time.sleep(2)
        return bank.pay(ctx.idempotency_key)

    model = InProcessModel(in_turns(PAY, answer("fine")))
    app = threaded_payer(overrun, reconcile=find)

    async with serving(client, app, model) as settings:
        await (await start(client, app, settings)).result()

    assert len(bank.payments) == 1
    assert last_results(model.seen[1]) == ["paid"]


async def test_a_plain_function_that_still_runs_is_never_repeated_by_itself(client: Client) -> None:
    """While a thread may yet take effect, a probe's 'not done' proves nothing and a human is asked."""
    bank = Bank(breaks=0)
    released = threading.Event()

    async def find(ctx: ToolContext, amount: int) -> object:
        return NOT_DONE

    def overrun(ctx: ToolContext) -> str:
        released.wait(30)
        return bank.pay(ctx.idempotency_key)

    model = InProcessModel(in_turns(PAY, answer("fine")))
    app = threaded_payer(overrun, reconcile=find)

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        [asked] = await pending(handle)
        released.set()
        done = {"approval_id": asked.approval_id, "decided_by": "ann", "outcome": "done", "result": "paid late"}
        await handle.signal("approve", done)
        await handle.result()

    assert "still running" in asked.reason
    assert len(bank.payments) == 1
    assert last_results(model.seen[1]) == ["paid late"]


async def test_a_cancelled_run_asks_nobody_about_a_call_that_broke_on_the_way_out(client: Client) -> None:
    """Cancellation ends the run even if the tool answers it with an exception of its own."""
    app = App()
    begun = asyncio.Event()

    @app.tool(effect="once", approval="allow")
    async def pay(ctx: ToolContext, amount: int) -> str:
        """Pay an amount."""
        begun.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise ConnectionResetError("connection lost") from None
        return "paid"

    app.add(agent(tools=("pay",)))
    model = InProcessModel(in_turns(PAY, answer("fine")))

    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        await begun.wait()
        await handle.cancel()
        with pytest.raises(WorkflowFailureError) as ended:
            async with asyncio.timeout(10):
                await handle.result()
        messages = await transcript(handle)

    assert isinstance(ended.value.cause, CancelledError)
    assert "The outcome of this call is unknown" in last_results(messages)[0]


def threaded_payer(pay: Callable[[ToolContext], str], *, reconcile: Any) -> App:
    """An app that pays in a thread, and has a second for it."""
    app = App()

    @app.tool(effect="once", approval="allow", timeout=1, reconcile=reconcile, name="pay")
    def run(ctx: ToolContext, amount: int) -> str:
        """Pay an amount."""
        return pay(ctx)

    app.add(agent(tools=("pay",)))
    return app
