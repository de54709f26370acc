"""Where a run that ended badly goes on: behind everything that is done, and never before a `once` call.

A reset drops what follows a finished workflow task, and has that task done again. So the point is the last such task
before what failed. Pure: it reads a history.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent

from perdure.activities import TOOL_MISSING, ModelCall, ToolCall
from perdure.contracts import APPROVAL_TIMER, DEADLINE_TIMER, RunResult, RunStatus
from perdure.errors import NotRetriableError
from perdure.events.payloads import describe, read_first
from perdure.recovery import ResetNote
from perdure.tool import Effect

_OF_MODEL: Final = ("call_model", "adopt_transcript")
"""Activities of which the last one was the step that failed, also where its reply was what ended the run."""
_VALUES: Final = ("call_tool", "reconcile_call", "clean_up_call")
"""Activities whose failures are values, which end no run."""
_RESERVE: Final = "reserve"
"""The signal by which a run asks its ledger for money."""
_NO_WAY: Final = {
    RunStatus.COMPLETED: "it has its answer; fork it to go on from there",
    RunStatus.CANCELLED: "somebody cancelled it; fork it to go on all the same",
    RunStatus.REJECTED: "somebody's no ended it; fork it to go on all the same",
    RunStatus.MAX_STEPS: "its step limit is reached, and a retry has the same; fork it with a higher limits.max_steps",
}


@dataclass(frozen=True)
class ResetPoint:
    """Where to reset a run to."""

    event_id: int
    """Of the finished workflow task that is done again."""
    step: int | None
    """The first step that is made again; None where that is not known."""
    resets: int
    """How many resets the execution will have behind it."""


@dataclass
class _Activity:
    """An activity of the history."""

    scheduled: int
    name: str
    step: int | None
    tool: str = ""
    once: bool = False
    closed: int | None = None
    failed: bool = False
    idle: bool = False
    """It certainly did not run."""


def reset_point(events: Sequence[HistoryEvent]) -> ResetPoint:
    """Return where a run goes on.

    Args:
        events: The history of its latest execution, which has ended, payloads decoded.

    Raises:
        NotRetriableError: It can go on from nowhere, or need not.
    """
    activities = _activities(events)
    before = _failed_at(events, activities)
    tasks = [event.event_id for event in events if event.HasField("workflow_task_completed_event_attributes")]
    point = max((task for task in tasks if task < before), default=None)
    if point is None:
        raise NotRetriableError("no worker had begun with it; start it anew")
    for call in activities:
        if call.once and not call.idle and (call.closed is None or call.closed > point):
            raise NotRetriableError(
                f"its call of {call.tool} (step {call.step}) has an effect that must not be repeated, and was under "
                f"way at the only point where the run could go on; fork it behind step {call.step}"
            )
    again = [one.step for one in activities if one.step and (one.closed is None or one.closed > point)]
    return ResetPoint(event_id=point, step=min(again, default=None), resets=count_resets(events) + 1)


def count_resets(events: Sequence[HistoryEvent]) -> int:
    """Return how many resets an execution has behind it."""
    resets = 0
    for event in events:
        failed = event.workflow_task_failed_event_attributes
        if failed.cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW:
            note = ResetNote.read(failed.failure.message)
            resets = max(resets + 1, note.resets if note else 0)
    return resets


def _failed_at(events: Sequence[HistoryEvent], activities: Sequence[_Activity]) -> int:
    """Return the event that a run must go on before."""
    last = events[-1]
    match last.WhichOneof("attributes"):
        case "workflow_execution_failed_event_attributes":
            failure = last.workflow_execution_failed_event_attributes.failure
            return _step_failed_at(events, activities, error_type=failure.application_failure_info.type)
        case "workflow_execution_completed_event_attributes":
            result = read_first(last.workflow_execution_completed_event_attributes.result, RunResult)
            return _stopped_at(events, result)
        case "workflow_execution_terminated_event_attributes" | "workflow_execution_timed_out_event_attributes":
            return last.event_id
        case "workflow_execution_canceled_event_attributes":
            raise NotRetriableError(_NO_WAY[RunStatus.CANCELLED])
    raise NotRetriableError("it goes on")


def _step_failed_at(events: Sequence[HistoryEvent], activities: Sequence[_Activity], *, error_type: str) -> int:
    if error_type == "model_unpriced":
        raise NotRetriableError("it is pinned to terms that have no price for its model; start it anew, or fork it")
    if error_type == "approval_expired":
        return _last_timer(events, APPROVAL_TIMER)
    ends = [one.scheduled for one in activities if one.name in _OF_MODEL]
    ends += [one.scheduled for one in activities if one.failed and one.name not in _VALUES]
    return max(ends, default=events[-1].event_id)


def _stopped_at(events: Sequence[HistoryEvent], result: RunResult | None) -> int:
    status = result.status if result else RunStatus.COMPLETED
    if status is RunStatus.TIMED_OUT:
        return _last_timer(events, DEADLINE_TIMER)
    if result is not None and status is RunStatus.OUT_OF_BUDGET:
        if result.refusal is None or result.refusal.per == "run":
            raise NotRetriableError(
                "its own budget is used up, and a retry has the same; fork it with a higher limits.max_cost_usd"
            )
        asked = [
            event.event_id
            for event in events
            if event.signal_external_workflow_execution_initiated_event_attributes.signal_name == _RESERVE
        ]
        return max(asked, default=events[-1].event_id)
    raise NotRetriableError(_NO_WAY.get(status, f"it is {status}"))


def _last_timer(events: Sequence[HistoryEvent], summary: str) -> int:
    """Return when the last timer fired that the Web UI calls so."""
    started = {
        event.event_id
        for event in events
        if event.HasField("timer_started_event_attributes")
        and event.user_metadata.summary.data.decode("utf-8", "replace").strip('"').startswith(summary)
    }
    fired = [event.event_id for event in events if event.timer_fired_event_attributes.started_event_id in started]
    return max(fired, default=events[-1].event_id)


def _activities(events: Sequence[HistoryEvent]) -> list[_Activity]:
    found: dict[int, _Activity] = {}
    for event in events:
        if event.HasField("activity_task_scheduled_event_attributes"):
            found[event.event_id] = _scheduled(event)
        else:
            _close(event, found)
    return list(found.values())


def _scheduled(event: HistoryEvent) -> _Activity:
    scheduled = event.activity_task_scheduled_event_attributes
    name = scheduled.activity_type.name
    if name == "call_tool" and (call := read_first(scheduled.input, ToolCall)):
        once = call.effect == Effect.ONCE
        return _Activity(event.event_id, name, call.step, tool=call.tool, once=once)
    model = read_first(scheduled.input, ModelCall) if name == "call_model" else None
    return _Activity(event.event_id, name, model.step if model else None)


def _close(event: HistoryEvent, found: dict[int, _Activity]) -> None:
    for scheduled, started, failed in _ends(event):
        if (one := found.get(scheduled)) is None:
            continue
        one.closed, one.failed = event.event_id, failed
        failure = event.activity_task_failed_event_attributes.failure
        one.idle = not started or (failed and describe(failure)[1] == TOOL_MISSING)


def _ends(event: HistoryEvent) -> Iterator[tuple[int, bool, bool]]:
    """Return which activity ended, whether it had started, and whether it failed."""
    match event.WhichOneof("attributes"):
        case "activity_task_completed_event_attributes":
            yield event.activity_task_completed_event_attributes.scheduled_event_id, True, False
        case "activity_task_failed_event_attributes":
            yield event.activity_task_failed_event_attributes.scheduled_event_id, True, True
        case "activity_task_timed_out_event_attributes":
            yield event.activity_task_timed_out_event_attributes.scheduled_event_id, True, True
        case "activity_task_canceled_event_attributes":
            cancelled = event.activity_task_canceled_event_attributes
            yield cancelled.scheduled_event_id, cancelled.started_event_id > 0, False
