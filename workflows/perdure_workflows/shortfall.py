"""A budget that has no room for the next model call: the run ends, takes a cheaper model, or asks a human for more."""

from __future__ import annotations

import asyncio
from decimal import Decimal

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.budget import Refusal
    from perdure.oversight import PendingApproval
    from perdure_workflows.approvals import Approvals
    from perdure_workflows.publication import Publication
    from perdure_workflows.purse import Purse
    from perdure_workflows.questions import Questions
    from perdure_workflows.state import RunArguments, RunState, Verdict
    from perdure_workflows.steering import Steering
    from perdure_workflows.succession import Succession


class Shortfall:
    """What the agent's `on_budget` says is done."""

    def __init__(
        self,
        arguments: RunArguments,
        state: RunState,
        purse: Purse,
        approvals: Approvals,
        steering: Steering,
        publication: Publication,
        succession: Succession,
    ) -> None:
        self._arguments = arguments
        self._state = state
        self._purse = purse
        self._approvals = approvals
        self._publication = publication
        self._succession = succession
        self._questions = Questions(arguments, approvals, steering)

    async def meet(self, refusal: Refusal) -> str | None:
        """Return why the run is to end; None if it may try again.

        Args:
            refusal: By the budget that has no room.

        Raises:
            RunFailsError: A human was asked, nobody decided in time, and that is to fail the run.
        """
        approval_id = f"budget-{self._state.purse.asked + 1}"
        if approval_id not in self._state.approvals.pending:  # else an earlier execution has asked that
            self._purse.record(kind="refused", refusal=refusal)
        ends: str | None = refusal.why
        match self._arguments.spec.on_budget:
            case "downgrade" if self._purse.downgrade():
                ends = None
            case "ask":
                ends = await self._ask(approval_id, refusal)
        self._publication.budget()
        return ends

    async def _ask(self, approval_id: str, refusal: Refusal) -> str | None:
        self._publication.budget()
        question = self._questions.about_budget(refusal, approval_id, step=self._state.totals.steps)
        verdict = await self._verdict(question)
        self._state.purse.asked += 1
        by = verdict.decision.decided_by
        if not verdict.approved:
            return f"{refusal.why}; {by} allowed no more: {verdict.decision.reason or 'no reason given'}"
        # Of several who approved, nobody has allowed more than the least.
        amount = min(vote.amount_usd or Decimal(0) for vote in verdict.votes)
        everyone = ", ".join(vote.by for vote in verdict.votes)
        run_id = workflow.info().workflow_id
        self._purse.add(refusal, amount, by=everyone, approval_id=f"{run_id}:{approval_id}")
        return None

    async def _verdict(self, question: PendingApproval) -> Verdict:
        """Wait for the humans' answer, and show what becomes of the question meanwhile."""
        answering = asyncio.create_task(self._questions.verdict(question))
        try:
            while not answering.done():
                await self._succession.wait_until(lambda: answering.done() or self._approvals.changed)
                self._publication.approvals()
        finally:
            answering.cancel()
        return answering.result()
