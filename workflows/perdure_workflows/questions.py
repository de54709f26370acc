"""Questions to humans: how one is put, and the wait for its answer, its deadline and whom it escalates to."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.activities import call_digest
    from perdure.approval import ApprovalRequirement
    from perdure.budget import Refusal
    from perdure.contracts import APPROVAL_TIMER, RunError
    from perdure.oversight import PendingApproval
    from perdure_workflows.approvals import Approvals
    from perdure_workflows.ending import RunFailsError
    from perdure_workflows.state import Call, RunArguments, Verdict
    from perdure_workflows.steering import Steering


class Questions:
    """Asks humans about calls, one question at a time for each call, and about budgets."""

    def __init__(self, arguments: RunArguments, approvals: Approvals, steering: Steering) -> None:
        self._arguments = arguments
        self._approvals = approvals
        self._steering = steering
        self.waiting = 0
        """Calls that do nothing but wait for a human."""

    def question(
        self,
        call: Call,
        approval_id: str,
        *,
        reason: str,
        requirement: ApprovalRequirement,
        kind: Literal["call", "outcome"] = "call",
    ) -> PendingApproval:
        """Return the question about a call; after continue-as-new, the one that was put before."""
        asked = next((one for one in self._approvals.pending if one.approval_id == approval_id), None)
        if asked is not None:
            return asked
        tool = self._arguments.spec.tool(call.tool)
        return PendingApproval(
            approval_id=approval_id,
            kind=kind,
            tool=call.tool,
            arguments=call.arguments,
            digest=call_digest(call.tool, call.arguments, salt=self._arguments.salt),
            step=call.step,
            asked_at=workflow.now(),
            deadline=self._deadline(requirement),
            reason=reason,
            rule=call.rule,
            resource=call.resource,
            requirement=requirement,
            not_from=self._not_from(requirement),
            secrets=tool.secrets if tool else (),
        )

    def about_budget(self, refusal: Refusal, approval_id: str, *, step: int) -> PendingApproval:
        """Return the question for more money; after continue-as-new, the one that was put before."""
        asked = next((one for one in self._approvals.pending if one.approval_id == approval_id), None)
        if asked is not None:
            return asked
        policy = self._arguments.policy
        requirement = policy.approval if policy else ApprovalRequirement()
        facts = refusal.model_dump(mode="json", exclude_defaults=True)
        return PendingApproval(
            approval_id=approval_id,
            kind="budget",
            tool="",
            arguments=facts,
            digest=call_digest("", facts),
            step=step,
            asked_at=workflow.now(),
            deadline=self._deadline(requirement),
            reason=refusal.why,
            requirement=requirement,
            not_from=self._not_from(requirement),
        )

    def amended(self, asked: PendingApproval, call: Call, requirement: ApprovalRequirement) -> PendingApproval:
        """Return the question about a call whose arguments were changed; who was asked by escalation still is."""
        update: dict[str, object] = {
            "arguments": call.arguments,
            "digest": call_digest(call.tool, call.arguments, salt=self._arguments.salt),
            "rule": call.rule,
            "resource": call.resource,
            "votes": (),
            "edited_by": call.edited_by,
        }
        if asked.requirement not in requirement.levels:
            update |= {
                "requirement": requirement,
                "deadline": self._deadline(requirement),
                "not_from": self._not_from(requirement),
                "escalations": 0,
            }
        return asked.model_copy(update=update)

    async def verdict(self, approval: PendingApproval) -> Verdict:
        """Ask, and wait for the decision that counts, or for the last deadline.

        Raises:
            RunFailsError: Nobody decided in time, and that is to end the run.
        """
        self._approvals.ask(approval)
        approval_id, asked = approval.approval_id, approval
        while not await self._decided(asked):
            escalated = self._approvals.escalate(approval_id, now=workflow.now())
            if escalated is None:
                self._approvals.expire(approval_id, now=workflow.now())
                if asked.requirement.on_deadline == "fail":
                    raise RunFailsError(_nobody_decided(asked))
                break
            asked = escalated
        await self.passage()
        verdict = self._approvals.verdict(approval_id)
        assert verdict is not None  # noqa: S101  # both ways out of the wait leave one
        return verdict

    async def passage(self) -> None:
        """Wait while the run is paused."""
        if self._steering.paused is None:
            return
        self.waiting += 1
        try:
            await workflow.wait_condition(lambda: self._steering.paused is None)
        finally:
            self.waiting -= 1

    def _deadline(self, requirement: ApprovalRequirement) -> datetime | None:
        patience = requirement.deadline or self._arguments.limits.approval_timeout
        return workflow.now() + patience if patience else None

    def _not_from(self, requirement: ApprovalRequirement) -> tuple[str, ...]:
        run = self._arguments
        requesters = (run.requested_by, run.user or "") if requirement.separation_of_duties else ()
        return tuple(name for name in requesters if name)

    async def _decided(self, approval: PendingApproval) -> bool:
        """Wait for a decision; False if the deadline passes first."""
        while not await self._decided_by_deadline(approval):
            renewed = self._approvals.after_reset(approval)
            if renewed is None:
                return False
            approval = renewed
        return True

    async def _decided_by_deadline(self, approval: PendingApproval) -> bool:
        timeout = None if approval.deadline is None else max(timedelta(0), approval.deadline - workflow.now())
        self.waiting += 1
        try:
            await workflow.wait_condition(
                lambda: self._approvals.verdict(approval.approval_id) is not None,
                timeout=timeout,
                timeout_summary=f"{APPROVAL_TIMER} {approval.tool or approval.kind}",
            )
        except TimeoutError:
            return False
        finally:
            self.waiting -= 1
        return True


def _nobody_decided(approval: PendingApproval) -> RunError:
    what = approval.tool or "more money"
    return RunError(
        type="approval_expired",
        message=f"nobody decided on {what} (approval {approval.approval_id}) before the deadline",
    )
