"""What travels between a run, a scoring and its activities."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from pydantic import Field
from temporalio import activity

from perdure.contracts import RunError
from perdure.feedback import Feedback
from perdure.messages import Frozen, is_empty
from perdure.notice import RunFacts
from perdure.scored_run import Judgement
from perdure.scorer import ScorerSpec

SCORING_NAME: Final = "Scoring"
"""The workflow's type, by which scorings are listed."""
SCORING_PREFIX: Final = "perdure-scoring:"
"""Of the workflow's id; the run's execution and the scorer's name follow."""


class ScoringOrder(Frozen):
    """Input of the workflow `Scoring` and of its activity `score_run`: which run is to be judged, by whom."""

    run: RunFacts
    execution_id: str
    """The one that the run ended in."""
    length: int
    """Messages in the transcript."""
    error: RunError | None = None
    """Of an outage that the agent's own message answered."""
    scorer: ScorerSpec
    secrets: dict[str, tuple[str, ...]] = Field(default_factory=dict, exclude_if=is_empty)
    """By tool, the arguments that it declares as secret."""
    rated: bool = Field(default=False, exclude_if=is_empty)
    """The provider of the scorer's model has a rate, and so a task queue of its own."""


class Scored(Frozen):
    """Result of the activity `score_run`, and of the workflow."""

    judgement: Judgement | None = None
    """None: the scorer has no opinion of this run."""
    cost_usd: Decimal | None = None
    """Of the scorer's model call; None: it made none, or nobody has a price for it."""


@activity.defn
async def score_run(order: ScoringOrder) -> Scored:
    """Have a scorer judge a run."""
    raise NotImplementedError


@activity.defn
async def record_feedback(feedback: Feedback) -> None:
    """Keep what a scorer thinks."""
    raise NotImplementedError
