"""What callers get about scorings."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from perdure.contracts import RunError
from perdure_api.schemas import Answer


class RunScoring(Answer):
    """One scorer's judgement of a run, and how far it has come."""

    scorer: str
    """Its feedback is by `scorer:NAME`."""
    model: str | None = None
    """That grades; None: it is a function."""
    status: Literal["under_way", "done", "failed"]
    """`done` without a score: the scorer has no opinion of this run."""
    score: float | None = None
    attempts: int
    """That were begun. 0 also if nobody can tell any more."""
    error: RunError | None = None
    """Why the last attempt failed, or why it was given up."""
    next_attempt_at: datetime | None = None
    """When it is tried again; None while it is, and when it is over."""
    started_at: datetime
    ended_at: datetime | None = None


class ScoringList(Answer):
    """Who has judged a run, or is to; the first asked first."""

    items: tuple[RunScoring, ...]
