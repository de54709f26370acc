"""What the run shows to the outside while it goes on and when it has ended: search attributes, memo, current details.

Lists, inboxes and the Web UI read these from the server, so they work with no worker running. They are written when the
run starts to wait, is steered, goes on, and ends; a step by itself costs nothing.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import SearchAttributeUpdate

with workflow.unsafe.imports_passed_through():
    from perdure.budget import BudgetMemo
    from perdure.contracts import RunResult, RunStatus, RunView
    from perdure.search_attributes import (
        APPROVALS,
        COST,
        ERROR,
        MEMO_APPROVALS,
        MEMO_BUDGET,
        MEMO_RESULT,
        MEMO_STEERING,
        STATUS,
        STEPS,
    )
    from perdure_workflows.approvals import Approvals
    from perdure_workflows.notices import Notices
    from perdure_workflows.state import RunState
    from perdure_workflows.steering import Steering

MAX_LISTED = 50
"""Ids of pending approvals in the search attribute: Temporal refuses a value of more than 2 KiB."""


MAX_ERROR_TYPE = 200


class Publication:
    """The run's public face."""

    def __init__(self, state: RunState, approvals: Approvals, steering: Steering, notices: Notices) -> None:
        self._state = state
        self._approvals = approvals
        self._steering = steering
        self._notices = notices
        self._result: RunResult | None = None
        self._doing = ""

    def view(self, *, messages: int) -> RunView:
        """Return the run as it is now."""
        return RunView(
            status=self._status,
            totals=self._state.totals,
            pending_approvals=tuple(approval.shown() for approval in self._approvals.pending),
            approvals=self._approvals.records,
            grants=self._approvals.grants,
            paused=self._steering.paused,
            steering=self._steering.records,
            output=self._result.output if self._result else None,
            plan=self._state.plan,
            messages=messages,
        )

    def doing(self, what: str) -> None:
        """Say in the Web UI what the run is doing, in Markdown; it is read by Query, and costs no event."""
        self._doing = what
        self._details()

    def approvals(self) -> None:
        """Show what is asked and what was decided, if that has changed."""
        if self._approvals.changed:
            self._details()
            memo = self._approvals.publish()
            workflow.upsert_memo({MEMO_APPROVALS: memo})
            self._notices.approvals(memo)
            if self._result is None:
                self._attributes()

    async def follow_steering(self) -> None:
        """Show what people do to the run's course, whatever the run is busy with."""
        while True:
            await workflow.wait_condition(lambda: self._steering.changed)
            self.steering()

    def steering(self) -> None:
        """Show who holds the run and what was said to it, if that has changed."""
        if self._steering.changed:
            workflow.upsert_memo({MEMO_STEERING: self._steering.publish()})
            if self._result is None:
                self._attributes()
                self._details()

    def budget(self) -> None:
        """Show what happened to the run for its cost, if anything did."""
        if unpublished := self._state.purse.unpublished:
            workflow.upsert_memo({MEMO_BUDGET: BudgetMemo(changes=tuple(unpublished))})
            unpublished.clear()

    def admitted(self) -> None:
        """Show that the run waits for its place no longer."""
        self._attributes()

    def end(self, result: RunResult) -> None:
        """Show how the run ended."""
        self._result = result
        self.approvals()
        self.steering()
        self.budget()
        if result.status is RunStatus.CANCELLED:  # Temporal keeps no result of a cancelled workflow
            workflow.upsert_memo({MEMO_RESULT: result.model_copy(update={"output": None})})
        self._attributes()
        self._notices.end(result)
        self.doing(f"**{result.status}** after {result.totals.steps} steps.")

    def _details(self) -> None:
        waits = [
            f"- `{asked.tool or asked.kind}` waits for a decision on `{asked.approval_id}`"
            for asked in self._approvals.pending
        ]
        hold = self._steering.paused
        notes = [f"- paused since {hold.at:%Y-%m-%d %H:%M:%S} UTC: no step starts"] if hold else []
        notes += waits
        workflow.set_current_details("\n".join([*notes, *([""] if notes else []), self._doing]))

    @property
    def _status(self) -> RunStatus:
        if self._result is not None:
            return self._result.status
        if self._steering.paused is not None:
            return RunStatus.PAUSED
        if self._state.purse.queued:
            return RunStatus.QUEUED
        return RunStatus.WAITING if self._approvals.pending else RunStatus.RUNNING

    def _error(self) -> list[SearchAttributeUpdate[str]]:
        result = self._result
        if result is None or result.error is None or result.status is not RunStatus.FAILED:
            return []
        return [ERROR.value_set(result.error.type[:MAX_ERROR_TYPE])]

    def _attributes(self) -> None:
        pending = [approval.approval_id for approval in self._approvals.pending][:MAX_LISTED]
        totals = self._state.totals
        workflow.upsert_search_attributes(
            [
                STATUS.value_set(self._status.value),
                COST.value_unset() if totals.unpriced_calls else COST.value_set(float(totals.cost_usd)),
                STEPS.value_set(totals.steps),
                *self._error(),
                APPROVALS.value_set(pending) if pending else APPROVALS.value_unset(),
            ]
        )
