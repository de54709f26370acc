"""From Temporal history to the events of a run: deterministic, without I/O, one history event at a time.

What it does not know (an activity of newer code, a payload it cannot read) it leaves out; it never fails on a history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.message import Message as Proto
from temporalio.api.enums.v1 import TimeoutType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import (
    HistoryEvent,
    WorkflowExecutionCanceledEventAttributes,
    WorkflowExecutionCancelRequestedEventAttributes,
    WorkflowExecutionCompletedEventAttributes,
    WorkflowExecutionContinuedAsNewEventAttributes,
    WorkflowExecutionFailedEventAttributes,
    WorkflowExecutionSignaledEventAttributes,
    WorkflowExecutionStartedEventAttributes,
    WorkflowExecutionTerminatedEventAttributes,
    WorkflowExecutionTimedOutEventAttributes,
    WorkflowPropertiesModifiedEventAttributes,
    WorkflowTaskFailedEventAttributes,
    WorkflowTaskTimedOutEventAttributes,
)

from perdure.budget import BudgetMemo
from perdure.contracts import RunError, RunInput, RunResult, RunStatus
from perdure.events.activities import Activities
from perdure.events.approvals import ApprovalLog
from perdure.events.budgets import BudgetLog
from perdure.events.event import (
    RunCancelRequested,
    RunContinued,
    RunEnded,
    RunEvent,
    RunReset,
    RunStarted,
    SignalReceived,
    WorkerTrouble,
)
from perdure.events.notices import NoticeLog
from perdure.events.payloads import CarriedRun, read, read_first, short_name
from perdure.events.stamp import Stamp
from perdure.events.steering import SteeringLog
from perdure.ledger.contracts import ANSWER_SIGNAL, LedgerAnswer
from perdure.oversight import ApprovalsMemo, Decision, SteeringMemo
from perdure.recovery import ResetNote
from perdure.search_attributes import MEMO_APPROVALS, MEMO_BUDGET, MEMO_RESULT, MEMO_STEERING

_RESET: Final = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
_HARMLESS_TASK_FAILURES: Final = (
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,  # a signal came in between: done again
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_FORCE_CLOSE_COMMAND,
)


class Projector:
    """Derives events from the history of one execution, fed in order from its first event on."""

    def __init__(self, execution: int = 0) -> None:
        """Begin an execution.

        Args:
            execution: Its place in the run: 0 is the first, continue-as-new starts the next.
        """
        self._execution = execution
        self._activities = Activities()
        self._approvals = ApprovalLog()
        self._steering = SteeringLog()
        self._notices = NoticeLog()
        self._budgets = BudgetLog()
        self._memo_result: RunResult | None = None
        self._resets = 0

    def feed(self, event: HistoryEvent) -> tuple[RunEvent, ...]:
        """Take in the next history event, its payloads decoded, and return what it says."""
        name = event.WhichOneof("attributes")
        handler = _HANDLERS.get(name or "")
        if name is None or handler is None:
            return ()
        if event.workflow_task_failed_event_attributes.cause == _RESET:
            note = ResetNote.read(event.workflow_task_failed_event_attributes.failure.message)
            self._resets = max(self._resets + 1, note.resets if note else 0)
        stamp = Stamp(event, execution=self._execution, resets=self._resets)
        return tuple(handler(self, getattr(event, name), stamp))

    def _started(self, started: WorkflowExecutionStartedEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        run = read_first(started.input, RunInput)
        self._activities.begin(run, read_first(started.input, CarriedRun))
        if memo := read(started.memo.fields.get(MEMO_APPROVALS), ApprovalsMemo):
            self._approvals.carry_over(memo)
        if held := read(started.memo.fields.get(MEMO_STEERING), SteeringMemo):
            self._steering.carry_over(held)
        if run is None or self._execution > 0:
            return
        yield RunStarted(
            id=stamp.next_id(),
            at=stamp.at,
            agent=run.spec.name,
            version=run.spec.version,
            model=run.spec.model,
            input=run.input,
            tools=tuple(tool.name for tool in run.spec.tools),
            limits=run.limits,
            user=run.user,
            org=run.org,
            session_id=run.session_id,
            metadata=run.metadata,
            forked_from=run.forked_from,
        )
        yield from self._budgets.begin(run.terms, stamp)

    def _activity(self, attributes: Proto, stamp: Stamp) -> Iterator[RunEvent]:
        yield from self._activities.feed(attributes, stamp)

    def _delivery(self, attributes: Proto, stamp: Stamp) -> Iterator[RunEvent]:
        yield from self._notices.feed(attributes, stamp)

    def _properties(self, modified: WorkflowPropertiesModifiedEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        fields = modified.upserted_memo.fields
        self._memo_result = read(fields.get(MEMO_RESULT), RunResult) or self._memo_result
        if memo := read(fields.get(MEMO_APPROVALS), ApprovalsMemo):
            yield from self._approvals.feed(memo, stamp)
        if steered := read(fields.get(MEMO_STEERING), SteeringMemo):
            yield from self._steering.feed(steered, stamp)
        if budget := read(fields.get(MEMO_BUDGET), BudgetMemo):
            yield from self._budgets.feed(budget, stamp)

    def _signaled(self, signaled: WorkflowExecutionSignaledEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        if signaled.signal_name == ANSWER_SIGNAL:
            yield from self._budgets.hear(read_first(signaled.input, LedgerAnswer), stamp)
            return
        decision = read_first(signaled.input, Decision)
        yield SignalReceived(
            id=stamp.next_id(),
            at=stamp.at,
            name=signaled.signal_name,
            sender=signaled.identity,
            approval_id=decision.approval_id if decision else "",
        )

    def _cancel_requested(
        self, requested: WorkflowExecutionCancelRequestedEventAttributes, stamp: Stamp
    ) -> Iterator[RunEvent]:
        yield RunCancelRequested(
            id=stamp.next_id(), at=stamp.at, requested_by=requested.identity, reason=requested.cause
        )

    def _task_failed(self, failed: WorkflowTaskFailedEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        if failed.cause == _RESET:
            note = ResetNote.read(failed.failure.message)
            yield RunReset(
                id=stamp.next_id(),
                at=stamp.at,
                execution_id=failed.base_run_id,
                by=note.by if note else "",
                reason=note.reason if note else failed.failure.message,
            )
        elif failed.cause not in _HARMLESS_TASK_FAILURES:
            cause = short_name(WorkflowTaskFailedCause, failed.cause)
            yield WorkerTrouble(
                id=stamp.next_id(),
                at=stamp.at,
                kind="worker.failed",
                error=f"{cause}: {failed.failure.message}" if failed.failure.message else cause,
                worker=failed.identity,
            )

    def _task_timed_out(self, timed_out: WorkflowTaskTimedOutEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        yield WorkerTrouble(
            id=stamp.next_id(),
            at=stamp.at,
            kind="worker.lost",
            error=f"a worker did not go on with the run in time ({short_name(TimeoutType, timed_out.timeout_type)})",
        )

    def _continued(self, continued: WorkflowExecutionContinuedAsNewEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        yield from self._activities.hand_over(read_first(continued.input, CarriedRun), stamp)
        yield RunContinued(id=stamp.next_id(), at=stamp.at, execution_id=continued.new_execution_run_id)

    def _completed(self, completed: WorkflowExecutionCompletedEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        yield from self._ended(stamp, read_first(completed.result, RunResult), RunStatus.COMPLETED)

    def _failed(self, failed: WorkflowExecutionFailedEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        info = failed.failure.application_failure_info
        error = RunError(type=info.type or "workflow_failed", message=failed.failure.message)
        yield from self._ended(stamp, read_first(info.details, RunResult), RunStatus.FAILED, error=error)

    def _canceled(self, _: WorkflowExecutionCanceledEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        yield from self._ended(stamp, self._memo_result, RunStatus.CANCELLED)

    def _terminated(self, terminated: WorkflowExecutionTerminatedEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        end = self._ended(stamp, None, RunStatus.TERMINATED, reason=terminated.reason, by=terminated.identity)
        yield from end

    def _timed_out(self, _: WorkflowExecutionTimedOutEventAttributes, stamp: Stamp) -> Iterator[RunEvent]:
        yield from self._ended(stamp, None, RunStatus.TIMED_OUT)

    def _ended(
        self,
        stamp: Stamp,
        result: RunResult | None,
        status: RunStatus,
        *,
        error: RunError | None = None,
        reason: str = "",
        by: str = "",
    ) -> Iterator[RunEvent]:
        yield from self._activities.end(result, stamp)
        # A run that was ended from outside says nothing itself: what is known of it by then stands in.
        yield RunEnded(
            id=stamp.next_id(),
            at=stamp.at,
            status=result.status if result else status,
            output=(result.output if result else None) or self._activities.last_words or None,
            error=(result.error if result else None) or error,
            totals=result.totals if result else self._activities.totals,
            reason=(result.reason if result else "") or reason,
            by=by,
            refusal=result.refusal if result else None,
        )


# One row per type of history event; Any, as each handler takes its own attributes.
_HANDLERS: Final[dict[str, Callable[[Projector, Any, Stamp], Iterator[RunEvent]]]] = {
    "workflow_execution_started_event_attributes": Projector._started,
    "activity_task_scheduled_event_attributes": Projector._activity,
    "activity_task_started_event_attributes": Projector._activity,
    "activity_task_completed_event_attributes": Projector._activity,
    "activity_task_failed_event_attributes": Projector._activity,
    "activity_task_timed_out_event_attributes": Projector._activity,
    "activity_task_canceled_event_attributes": Projector._activity,
    "start_child_workflow_execution_initiated_event_attributes": Projector._delivery,
    "start_child_workflow_execution_failed_event_attributes": Projector._delivery,
    "child_workflow_execution_completed_event_attributes": Projector._delivery,
    "child_workflow_execution_failed_event_attributes": Projector._delivery,
    "child_workflow_execution_canceled_event_attributes": Projector._delivery,
    "child_workflow_execution_terminated_event_attributes": Projector._delivery,
    "child_workflow_execution_timed_out_event_attributes": Projector._delivery,
    "workflow_properties_modified_event_attributes": Projector._properties,
    "workflow_execution_signaled_event_attributes": Projector._signaled,
    "workflow_execution_cancel_requested_event_attributes": Projector._cancel_requested,
    "workflow_task_failed_event_attributes": Projector._task_failed,
    "workflow_task_timed_out_event_attributes": Projector._task_timed_out,
    "workflow_execution_continued_as_new_event_attributes": Projector._continued,
    "workflow_execution_completed_event_attributes": Projector._completed,
    "workflow_execution_failed_event_attributes": Projector._failed,
    "workflow_execution_canceled_event_attributes": Projector._canceled,
    "workflow_execution_terminated_event_attributes": Projector._terminated,
    "workflow_execution_timed_out_event_attributes": Projector._timed_out,
}
