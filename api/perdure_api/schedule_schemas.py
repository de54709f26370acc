"""What callers send and get about schedules."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, model_validator

from perdure.contracts import RunError, RunStatus
from perdure.duration import Duration
from perdure.messages import JsonObject
from perdure.schedule import Overlap, Timing
from perdure_api.schemas import Answer, Name, NewRun, Request
from perdure_api.text import SearchKey

MAX_BACKFILL = timedelta(days=366)

CatchUp = Annotated[Duration, Field(ge=timedelta(seconds=10), le=timedelta(days=366))]


class NewSchedule(Request):
    """A schedule to make."""

    name: Name
    """Of which an organisation has one."""
    run: NewRun
    """What is started each time, as `POST /v1/runs` takes it."""
    when: Timing
    overlap: Overlap = "skip"
    """At a time at which the run before goes on: leave it out, start one or all of them later, end the other one, or
    start it beside the other."""
    catch_up: CatchUp = timedelta(hours=1)
    """Times that passed while Temporal itself was down are made up for, if they are not longer ago."""
    pause_on_failure: bool = False
    """Pause when a run fails, or cannot be started."""
    paused: bool = False
    """Make it without starting anything yet."""


class ScheduleChange(Request):
    """What to change of a schedule; a field left out stays as it is."""

    run: NewRun | None = None
    """Whoever changes this is from then on who starts the runs."""
    when: Timing | None = None
    overlap: Overlap | None = None
    catch_up: CatchUp | None = None
    pause_on_failure: bool | None = None


class ScheduleFilter(Request):
    """Which schedules to list; a field left out lets every one pass."""

    agent: Name | None = None
    org: SearchKey | None = None


class TriggerRequest(Request):
    """How to start a run of the schedule now."""

    overlap: Overlap | None = None
    """Default: as the schedule has it."""


class BackfillRequest(Request):
    """Times of the past for which runs are started now."""

    since: Annotated[AwareDatetime, Field(alias="from")]
    until: Annotated[AwareDatetime, Field(alias="to")]
    overlap: Overlap = "buffer_all"
    """`buffer_all`: one after the other."""

    @model_validator(mode="after")
    def _is_a_period(self) -> BackfillRequest:
        if not timedelta(0) < self.until - self.since <= MAX_BACKFILL:
            raise ValueError("'to' must be later than 'from', by at most 366 days")
        return self


class ScheduledOutcome(Answer):
    """One time of a schedule."""

    run_id: str | None
    """None: no run could be started."""
    at: datetime
    """When it was started."""
    status: RunStatus | Literal["refused"]
    error: RunError | None = None
    """Of what was refused: why."""
    cost_usd: Decimal | None = None


class Schedule(Answer):
    """A schedule as it is now."""

    schedule_id: str
    name: str
    agent: str
    version: str | None = None
    """None: the version of the day."""
    org: str | None = None
    user: str
    """Who starts its runs."""
    when: Timing
    overlap: Overlap
    catch_up: timedelta
    pause_on_failure: bool
    paused: bool
    note: str = ""
    """Who paused or resumed it, and why; or that a failure did."""
    run: JsonObject
    """What is started."""
    created_by: str
    created_at: datetime
    next_at: tuple[datetime, ...] = ()
    """The next times; none while it is paused, although time goes on."""
    last: tuple[ScheduledOutcome, ...] = ()
    """The last ones, the latest first."""
    started: int = 0
    """How often it has started something."""
    skipped: int = 0
    """Times left out as the run before went on."""
    missed: int = 0
    """Times that passed while Temporal was down, and were too long ago."""


class ScheduleList(Answer):
    """Schedules, by name."""

    items: tuple[Schedule, ...]


class ScheduleReference(Answer):
    """A schedule."""

    schedule_id: str
