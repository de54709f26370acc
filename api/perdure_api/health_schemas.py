"""What callers send and get about the health of an agent."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import Field

from perdure.duration import Duration
from perdure_api.run_statistics import RunStatistics
from perdure_api.schemas import Answer, Name, Request
from perdure_api.text import SearchKey

Window = Annotated[Duration, Field(ge=timedelta(minutes=1), le=timedelta(days=90))]


class HealthFilter(Request):
    """Which runs tell of an agent's health."""

    window: Window = timedelta(hours=1)
    """How far back, from a minute to 90 days: `15m`, `1h`, `7d`, ISO 8601, or seconds."""
    version: Name | None = None
    org: SearchKey | None = None


class AgentHealth(Answer):
    """How an agent's runs went that ended within the window, and how many are open now."""

    agent: str
    since: datetime
    until: datetime
    open: int
    """Runs that go on now, whenever they began."""
    waiting: int
    """Those of them that wait for a human."""
    ended: int
    """Runs that ended within the window: all of them, also if the statistics are of fewer."""
    truncated: bool
    """Whether more runs ended than the statistics are made of, which then are of the latest 1,000."""
    statistics: RunStatistics
    versions: dict[str, RunStatistics]
    """The same, by the agent's version."""
