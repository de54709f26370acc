"""Schedules: what travels between the API, Temporal's schedule, the workflow that it starts, and the activity of that.

Temporal's schedule starts a `ScheduledRun` at its times. That has the run prepared as the API would do it now, for
whoever made the schedule, and starts it as its child; so a run has the agent, the policy and the prices of its own day.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, ConfigDict, Field, model_validator
from temporalio import activity

from perdure.contracts import RunInput
from perdure.duration import Duration
from perdure.messages import Frozen, JsonObject
from perdure.principal import Principal

SCHEDULED_NAME: Final = "ScheduledRun"
"""The workflow's type."""
SCHEDULE_PREFIX: Final = "schedule-"
"""Of a schedule's id, and of the ids of its runs."""
SCHEDULED_PREFIX: Final = "perdure-scheduled:"
"""Of the id of the workflow that starts a run; the schedule's id and Temporal's time follow."""
MEMO_REFUSED: Final = "refused"
"""Memo field of a `ScheduledRun`: the `RunError` that says why it started no run."""
MAX_CRON: Final = 20

Overlap = Literal["skip", "buffer_one", "buffer_all", "cancel_other", "terminate_other", "allow_all"]
"""What happens at a time at which the run before has not ended; the names are Temporal's."""


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{name!r} is no time zone; write one as in 'Europe/Berlin'") from error
    return name


class Timing(Frozen):
    """When runs start: at the times of cron expressions, in intervals, or both."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    cron: Annotated[tuple[str, ...], BeforeValidator(_one_or_more), Field(max_length=MAX_CRON)] = ()
    """Minute, hour, day of month, month, day of week, as in `0 9 * * MON-FRI`; several add up."""
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"
    """Of the cron expressions, as in `Europe/Berlin`: nine o'clock stays nine o'clock in summer."""
    every: Annotated[Duration, Field(ge=timedelta(seconds=1), le=timedelta(days=366))] | None = None
    """The interval, as in `6h`; counted from 1970-01-01 UTC, so that every 6h is at 0, 6, 12 and 18 o'clock."""
    offset: Annotated[Duration, Field(ge=timedelta(0))] = timedelta(0)
    """What the interval's times are moved by."""
    starts_at: AwareDatetime | None = None
    """No run before."""
    ends_at: AwareDatetime | None = None
    """No run after."""
    jitter: Annotated[Duration, Field(ge=timedelta(0), le=timedelta(days=1))] = timedelta(0)
    """Each run starts by chance up to so much later, so that not all start at once."""

    @model_validator(mode="after")
    def _has_times(self) -> Timing:
        if not self.cron and self.every is None:
            raise ValueError("there is no time in it; give cron or every")
        if self.every is None and self.offset:
            raise ValueError("offset goes with every")
        if self.every is not None and self.offset >= self.every:
            raise ValueError("offset must be less than every")
        return self


class ScheduledStart(Frozen):
    """Input of the workflow `ScheduledRun`, and what a schedule keeps of itself."""

    schedule_id: str
    name: str
    principal: Principal
    """As whom its runs start: who made the schedule, or changed last what it runs."""
    when: Timing
    request: JsonObject
    """The run to start, as the API takes it."""
    created_by: str = ""
    created_at: datetime


class StartRequest(Frozen):
    """Input of the activity `prepare_run`."""

    start: ScheduledStart
    run_id: str


class PreparedRun(Frozen):
    """Result of the activity `prepare_run`: all that a run starts with."""

    arguments: RunInput
    attributes: dict[str, str]
    """Search attributes, by their names."""
    memo: JsonObject
    summary: str
    details: str
    timeout: timedelta
    priority_key: int | None = None
    fairness_key: str | None = None


class ScheduledResult(Frozen):
    """Result of the workflow `ScheduledRun`."""

    run_id: str
    status: str
    """As the run ended."""


def schedule_id(name: str, *, org: str | None) -> str:
    """Return the id of an organisation's schedule of that name."""
    return SCHEDULE_PREFIX + hashlib.sha256(json.dumps([org, name]).encode()).hexdigest()[:16]


def scheduled_id(schedule: str) -> str:
    """Return the beginning of the ids of the workflows that start a schedule's runs."""
    return f"{SCHEDULED_PREFIX}{schedule}"


def run_id_of(workflow_id: str, execution_id: str) -> str:
    """Return the id of the run that a `ScheduledRun` starts.

    A time that is backfilled twice starts two runs, so an execution's own id is in it.
    """
    return f"{workflow_id.removeprefix(SCHEDULED_PREFIX)}-{execution_id.replace('-', '')[:8]}"


@activity.defn
async def prepare_run(request: StartRequest) -> PreparedRun:
    """Check and resolve a run as a request to start it now would be."""
    raise NotImplementedError
