"""Approvals as events: what the memo says of them, put together with what it said before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Final, Literal, assert_never

from perdure.events.event import ApprovalAsked, ApprovalChanged, GrantChanged, RunEvent
from perdure.events.stamp import Stamp
from perdure.oversight import ApprovalRecord, ApprovalsMemo, PendingApproval

_STEP = re.compile(r"c(\d+)-")


class ApprovalLog:
    """Follows the memo field `approvals` through one execution."""

    def __init__(self) -> None:
        self._asked: dict[str, datetime] = {}
        """When the pending ones were asked."""
        self._known: set[str] = set()

    def carry_over(self, memo: ApprovalsMemo) -> None:
        """Know what an earlier execution of the run had asked."""
        self._asked = {approval.approval_id: approval.asked_at for approval in memo.pending}
        self._known = set(self._asked)

    def feed(self, memo: ApprovalsMemo, stamp: Stamp) -> Iterator[RunEvent]:
        """Return what the memo says that it did not say before."""
        pending = {approval.approval_id: approval for approval in memo.pending}
        for record in memo.changes:
            match record.kind:
                case "asked":
                    yield self._ask(record, pending.get(record.approval_id), stamp)
                case "approved" | "rejected" | "expired" | "withdrawn":
                    yield self._change(record, self._asked.pop(record.approval_id, None), stamp)
                case "voted" | "edited" | "escalated":
                    yield self._change(record, self._asked.get(record.approval_id), stamp)
                case "ignored":
                    yield self._change(record, None, stamp)
                case "granted" | "revoked":
                    yield _grant(record, stamp)
                case _:
                    assert_never(record.kind)
        for approval in memo.pending:
            if approval.approval_id not in self._asked:  # its decision could not be carried out
                record = ApprovalRecord(kind="asked", at=stamp.at, approval_id=approval.approval_id, tool=approval.tool)
                yield self._ask(record, approval, stamp)

    def _ask(self, record: ApprovalRecord, approval: PendingApproval | None, stamp: Stamp) -> ApprovalAsked:
        self._asked[record.approval_id] = record.at
        self._known.add(record.approval_id)
        asked = ApprovalAsked(
            id=stamp.next_id(),
            at=record.at,
            step=_step(record.approval_id),
            approval_id=record.approval_id,
            tool=record.tool,
            question=_question(record.approval_id),
        )
        if approval is None:  # decided at once: the memo never showed it pending
            return asked
        return asked.model_copy(
            update={
                "step": approval.step if approval.kind != "budget" else None,
                "question": approval.kind,
                "arguments": approval.arguments,
                "digest": approval.digest,
                "reason": approval.reason,
                "deadline": approval.deadline,
                "rule": approval.rule,
                "resource": approval.resource,
                "approvers": approval.requirement.approvers,
                "quorum": approval.requirement.quorum,
            }
        )

    def _change(self, record: ApprovalRecord, asked_at: datetime | None, stamp: Stamp) -> ApprovalChanged:
        return ApprovalChanged(
            id=stamp.next_id(),
            at=record.at,
            step=_step(record.approval_id) if record.approval_id in self._known else None,
            kind=_KINDS[record.kind],
            approval_id=record.approval_id,
            tool=record.tool,
            decided_by=record.decided_by,
            reason=record.reason,
            edited=record.edited,
            changes=record.changes,
            missing=record.missing,
            approvers=record.approvers,
            waited=record.at - asked_at if asked_at else None,
        )


def _grant(record: ApprovalRecord, stamp: Stamp) -> GrantChanged:
    return GrantChanged(
        id=stamp.next_id(),
        at=record.at,
        step=_step(record.approval_id),
        kind="grant.created" if record.kind == "granted" else "grant.revoked",
        grant_id=record.grant_id,
        tool=record.tool,
        by=record.decided_by,
        reason=record.reason,
        expires_at=record.expires_at,
    )


ChangeKind = Literal[
    "approval.voted",
    "approval.edited",
    "approval.escalated",
    "approval.approved",
    "approval.rejected",
    "approval.expired",
    "approval.withdrawn",
    "approval.ignored",
]
_KINDS: Final[dict[str, ChangeKind]] = {
    "voted": "approval.voted",
    "edited": "approval.edited",
    "escalated": "approval.escalated",
    "approved": "approval.approved",
    "rejected": "approval.rejected",
    "expired": "approval.expired",
    "withdrawn": "approval.withdrawn",
    "ignored": "approval.ignored",
}


def _question(approval_id: str) -> Literal["call", "outcome", "budget"]:
    if "-outcome-" in approval_id:
        return "outcome"
    return "budget" if approval_id.startswith("budget-") else "call"


def _step(approval_id: str) -> int | None:
    # The run names an approval after its call, and a call after its step.
    match = _STEP.match(approval_id)
    return int(match[1]) if match else None
