"""The table of activity options: how often a tool call is tried."""

from __future__ import annotations

from perdure.tool import Effect, ToolSpec
from perdure_workflows.options import LOST_ATTEMPTS, tool_options
from perdure_workflows.state import Call

CALL = Call(call_id="c2", provider_id="call_0", tool="look", arguments={}, step=2)


def attempts(effect: Effect, *, max_attempts: int) -> int:
    """Return how often Temporal may try such a tool."""
    tool = ToolSpec(name="look", input_schema={}, effect=effect, max_attempts=max_attempts)
    return tool_options(tool, CALL)["retry_policy"].maximum_attempts


def test_lost_workers_do_not_use_up_a_tools_own_attempts() -> None:
    """A read that may fail once still survives the deaths of several workers."""
    assert attempts(Effect.READ, max_attempts=1) == 1 + LOST_ATTEMPTS


def test_a_once_tool_is_tried_once() -> None:
    """Temporal itself never repeats a call that takes effect each time."""
    assert attempts(Effect.ONCE, max_attempts=3) == 1
