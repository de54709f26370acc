"""The one table of activity options: timeouts, heartbeats, retries, and what the Web UI calls each activity."""

from __future__ import annotations

from datetime import timedelta
from typing import TypedDict

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from perdure.agent import AgentSpec, Limits
    from perdure.notice import Notice
    from perdure.tool import ToolSpec
    from perdure_workflows.state import Call

HEARTBEAT_TIMEOUT = timedelta(seconds=5)
"""The runtime beats once a second: after five seconds of silence the worker is dead, or as good as."""
TIMEOUT_MARGIN = timedelta(seconds=5)
"""Added to what the activity enforces itself, with a better message, before the server steps in."""
MODEL_ATTEMPTS = 10
RUNTIME_ATTEMPTS = 10
LOST_ATTEMPTS = 5
"""Attempts at a repeatable tool that may be lost with their workers, beside those that its author lets it fail."""
CHECK_TIMEOUT = timedelta(seconds=10)
DELIVERY_TIMEOUT = timedelta(seconds=60)
"""One attempt; several addresses of a name may be tried in it."""
DELIVERY_PATIENCE = timedelta(days=3)
DELIVERY_LIFETIME = DELIVERY_PATIENCE + timedelta(hours=12)
"""After this Temporal ends a delivery that no worker takes up."""
TRANSCRIPT_TIMEOUT = timedelta(seconds=60)

_MODEL_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_interval=timedelta(minutes=1),
    maximum_attempts=MODEL_ATTEMPTS,
)
_RUNTIME_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10), maximum_attempts=RUNTIME_ATTEMPTS
)


class DeliveryOptions(TypedDict):
    """As `ActivityOptions`, for what may take days and needs no heartbeat."""

    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    retry_policy: RetryPolicy
    summary: str


class ActivityOptions(TypedDict):
    """What `workflow.execute_activity` takes beside the activity and its input."""

    start_to_close_timeout: timedelta
    heartbeat_timeout: timedelta | None
    retry_policy: RetryPolicy
    cancellation_type: ActivityCancellationType
    summary: str


def model_options(spec: AgentSpec, limits: Limits, *, step: int) -> ActivityOptions:
    """For one model call: retried with backoff, as the error table allows."""
    return _options(
        timeout=limits.model_timeout + TIMEOUT_MARGIN,
        heartbeat=HEARTBEAT_TIMEOUT,
        retries=_MODEL_RETRIES,
        summary=f"model {spec.model_name} · step {step}",
    )


def tool_options(tool: ToolSpec, call: Call) -> ActivityOptions:
    """For one tool call: repeatable tools are retried, a `once` tool gets one attempt."""
    # The activity itself counts the tool's own failures against max_attempts, and makes the last one its answer.
    attempts = tool.max_attempts + LOST_ATTEMPTS if tool.effect.repeatable else 1
    approved = f" (approved by {call.approved_by})" if call.approved_by else ""
    return _options(
        timeout=tool.timeout + TIMEOUT_MARGIN,
        heartbeat=HEARTBEAT_TIMEOUT,
        retries=RetryPolicy(
            initial_interval=timedelta(seconds=1),
            maximum_interval=timedelta(seconds=30),
            maximum_attempts=attempts,
        ),
        summary=f"tool {tool.name}{approved} · step {call.step}",
    )


def reconcile_options(tool: ToolSpec, call: Call) -> ActivityOptions:
    """For the probe after a lost `once` call: it only reads, so it is retried as a read is."""
    return _options(
        timeout=tool.timeout + TIMEOUT_MARGIN,
        heartbeat=HEARTBEAT_TIMEOUT,
        retries=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
        summary=f"reconcile {tool.name} · step {call.step}",
    )


def check_options(tool: ToolSpec, call: Call) -> ActivityOptions:
    """For validating arguments before a human is asked."""
    return _options(
        timeout=CHECK_TIMEOUT,
        heartbeat=None,
        retries=_RUNTIME_RETRIES,
        summary=f"check {tool.name} · step {call.step}",
    )


def grant_options(tool: ToolSpec) -> ActivityOptions:
    """For recording a standing grant: one call to the server."""
    return _options(
        timeout=CHECK_TIMEOUT, heartbeat=None, retries=_RUNTIME_RETRIES, summary=f"standing grant for {tool.name}"
    )


def transcript_options() -> ActivityOptions:
    """For taking messages over from earlier executions."""
    return _options(
        timeout=TRANSCRIPT_TIMEOUT, heartbeat=HEARTBEAT_TIMEOUT, retries=_RUNTIME_RETRIES, summary="adopt transcript"
    )


def delivery_options(notice: Notice) -> DeliveryOptions:
    """For a notice: tried at once, then after 5 s, 20 s, 80 s and so on up to six hours, for three days."""
    return DeliveryOptions(
        start_to_close_timeout=DELIVERY_TIMEOUT,
        schedule_to_close_timeout=DELIVERY_PATIENCE,
        retry_policy=RetryPolicy(
            initial_interval=timedelta(seconds=5), backoff_coefficient=4, maximum_interval=timedelta(hours=6)
        ),
        summary=f"deliver {notice.type}",
    )


def _options(*, timeout: timedelta, heartbeat: timedelta | None, retries: RetryPolicy, summary: str) -> ActivityOptions:
    return ActivityOptions(
        start_to_close_timeout=timeout,
        heartbeat_timeout=heartbeat,
        retry_policy=retries,
        # The run's end waits for the activity's, so that nothing goes on, or is paid for, after it.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
    )
