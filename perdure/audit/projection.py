"""From the history of one execution to entries of the audit: pure, one history event at a time, for all workflows."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from temporalio.api.enums.v1 import WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes

from perdure.audit.calls import Calls, CarriedCall
from perdure.audit.entities import SUBJECTS, Entity
from perdure.audit.facts import Digest, Origin, entries_of
from perdure.audit.record import AuditEntry
from perdure.contracts import WORKFLOW_NAME, RunInput
from perdure.events import Projector
from perdure.events.payloads import read, read_first
from perdure.events.stamp import Stamp
from perdure.messages import Frozen
from perdure.oversight import ApprovalsMemo
from perdure.search_attributes import MEMO_APPROVALS

WORKFLOW_TYPES: Final = (WORKFLOW_NAME, *SUBJECTS)
"""Whose histories the audit is derived from."""


class _CarriedState(Frozen):
    calls: tuple[CarriedCall, ...] = ()


class _Carried(Frozen):
    """The input of an execution that goes on with an earlier one's state."""

    state: _CarriedState | None = None


class Projection:
    """Derives entries from the history of one execution, fed in order from its first event on.

    An execution that a reset made begins with a copy of another's events, whose facts are that one's: its own begin
    with the event of the reset. Which execution it is a copy of shows in the first event.
    """

    def __init__(self, workflow_type: str, *, run_id: str, execution_id: str, digest: Digest) -> None:
        self._digest = digest
        self._origin = Origin(run_id=run_id, execution_id=execution_id)
        self._run: Projector | None = None
        self._entity: Entity | None = None
        if workflow_type in SUBJECTS:
            self._entity = Entity(SUBJECTS[workflow_type], run_id=run_id, execution_id=execution_id)
        self._calls = Calls()
        self._copying = False
        self.events: int = 0
        """How many history events it has taken in."""
        self.at: datetime | None = None
        """When the last of them happened."""

    @property
    def org(self) -> str:
        """Whose chain the entries belong to, as far as that has been read."""
        return self._origin.org if self._entity is None else self._entity.org

    def feed(self, event: HistoryEvent) -> tuple[AuditEntry, ...]:
        """Take in the next history event, its payloads decoded, and return what it means to the audit."""
        stamp = Stamp(event, execution=0)
        self.events, self.at = event.event_id, stamp.at
        if event.HasField("workflow_execution_started_event_attributes"):
            self._begin(event.workflow_execution_started_event_attributes)
        if self._copying and self._is_own_reset(event):
            self._copying = False
        entries = tuple(self._entity.feed(event, stamp)) if self._entity else self._of_run(event)
        return () if self._copying else entries

    def _of_run(self, event: HistoryEvent) -> tuple[AuditEntry, ...]:
        events = self._run.feed(event) if self._run else ()
        return tuple(
            entry for one in events for entry in entries_of(one, self._origin, self._calls, digest=self._digest)
        )

    def _begin(self, started: WorkflowExecutionStartedEventAttributes) -> None:
        origin = self._origin
        self._copying = started.original_execution_run_id not in ("", origin.execution_id)
        # The place in the run's chain of executions does not matter here, but whether it is the first.
        self._run = Projector(1 if started.continued_execution_run_id else 0)
        if (carried := read_first(started.input, _Carried)) and carried.state:
            self._calls.open(carried.state.calls)
        if memo := read(started.memo.fields.get(MEMO_APPROVALS), ApprovalsMemo):
            self._calls.ask(memo.pending)
        if run := read_first(started.input, RunInput):
            self._origin = Origin.of(
                run, run_id=origin.run_id, execution_id=origin.execution_id, identity=started.identity
            )

    def _is_own_reset(self, event: HistoryEvent) -> bool:
        failed = event.workflow_task_failed_event_attributes
        reset = WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW
        return failed.cause == reset and failed.new_run_id == self._origin.execution_id
