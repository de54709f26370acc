"""What callers send and get to compare an agent's versions."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from pydantic import Field

from perdure_api.health_schemas import Window
from perdure_api.proportion import Interval
from perdure_api.run_statistics import RunStatistics
from perdure_api.schemas import Answer, Request
from perdure_api.text import SearchKey


class ComparisonFilter(Request):
    """By which runs versions are compared."""

    window: Window = timedelta(days=7)
    """How far back, from a minute to 90 days: `24h`, `7d`, ISO 8601, or seconds."""
    org: SearchKey | None = None


class Scores(Answer):
    """Scores that runs were given, from 0 to 1."""

    count: int
    mean: float


class VersionRecord(Answer):
    """How a version did within the window."""

    version: str
    registered: bool
    """Whether runs can be started with it now."""
    share: float
    """The part of new users that it gets now, from 0 to 1."""
    ended: int
    """Runs that ended within the window: all of them, also if the statistics are of the latest 1,000."""
    statistics: RunStatistics
    success: Interval | None = None
    """Where its success rate probably is; None without judged runs."""
    cost_mean_usd: Decimal | None = None
    """Of a run with a known cost; None without any."""
    feedback: Scores | None = None
    """What people gave its runs within the window; None: nobody gave a score."""
    scorers: dict[str, Scores] = Field(default_factory=dict)
    """What scorers gave them, by the scorer's name."""


class VersionComparison(Answer):
    """An agent's versions side by side."""

    agent: str
    since: datetime
    until: datetime
    versions: tuple[VersionRecord, ...]
    """Those that are registered, in that order, and before them those that are gone and had runs."""
    verdict: str
    """Whether a difference of success is more than chance, in a sentence."""
