"""What a run has used by its own history: for a run that ended from outside, and could not state it."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field
from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent

from perdure.activities import ModelCall, ModelReply
from perdure.events.payloads import read_first
from perdure.ledger.contracts import ModelUse, Used
from perdure.messages import Frozen


class _CarriedPurse(Frozen):
    used: Used = Field(default_factory=dict)


class _CarriedState(Frozen):
    purse: _CarriedPurse = _CarriedPurse()


class _Spec(Frozen):
    model: str


class _CarriedRun(Frozen):
    spec: _Spec
    state: _CarriedState | None = None


def used_by(events: Iterable[HistoryEvent]) -> Used:
    """Return what the holder whose execution this is has used: all, or what came after the latest reset.

    Args:
        events: Of one execution, from its first on, payloads decoded.
    """
    used: Used = {}
    agents_model = ""
    asked: dict[int, str] = {}
    for event in events:
        match event.WhichOneof("attributes"):
            case "workflow_execution_started_event_attributes":
                run = read_first(event.workflow_execution_started_event_attributes.input, _CarriedRun)
                agents_model = run.spec.model if run else ""
                used = dict(run.state.purse.used) if run and run.state else {}
            case "workflow_task_failed_event_attributes":
                cause = event.workflow_task_failed_event_attributes.cause
                if cause == WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW:
                    used = {}  # what came before is stated by, or found for, the execution that was left behind
            case "activity_task_scheduled_event_attributes":
                scheduled = event.activity_task_scheduled_event_attributes
                if scheduled.activity_type.name == "call_model":
                    call = read_first(scheduled.input, ModelCall)
                    asked[event.event_id] = (call.model if call else "") or agents_model
            case "activity_task_completed_event_attributes":
                completed = event.activity_task_completed_event_attributes
                first = asked.get(completed.scheduled_event_id)
                if first is not None and (reply := read_first(completed.result, ModelReply)):
                    model = reply.reference or first
                    used[model] = used.get(model, ModelUse()).with_reply(reply)
    return used
