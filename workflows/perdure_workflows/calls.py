"""A tool call on its way to a worker and back: the activity's input, and its failure in words."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeoutError

with workflow.unsafe.imports_passed_through():
    from perdure.activities import ToolCall
    from perdure.tool import ToolSpec
    from perdure_workflows.options import HEARTBEAT_TIMEOUT
    from perdure_workflows.state import Call, RunArguments


def activity_input(arguments: RunArguments, call: Call, tool: ToolSpec) -> ToolCall:
    """Return what a worker is told of a call."""
    return ToolCall(
        step=call.step,
        call_id=call.call_id,
        tool=call.tool,
        arguments=call.arguments,
        effect=tool.effect.value,
        timeout=tool.timeout,
        max_attempts=tool.max_attempts if tool.effect.repeatable else 1,
        max_result_bytes=tool.max_result_bytes,
        agent=arguments.spec.name,
        user=arguments.user,
        org=arguments.org,
        rule=call.rule,
        grant_id=call.grant_id,
        trace=arguments.trace,
    )


def described(error: ActivityError, tool: ToolSpec) -> str:
    """Say how a call failed."""
    cause = error.cause
    if isinstance(cause, ActivityTimeoutError):
        if cause.type is TimeoutType.HEARTBEAT:
            silence = f"{HEARTBEAT_TIMEOUT.total_seconds():g} s"
            return f"{tool.name} failed: nothing was heard for {silence} of the worker that ran it"
        return f"{tool.name} failed: it took longer than {tool.timeout.total_seconds():g} s"
    if isinstance(cause, ApplicationError):
        return cause.message
    return str(cause or error)
