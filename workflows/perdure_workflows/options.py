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
    from perdure.rate import model_queue, tool_queue
    from perdure.recovery import RetryOrder
    from perdure.scoring import ScoringOrder
    from perdure.tool import ToolSpec
    from perdure_workflows.state import Call

HEARTBEAT_TIMEOUT = timedelta(seconds=5)
"""The runtime beats once a second: after five seconds of silence the worker is dead, or as good as."""
TIMEOUT_MARGIN = timedelta(seconds=5)
"""Added to what the activity enforces itself, with a better message, before the server steps in."""
LONGEST_MODEL_PAUSE = timedelta(minutes=1)
LONGEST_PARKED_PAUSE = timedelta(minutes=5)
RUNTIME_ATTEMPTS = 10
LOST_ATTEMPTS = 5
"""Attempts at a repeatable tool, or a scorer, that may be lost with their workers, beside those that its author lets it
fail."""
CLEAN_UP_ATTEMPTS = 3
CHECK_TIMEOUT = timedelta(seconds=10)
DELIVERY_TIMEOUT = timedelta(seconds=60)
"""One attempt; several addresses of a name may be tried in it."""
DELIVERY_PATIENCE = timedelta(days=3)
DELIVERY_LIFETIME = DELIVERY_PATIENCE + timedelta(hours=12)
"""After this Temporal ends a delivery that no worker takes up."""
SCORING_MARGIN = timedelta(minutes=2)
"""Added to a scorer's time, for reading the run."""
SCORING_LIFETIME = timedelta(days=3)
"""After this Temporal ends a scoring that no worker takes up."""
TRANSCRIPT_TIMEOUT = timedelta(seconds=60)
PREPARATION_TIMEOUT = timedelta(seconds=60)
PREPARATION_ATTEMPTS = 60
RETRY_TIMEOUT = timedelta(minutes=2)
LEDGER_TIMEOUT = timedelta(seconds=10)
ANSWERS_TIMEOUT = timedelta(minutes=1)
INSPECTION_TIMEOUT = timedelta(minutes=5)

_RUNTIME_RETRIES = RetryPolicy(
    initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10), maximum_attempts=RUNTIME_ATTEMPTS
)
_LEDGER_RETRIES = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10))
"""Without an end: nobody else would do it, and there is no run to fail."""


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
    task_queue: str | None
    """None is the run's own."""


def model_options(spec: AgentSpec, limits: Limits, *, step: int) -> ActivityOptions:
    """For one model call: retried with backoff, as the error table allows; for a run that parks, until its end."""
    parks = spec.on_outage == "park"
    return _options(
        timeout=limits.model_timeout + TIMEOUT_MARGIN,
        heartbeat=HEARTBEAT_TIMEOUT,
        retries=RetryPolicy(
            initial_interval=timedelta(seconds=1),
            maximum_interval=LONGEST_PARKED_PAUSE if parks else LONGEST_MODEL_PAUSE,
            maximum_attempts=0 if parks else limits.model_attempts,
        ),
        summary=f"model {spec.model_name} · step {step}",
        task_queue=model_queue(_own_queue(), spec.provider) if spec.provider in spec.provider_rates else None,
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
        task_queue=tool_queue(_own_queue(), tool.name) if tool.rate else None,
    )


def reconcile_options(tool: ToolSpec, call: Call) -> ActivityOptions:
    """For the probe after a lost `once` call: it only reads, so it is retried as a read is.

    It asks the system that the tool calls, so the tool's rate counts it too.
    """
    return _options(
        timeout=tool.timeout + TIMEOUT_MARGIN,
        heartbeat=HEARTBEAT_TIMEOUT,
        retries=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
        summary=f"reconcile {tool.name} · step {call.step}",
        task_queue=tool_queue(_own_queue(), tool.name) if tool.rate else None,
    )


