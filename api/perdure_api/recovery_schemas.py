"""What callers send and get about ways back from a failure: retries, forks, failures by error."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from perdure.agent import Limits
from perdure.contracts import RunStatus
from perdure_api.schemas import MAX_BATCH, Answer, Name, Request, RunReference
from perdure_api.text import Arguments, Input, JsonValue, Line, SearchKey, Text


class RetryRequest(Request):
    """Who has a run retried, and why; kept in its record."""

    by: Line | None = None
    """The caller, if it is known who that is."""
    reason: Annotated[Text, Field(max_length=1000)] = ""


class Retried(RunReference):
    """A run that goes on from the step that failed."""

    created: bool
    """False: an earlier request for the same failure had it retried."""
    confirmed: bool
    """True: the run goes on. False: the request is stored and waits for a worker."""
    execution_id: str | None = None
    """Temporal's run id of the execution that it goes on in; None until confirmed."""
    step: int | None = None
    """The first step that is made again; None where that is not known."""


class RetryFilter(Request):
    """Which runs to retry; a field left out lets every one pass."""

    agent: Name | None = None
    version: Name | None = None
    status: Literal[RunStatus.FAILED, RunStatus.TIMED_OUT, RunStatus.OUT_OF_BUDGET, RunStatus.TERMINATED] = (
        RunStatus.FAILED
    )
    user: SearchKey | None = None
    org: SearchKey | None = None
    session_id: SearchKey | None = None
    error: SearchKey | None = None
    """The type of its error, as in `model_timeout`."""


class RetriesRequest(RetryRequest):
    """A page of runs to retry, the newest first, who has them retried, and why."""

    runs: RetryFilter = RetryFilter()
    dry_run: bool = False
    """Only say which ones it would be, and which could not be."""
    per_second: Annotated[float, Field(gt=0, le=50)] = 5
    """So many are begun in a second. No request takes more than a minute, so a low rate makes pages smaller."""
    limit: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 50
    """At most so many runs."""
    page_token: Annotated[str, Field(max_length=4096)] | None = None
    """`next_page_token` of the request before, with the same filter."""


class RetryAttempt(RunReference):
    """What became of one run of several, or would."""

    agent: str
    error_type: str | None = None
    """What it had failed of."""
    retried: Retried | None = None
    """None of a dry run, and of a run that cannot be retried."""
    error: str = ""
    """Why it cannot be retried; a retry by itself would be answered with this problem."""
    status: int
    """The HTTP status that a retry by itself is answered with."""


class Retries(Answer):
    """What became of the runs of a page, or would."""

    items: tuple[RetryAttempt, ...]
    dry_run: bool
    next_page_token: str | None = None
    """There are more: ask for the next page with it. None on the last one."""


class ForkRequest(Request):
    """What a fork does otherwise than the run that it goes on from."""

    step: Annotated[int, Field(ge=1)] | None = None
    """The first step that it makes itself; default: the last model call. One behind the last step of a run that has
    ended goes on after its answer, with `message`."""
    version: Name | None = None
    """Of the agent; default: the run's."""
    model: Line | None = None
    """In place of the agent's, `provider:model`."""
    instructions: Text | None = None
    """In place of the agent's."""
    arguments: Arguments | None = None
    """For a tool call: what it is made with in place of the model's arguments."""
    result: JsonValue = None
    """For a tool call: what it is taken to have returned; it is not made."""
    message: Annotated[Input, Field(max_length=64 * 1024)] | None = None
    """Said by the user before the model is called next."""
    limits: Limits = Limits()
    """The fields given replace the agent's. Steps before the fork count."""
    roles: Annotated[tuple[Line, ...], Field(max_length=50)] | None = None
    """As for a new run."""


class FailureFilter(Request):
    """Which failures to count; a field left out lets every one pass."""

    agent: Name | None = None
    version: Name | None = None
    user: SearchKey | None = None
    org: SearchKey | None = None
    session_id: SearchKey | None = None


class FailureGroup(Answer):
    """Failed runs of one kind of error."""

    error: str
    """The error's type; empty: the run was too broken to say."""
    count: int
    agents: dict[str, int]
    """How many of them each agent has."""
    first_at: datetime
    last_at: datetime
    """When the earliest and the latest of them ended."""
    latest: tuple[str, ...]
    """Ids of the latest ones, five at most."""


class Failures(Answer):
    """Failed runs by error, the most frequent first; those that were retried since are not among them."""

    items: tuple[FailureGroup, ...]
    total: int
    complete: bool
    """False: there are more, and these are the latest ones."""
