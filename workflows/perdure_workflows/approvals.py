"""Approvals of a run: who is asked what, which decisions count, and a record of those that do not.

Decisions come by signal, from the API and from the `temporal` command alike. A signal cannot be refused, so whatever
does not count changes nothing here and is written down as `ignored`.
"""

from __future__ import annotations

import json
from datetime import datetime

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import MAX_INPUT_BYTES, ApprovalRecord, ApprovalsMemo, Decision, PendingApproval, cut
    from perdure_workflows.signals import MAX_QUOTED, NO_PAYLOAD, read_signal
    from perdure_workflows.state import ApprovalsState, Verdict

MAX_RECORDS = 100
MAX_SHOWN = 8 * 1024
"""Bytes of a pending call's arguments that the memo shows; lists and inboxes carry it with every run."""


class Approvals:
    """The run's questions to humans and the answers that count."""

    def __init__(self, state: ApprovalsState) -> None:
        self._state = state

    @property
    def pending(self) -> tuple[PendingApproval, ...]:
        """What is asked and not decided, oldest first."""
        return tuple(self._state.pending.values())

    @property
    def records(self) -> tuple[ApprovalRecord, ...]:
        """What happened, the most recent last."""
        return tuple(self._state.records)

    @property
    def changed(self) -> bool:
        """Whether the memo is behind."""
        return bool(self._state.unpublished)

    def ask(self, approval: PendingApproval) -> None:
        """Put a question, or put it again after continue-as-new, which changes nothing."""
        if approval.approval_id in self._state.pending or approval.approval_id in self._state.verdicts:
            return
        self._state.pending[approval.approval_id] = approval
        self._record(
            ApprovalRecord(kind="asked", at=approval.asked_at, approval_id=approval.approval_id, tool=approval.tool)
        )

    def receive(self, payload: RawValue, *, approved: bool, now: datetime) -> None:
        """Take a decision as a signal brought it: count it, or record why it does not."""
        try:
            decision = _read(payload)
        except ValueError as error:
            self._ignore(str(error), Decision(), now=now)
            return
        if problem := self._why_not(decision, approved=approved, now=now):
            self._ignore(problem, decision, now=now)
            return
        self._settle(Verdict(approved=approved, decision=decision), now=now)

    def expire(self, approval_id: str, *, now: datetime) -> None:
        """Reject what nobody decided in time."""
        if approval_id in self._state.pending:
            decision = Decision(
                approval_id=approval_id, decided_by="deadline", reason="nobody decided before the deadline"
            )
            self._settle(Verdict(approved=False, decision=decision, expired=True), now=now)

    def reopen(self, approval: PendingApproval, problem: str, *, now: datetime) -> None:
        """Ask again: the decision that counted cannot be carried out."""
        verdict = self._state.verdicts.pop(approval.approval_id)
        self._ignore(problem, verdict.decision, now=now)
        self._state.pending[approval.approval_id] = approval

    def verdict(self, approval_id: str) -> Verdict | None:
        """Return the decision that counts, if there is one."""
        return self._state.verdicts.get(approval_id)

    def close_turn(self) -> None:
        """Forget the verdicts of calls that are answered; their records remain."""
        self._state.verdicts.clear()

    def withdraw_all(self, *, now: datetime) -> None:
        """Take every open question back, as the run ends."""
        for approval in self.pending:
            del self._state.pending[approval.approval_id]
            self._record(ApprovalRecord(kind="withdrawn", at=now, approval_id=approval.approval_id, tool=approval.tool))

    def publish(self) -> ApprovalsMemo:
        """Return what the memo should say, and regard it as said."""
        pending = tuple(_abridged(approval) for approval in self.pending)
        memo = ApprovalsMemo(pending=pending, changes=tuple(self._state.unpublished))
        self._state.unpublished.clear()
        return memo

    def _why_not(self, decision: Decision, *, approved: bool, now: datetime) -> str | None:
        approval = self._state.pending.get(decision.approval_id)
        if approval is None:
            decided = self._decided(decision.approval_id)
            return f"already {decided.kind} by {decided.decided_by!r}" if decided else "no pending approval has that id"
        if not decision.decided_by.strip():
            return "decided_by is missing: say who decides"
        if decision.digest is not None and decision.digest != approval.digest:
            return f"the digest names other arguments; this call's is {approval.digest}"
        if approval.deadline is not None and now >= approval.deadline:
            return "the deadline has passed"
        if not approved:
            return None
        return _why_not_approve(decision, approval)

    def _decided(self, approval_id: str) -> ApprovalRecord | None:
        settled = (r for r in reversed(self._state.records) if r.approval_id == approval_id and r.kind != "ignored")
        return next((record for record in settled if record.kind in ("approved", "rejected", "expired")), None)

    def _settle(self, verdict: Verdict, *, now: datetime) -> None:
        decision = verdict.decision
        approval = self._state.pending.pop(decision.approval_id)
        self._state.verdicts[decision.approval_id] = verdict
        kind = "expired" if verdict.expired else "approved" if verdict.approved else "rejected"
        self._record(
            ApprovalRecord(
                kind=kind,
                at=now,
                approval_id=decision.approval_id,
                tool=approval.tool,
                decided_by=decision.decided_by[:MAX_QUOTED],
                reason=decision.reason[:MAX_QUOTED],
                edited=decision.arguments is not None,
            )
        )

    def _ignore(self, problem: str, decision: Decision, *, now: datetime) -> None:
        approval = self._state.pending.get(decision.approval_id)
        self._record(
            ApprovalRecord(
                kind="ignored",
                at=now,
                approval_id=decision.approval_id[:MAX_QUOTED],
                tool=approval.tool if approval else "",
                decided_by=decision.decided_by[:MAX_QUOTED],
                reason=problem[: 2 * MAX_QUOTED],
            )
        )

    def _record(self, record: ApprovalRecord) -> None:
        self._state.records.append(record)
        self._state.unpublished.append(record)
        # A flood of signals must fill neither the memo nor what continue-as-new carries.
        del self._state.records[:-MAX_RECORDS]
        del self._state.unpublished[:-MAX_RECORDS]


def _abridged(approval: PendingApproval) -> PendingApproval:
    """Cut arguments that are too large for a memo; the query `view` has them whole, and the digest is of them whole."""
    text = json.dumps(approval.arguments, ensure_ascii=False)
    if len(text.encode("utf-8", "replace")) <= MAX_SHOWN:
        return approval
    return approval.model_copy(update={"arguments": {"abridged": cut(text, MAX_SHOWN)}})


def _read(payload: RawValue) -> Decision:
    if payload is NO_PAYLOAD:
        raise ValueError('the signal has no payload; send {"approval_id": …, "decided_by": …}')
    return read_signal(payload, Decision)


def _why_not_approve(decision: Decision, approval: PendingApproval) -> str | None:
    if decision.arguments is not None and len(json.dumps(decision.arguments)) > MAX_INPUT_BYTES:
        return f"the arguments are larger than {MAX_INPUT_BYTES:,} bytes"
    if approval.kind == "outcome":
        if decision.outcome is None:
            return "the call's outcome is unknown: approve with outcome 'done' or 'retry', or reject to abort"
        if decision.arguments is not None:
            return "an unknown outcome cannot be given other arguments"
    elif decision.outcome is not None:
        return "outcome is for calls whose outcome is unknown"
    return None
