"""A tool call on its way to a worker and back: the activity's input, and its failure in words."""

from __future__ import annotations

import hashlib

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeoutError

with workflow.unsafe.imports_passed_through():
    from perdure.activities import ToolCall, call_digest
    from perdure.messages import ToolCallPart
    from perdure.tool import ToolSpec
    from perdure_workflows.options import HEARTBEAT_TIMEOUT
    from perdure_workflows.state import Call, RunArguments


def opened(part: ToolCallPart, *, step: int, salt: str) -> Call:
    """Return the call that a part of a reply asks for."""
    # Some servers number their calls from zero in each reply; and after a reset to an earlier step another call
    # must not inherit this one's idempotency key. Hence a name of our own, from place and content.
    content = f"{part.id}:{call_digest(part.name, part.arguments, salt=salt)}"
    call_id = f"c{step}-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
    return Call(
        call_id=call_id,
        provider_id=part.id,
        tool=part.name,
        arguments=part.arguments,
        malformed=part.malformed,
        step=step,
    )


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
