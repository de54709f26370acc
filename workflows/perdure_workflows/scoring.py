"""A scoring: one scorer judges one run that has ended. It is kept as feedback, or fails with the reason.

It is a workflow of its own so that no run waits for a scorer, and none fails by one.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from perdure.feedback import SCORER_PREFIX, Feedback
    from perdure.scoring import SCORING_NAME, Scored, ScoringOrder, record_feedback, score_run
    from perdure_workflows.options import feedback_options, scoring_options


@workflow.defn(name=SCORING_NAME)
class Scoring:
    """A run being judged."""

    @workflow.run
    async def run(self, order: ScoringOrder) -> Scored:
        """Have the run judged, and keep the judgement.

        Raises:
            ApplicationError: The scorer has failed in all its attempts.
        """
        try:
            scored = await workflow.execute_activity(score_run, order, **scoring_options(order))
            if scored.judgement is not None:
                await workflow.execute_activity(record_feedback, _feedback(order, scored), **feedback_options())
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError):
                raise ApplicationError(cause.message, type=cause.type, non_retryable=True) from None
            raise
        return scored


def _feedback(order: ScoringOrder, scored: Scored) -> Feedback:
    judgement = scored.judgement
    return Feedback(
        run_id=order.run.run_id,
        agent=order.run.agent,
        version=order.run.version,
        org=order.run.org,
        user=order.run.user,
        by=f"{SCORER_PREFIX}{order.scorer.name}",
        score=judgement.score if judgement else None,
        comment=judgement.comment if judgement else "",
        at=workflow.now(),
        cost_usd=scored.cost_usd,
    )
