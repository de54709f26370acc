"""What a type checker sees of the authoring API; mypy checks this file, and it runs too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import assert_type

from perdure import NOT_DONE, Agent, App, Limits, NotDone, ToolContext
from perdure.agent import AgentSpec

app = App()


async def probe(ctx: ToolContext, amount: Decimal) -> str | NotDone:
    """Find a payment."""
    return NOT_DONE


@app.tool(effect="once", timeout=30, reconcile=probe)
async def pay(ctx: ToolContext, amount: Decimal) -> str:
    """Pay."""
    return str(amount)


@app.tool(timeout=timedelta(seconds=1))
def look(name: str = "") -> int:
    """Look."""
    return len(name)


def test_decorated_functions_keep_their_types() -> None:
    """A tool is the function its author wrote, for the type checker too."""
    assert_type(look(), int)
    pay_type: Callable[[ToolContext, Decimal], Awaitable[str]] = pay
    assert pay_type is pay


def test_agents_and_limits_are_typed() -> None:
    """Fields have the types that the guide says."""
    agent = app.add(Agent(name="payer", model="anthropic:claude-sonnet-5-5", tools=["pay", "look"], limits=Limits()))

    assert_type(agent, Agent)
    assert_type(agent.tools, Sequence[str])
    assert_type(agent.limits.run_timeout, timedelta)
    assert_type(agent.limits.approval_timeout, timedelta | None)
    assert_type(app.resolve(agent), AgentSpec)