def clean_up_options(tool: ToolSpec, call: Call, *, timeout: timedelta) -> ActivityOptions:
    """For cleaning up behind a call that the run's end cut off: the run waits for it, so no rate holds it up."""
    return _options(
        timeout=timeout + TIMEOUT_MARGIN,
        heartbeat=HEARTBEAT_TIMEOUT,
        retries=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=CLEAN_UP_ATTEMPTS),
        summary=f"clean up {tool.name} · step {call.step}",
    )


def check_options(tool: ToolSpec, call: Call) -> ActivityOptions:
    """For validating arguments before a human is asked: nothing outside is called, so no rate holds it up."""
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


def preparation_options() -> ActivityOptions:
    """For preparing a scheduled run: nothing outside is changed, so it is tried again for about an hour."""
    return _options(
        timeout=PREPARATION_TIMEOUT,
        heartbeat=None,
        retries=RetryPolicy(
            initial_interval=timedelta(seconds=1),
            maximum_interval=timedelta(minutes=1),
            maximum_attempts=PREPARATION_ATTEMPTS,
        ),
        summary="prepare the run",
    )


def retry_options(order: RetryOrder) -> ActivityOptions:
    """For having a run go on from the step that failed: its history is read, and the server asked for a reset."""
    return _options(
        timeout=RETRY_TIMEOUT, heartbeat=HEARTBEAT_TIMEOUT, retries=_RUNTIME_RETRIES, summary=f"retry {order.run_id}"
    )


def scoring_options(order: ScoringOrder) -> ActivityOptions:
    """For a scorer: tried again after 2 s, 6 s, 18 s and so on, up to ten minutes."""
    # The activity itself counts the scorer's own failures against max_attempts.
    scorer = order.scorer
    provider = scorer.grading.model.partition(":")[0] if scorer.grading else ""
    return _options(
        timeout=scorer.timeout + SCORING_MARGIN,
        heartbeat=HEARTBEAT_TIMEOUT,
        retries=RetryPolicy(
            initial_interval=timedelta(seconds=2),
            backoff_coefficient=3,
            maximum_interval=timedelta(minutes=10),
            maximum_attempts=scorer.max_attempts + LOST_ATTEMPTS,
        ),
        summary=f"scorer {scorer.name}",
        task_queue=model_queue(_own_queue(), provider) if order.rated else None,
    )


def feedback_options() -> ActivityOptions:
    """For keeping what a scorer thinks: one call to the server."""
    return _options(timeout=CHECK_TIMEOUT, heartbeat=None, retries=_RUNTIME_RETRIES, summary="feedback")


def opening_options() -> ActivityOptions:
    """For starting the ledger that a run finds closed."""
    return _options(timeout=LEDGER_TIMEOUT, heartbeat=None, retries=_LEDGER_RETRIES, summary="open the ledger")


def calendar_options() -> ActivityOptions:
    """For telling the ledger which day it is."""
    return _options(timeout=LEDGER_TIMEOUT, heartbeat=None, retries=_LEDGER_RETRIES, summary="calendar")


def answers_options(*, count: int) -> ActivityOptions:
    """For a batch of the ledger's answers."""
    return _options(
        timeout=ANSWERS_TIMEOUT,
        heartbeat=HEARTBEAT_TIMEOUT,
        retries=_LEDGER_RETRIES,
        summary=f"{count} answer{'' if count == 1 else 's'}",
    )


def inspection_options() -> ActivityOptions:
    """For finding out what became of runs."""
    return _options(
        timeout=INSPECTION_TIMEOUT, heartbeat=HEARTBEAT_TIMEOUT, retries=_LEDGER_RETRIES, summary="silent runs"
    )


def _own_queue() -> str:
    return workflow.info().task_queue


def _options(
    *,
    timeout: timedelta,
    heartbeat: timedelta | None,
    retries: RetryPolicy,
    summary: str,
    task_queue: str | None = None,
) -> ActivityOptions:
    return ActivityOptions(
        start_to_close_timeout=timeout,
        heartbeat_timeout=heartbeat,
        retry_policy=retries,
        # The run's end waits for the activity's, so that nothing goes on, or is paid for, after it.
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        summary=summary,
        task_queue=task_queue,
    )
