"""The clerk: an agent with a tool of each effect, slow enough to be killed before, in and after each of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from perdure import NOT_DONE, Agent, App, Limits, NotDone, ToolContext
from tests.e2e.crash_app.ledger import Ledger

TOOL_TIMEOUT = timedelta(seconds=8)
LONG_TOOL_TIMEOUT = timedelta(seconds=30)
PAUSE = (0.2, 0.9)
"""Seconds before and after each effect, from and to."""

app = App()


@app.tool(effect="read", timeout=TOOL_TIMEOUT)
async def look_up(ctx: ToolContext, case: str, field: str) -> str:
    """Read a field of a case."""
    async with _attempt(ctx, "look_up"):
        return f"{field} of {case}"


@app.tool(effect="idempotent", timeout=TOOL_TIMEOUT)
async def book(ctx: ToolContext, case: str) -> str:
    """Book a case; the same call again is the same booking."""
    async with _attempt(ctx, "book"):
        return Ledger.of_process().take_effect(key=ctx.idempotency_key, tool="book", subject=case)


def charge_made(ctx: ToolContext, case: str) -> str | NotDone:
    """Tell whether a charge whose worker died was made."""
    made = Ledger.of_process().effects(key=ctx.idempotency_key)
    return made[0].receipt if made else NOT_DONE


def charge_made_slowly(ctx: ToolContext, case: str, seconds: float) -> str | NotDone:
    """Tell the same of a slow charge."""
    return charge_made(ctx, case)


@app.tool(effect="once", approval="allow", timeout=TOOL_TIMEOUT, reconcile=charge_made)
async def charge(ctx: ToolContext, case: str) -> str:
    """Charge a case; twice would be twice."""
    async with _attempt(ctx, "charge"):
        return Ledger.of_process().take_effect(key=ctx.idempotency_key, tool="charge", subject=case)


@app.tool(effect="once", approval="ask", timeout=TOOL_TIMEOUT)
async def refund(ctx: ToolContext, case: str) -> str:
    """Refund a case, when a human agrees; nothing can tell afterwards whether a lost call did."""
    async with _attempt(ctx, "refund"):
        return Ledger.of_process().take_effect(key=ctx.idempotency_key, tool="refund", subject=case)


@app.tool(effect="read", timeout=LONG_TOOL_TIMEOUT)
async def ponder(ctx: ToolContext, case: str, seconds: float) -> str:
    """Think that long about a case, unless interrupted once."""
    with Ledger.of_process().attempt(key=ctx.idempotency_key, tool="ponder"):
        await asyncio.sleep(seconds if ctx.attempt == 1 else 0)
        return f"thoughts on {case}"


@app.tool(effect="once", approval="allow", timeout=LONG_TOOL_TIMEOUT)
async def transfer(ctx: ToolContext, case: str, seconds: float) -> str:
    """Move money, and take that long to say so; nothing can tell afterwards whether a lost call did."""
    with Ledger.of_process().attempt(key=ctx.idempotency_key, tool="transfer"):
        receipt = Ledger.of_process().take_effect(key=ctx.idempotency_key, tool="transfer", subject=case)
        await asyncio.sleep(seconds)
        return receipt


@app.tool(effect="once", approval="allow", timeout=LONG_TOOL_TIMEOUT, reconcile=charge_made_slowly)
def charge_slowly(ctx: ToolContext, case: str, seconds: float) -> str:
    """Charge a case after that long, in a thread that nothing can stop."""
    with Ledger.of_process().attempt(key=ctx.idempotency_key, tool="charge_slowly"):
        time.sleep(seconds)
        return Ledger.of_process().take_effect(key=ctx.idempotency_key, tool="charge_slowly", subject=case)


@asynccontextmanager
async def _attempt(ctx: ToolContext, tool: str) -> AsyncIterator[None]:
    with Ledger.of_process().attempt(key=ctx.idempotency_key, tool=tool):
        await asyncio.sleep(random.uniform(*PAUSE))
        yield
        await asyncio.sleep(random.uniform(*PAUSE))


app.add(
    Agent(
        name="clerk",
        model="openai-chat:scripted",
        instructions="Settle the case.",
        tools=("look_up", "book", "charge", "refund", "ponder", "transfer", "charge_slowly"),
        limits=Limits(max_steps=40, run_timeout=timedelta(minutes=10), model_timeout=timedelta(seconds=30)),
    )
)
