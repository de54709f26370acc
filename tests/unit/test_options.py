"""The table of activity options: how often a tool call is tried."""

from __future__ import annotations

from datetime import timedelta

import pytest

from perdure.agent import AgentSpec, Limits
from perdure.tool import Effect, ToolSpec
from perdure_workflows.options import (
    LOST_ATTEMPTS,
    ActivityOptions,
    check_options,
    model_options,
    reconcile_options,
    tool_options,
    transcript_options,
)
from perdure_workflows.state import Call

TOOL = ToolSpec(name="look", input_schema={})
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


def test_a_parked_run_asks_again_for_as_long_as_it_may_run() -> None:
    """Others give up after their attempts; pauses grow to minutes, so that a parked run costs next to nothing."""
    spec = AgentSpec(name="tester", version="1", model="anthropic:any")
    parked = spec.model_copy(update={"on_outage": "park"})
    limits = Limits(model_attempts=3)

    retries = [model_options(each, limits, step=1)["retry_policy"] for each in (spec, parked)]

    assert [policy.maximum_attempts for policy in retries] == [3, 0]
    assert [policy.maximum_interval for policy in retries] == [timedelta(minutes=1), timedelta(minutes=5)]


@pytest.mark.parametrize(
    "options",
    [
        model_options(AgentSpec(name="tester", version="1", model="anthropic:any"), Limits(), step=1),
        tool_options(TOOL, CALL),
        reconcile_options(TOOL, CALL),
        check_options(TOOL, CALL),
        transcript_options(),
    ],
    ids=lambda options: options["summary"],
)
def test_a_dead_worker_is_noticed_within_ten_seconds(options: ActivityOptions) -> None:
    """Whatever a worker was doing when it died is given to another one soon, by its heartbeat or its short timeout."""
    assert (options["heartbeat_timeout"] or options["start_to_close_timeout"]) <= timedelta(seconds=10)
