"""Calling tools in tests: with a context of the test's own, and as a model would have them called."""

from __future__ import annotations

from decimal import Decimal

import pytest

from perdure import App, ToolContext, ToolError
from perdure.errors import UnknownToolError
from perdure.testing import run_tool, tool_context

app = App()


@app.tool(effect="idempotent")
def charge(ctx: ToolContext, amount: Decimal) -> dict[str, object]:
    """Charge a customer."""
    if amount > 100:
        raise ToolError("too much")
    ctx.heartbeat("charging")
    return {"amount": amount, "key": ctx.idempotency_key, "stopped": ctx.cancelled}


@app.tool()
async def greet(name: str) -> str:
    """Greet somebody."""
    return f"Hello {name}"


async def test_a_tool_answers_as_the_model_would_read_it() -> None:
    """Arguments come as a model writes them, synchronous or not; results are text, or JSON of anything else."""
    context = tool_context(run_id="r", call_id="c7", cancelled=True)

    charged = await run_tool(app, "charge", {"amount": "12.50"}, context=context)
    greeted = await run_tool(app, "greet", {"name": "Ann"})

    assert charged.content == '{"amount":"12.50","key":"r:c7","stopped":true}'
    assert (charged.call_id, charged.is_error) == ("c7", False)
    assert greeted.content == "Hello Ann"


@pytest.mark.parametrize(("arguments", "why"), [({"amount": "500"}, "too much"), ({"amount": "lots"}, "amount")])
async def test_a_tools_failure_is_a_result(arguments: dict[str, object], why: str) -> None:
    """A ToolError, and arguments that do not fit, are errors for the model to read."""
    result = await run_tool(app, "charge", arguments)

    assert result.is_error
    assert why in result.content


async def test_an_unknown_tool_is_the_tests_mistake() -> None:
    """A test that names no tool of the app is told which there are."""
    with pytest.raises(UnknownToolError, match="charge, greet"):
        await run_tool(app, "pay", {})
