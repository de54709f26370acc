"""An approval's durable record, put together from the run's events: it is there while the run goes on and after it."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.events import ApprovalAsked, RunEnded, RunEvent, steps
from perdure_api.schemas import ApprovalDetail


def approval_record(events: Sequence[RunEvent], *, run_id: str, approval_id: str) -> ApprovalDetail | None:
    """Return what a run's events say of an approval; None if it never asked that."""
    asked = [event for event in events if isinstance(event, ApprovalAsked) and event.approval_id == approval_id]
    found = next(
        ((step, one) for step in steps(events) for one in step.approvals if one.approval_id == approval_id), None
    )
    if not asked or found is None:
        return None
    step, approval = found
    # A question that was decided at once is told without its arguments; the step has them.
    last = next((event for event in reversed(asked) if event.digest), asked[-1])
    return ApprovalDetail(
        **dict(approval),
        run_id=run_id,
        status=approval.decision or ("withdrawn" if isinstance(events[-1], RunEnded) else "pending"),
        step=step.number,
        tool=last.tool,
        arguments=last.arguments or step.arguments or {},
        digest=last.digest,
        rule=last.rule,
        resource=last.resource,
    )
