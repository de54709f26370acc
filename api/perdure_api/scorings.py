"""Scorings as the API sees them: which scorers have judged a run, which are at it, and which have failed."""

from __future__ import annotations

from perdure.events.payloads import read_first
from perdure.redaction import redacted
from perdure.scoring import SCORING_NAME, Scored, ScoringOrder
from perdure_api.errands import Errand, errands_of
from perdure_api.reach import Reach
from perdure_api.scoring_schemas import RunScoring


class Scorings:
    """What scorers make of the runs that a principal may see."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def list(self, run_id: str) -> tuple[RunScoring, ...]:
        """Return the scorings of a run, the first first, as far as Temporal has them still.

        Raises:
            RunNotFoundError: There is no such run.
        """
        await self._reach.executions.describe(run_id)
        errands = await errands_of(self._reach, run_id, workflow_type=SCORING_NAME)
        shown = [_shown(errand, order) for errand in errands if (order := read_first(errand.input, ScoringOrder))]
        return tuple([await redacted(scoring, self._reach.redactor) for scoring in shown])


def _shown(errand: Errand, order: ScoringOrder) -> RunScoring:
    scored = read_first(errand.result, Scored)
    return RunScoring(
        scorer=order.scorer.name,
        model=order.scorer.grading.model if order.scorer.grading else None,
        status=errand.status,
        score=scored.judgement.score if scored and scored.judgement else None,
        attempts=errand.attempts,
        error=errand.error,
        next_attempt_at=errand.next_attempt_at,
        started_at=errand.description.start_time,
        ended_at=errand.description.close_time,
    )
