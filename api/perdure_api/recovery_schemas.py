"""What callers send and get about ways back from a failure: retries, forks, failures by error."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from perdure.agent import Limits
from perdure_api.schemas import Answer, Name, Request, RunReference
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
