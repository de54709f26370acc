"""Runs that cost money: their prices, their terms, and their ledger as it is seen from outside."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from temporalio.client import Client, WorkflowHandle
from temporalio.service import RPCError

from perdure import App
from perdure.budget import Line, PriceCeiling, RunCap, Terms
from perdure.ledger.contracts import LedgerView, Standing, UsageRow, ledger_id
from perdure.messages import Message
from perdure.settings import Price
from perdure.testing import eventually
from perdure_activities.providers.provider import ProviderReply
from tests.harness import agent, answer, turn, used, wish

MODEL = "in-process:scripted"
CHEAP = "in-process:cheap"
PRICES: Mapping[str, Price] = {
    MODEL: Price(input=Decimal(100), output=Decimal(100)),
    CHEAP: Price(input=Decimal(10), output=Decimal(10)),
}
CEILINGS = {name: PriceCeiling(input=price.input, output=price.output) for name, price in PRICES.items()}
CALL = Decimal("0.10")
"""What each call of `looks` costs in the end: a thousand tokens in all. At worst it is some three times as much."""

Ledger = WorkflowHandle[Any, Any]


def terms(*budgets: Line | RunCap, **more: Any) -> Terms:
    """Return terms with these budgets and the prices above."""
    lines = tuple(one for one in budgets if isinstance(one, Line))
    caps = tuple(one for one in budgets if isinstance(one, RunCap))
    return Terms.model_validate({"lines": lines, "caps": caps, "ceilings": CEILINGS, **more})


def daily(usd: str, *, subject: str = "org") -> Line:
    """Return a budget of a day."""
    return Line(budget="daily", per="day", subject=subject, usd=Decimal(usd))


def reader(**changes: Any) -> App:
    """An app of one agent that reads, and signs what a human approves."""
    app = App()

    @app.tool()
    def read(page: int) -> str:
        """Read a page."""
        return f"page {page}"

    @app.tool(effect="once")
    async def sign(page: int) -> str:
        """Sign a page."""
        return f"signed {page}"

    app.add(agent(tools=("read", "sign"), **{"max_output_tokens": 1000, **changes}))
    return app


def looks(count: int, *, then: Callable[[], ProviderReply] = lambda: answer("Done.")) -> Callable[..., ProviderReply]:
    """Return a script that reads so many pages and then answers; each call costs the same."""

    def script(messages: list[Message]) -> ProviderReply:
        said = turn(messages)
        reply = wish(("read", {"page": said}), text=f"I read page {said}.") if said < count else then()
        return used(reply, input_tokens=900, output_tokens=100)

    return script


def new_org() -> str:
    """Return an organisation of which nobody has heard."""
    return f"org-{uuid.uuid4().hex[:12]}"


def ledger_of(client: Client, org: str) -> Ledger:
    """Return the handle of an organisation's ledger."""
    return client.get_workflow_handle(ledger_id(org))


async def view_of(ledger: Ledger) -> LedgerView:
    """Return what the ledger shows."""
    seen: LedgerView = await ledger.query("view", result_type=LedgerView)
    return seen


async def until(ledger: Ledger, holds: Callable[[LedgerView], bool], *, what: str) -> LedgerView:
    """Wait until the ledger shows something."""

    async def seen() -> list[LedgerView]:
        try:
            view = await view_of(ledger)
        except RPCError:  # it is not there yet, or between two executions
            return []
        assert holds(view), view
        return [view]

    [view] = await eventually(seen, within=timedelta(seconds=30), what=what)
    return view


def standing(view: LedgerView, budget: str = "daily") -> Standing:
    """Return how a budget stands."""
    [found] = [one for one in view.standings if one.budget == budget]
    return found


def rows(view: LedgerView) -> list[UsageRow]:
    """Return the usage that is in no page yet."""
    return [row for page in view.pages for row in page.rows]


async def settled(client: Client, org: str, *, calls: int) -> LedgerView:
    """Wait until the ledger knows of so many calls and nothing is reserved, and return what it shows."""
    return await until(
        ledger_of(client, org),
        lambda view: (
            sum(row.use.calls for row in rows(view)) == calls and not any(one.reserved_usd for one in view.standings)
        ),
        what=f"{calls} calls in the ledger",
    )
