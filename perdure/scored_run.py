"""What a scorer gets, and what it returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from pydantic import Field

from perdure.contracts import RunError, RunStatus, Totals
from perdure.feedback import MAX_COMMENT, Score
from perdure.messages import Frozen, JsonObject


class ScoredCall(Frozen):
    """A tool call that the model asked for."""

    tool: str
    arguments: JsonObject = Field(default_factory=dict)
    """What the tool declares as secret is `[secret]`."""
    result: str = ""
    """What the model heard; for a call that was rejected or denied, that it was."""
    is_error: bool = False


class ScoredRun(Frozen):
    """A run that has ended, as a scorer sees it."""

    run_id: str
    agent: str
    version: str
    user: str | None = None
    """On whose behalf the run was."""
    org: str | None = None
    session_id: str | None = None
    status: RunStatus
    """How it ended. Runs that failed or were cancelled are not judged."""
    input: str
    """What the user asked."""
    output: str | None = None
    """The answer; of a run that stopped early, the model's last words."""
    error: RunError | None = None
    """Why no model answered, where the agent's own message stands in for the answer."""
    tool_calls: tuple[ScoredCall, ...] = ()
    """In the order in which the model asked for them."""
    totals: Totals = Totals()
    """Steps, tokens and cost."""


class Judgement(Frozen):
    """What a scorer thinks of a run."""

    score: Score
    """From 0 to 1."""
    comment: Annotated[str, Field(max_length=MAX_COMMENT)] = ""
    """Why, for people."""


Opinion = Judgement | float | None
"""A bare number is a score. None: this run is none that the scorer has an opinion of, and no feedback is given."""
ScorerFunction = Callable[[ScoredRun], Opinion | Awaitable[Opinion]]


def judgement(opinion: object) -> Judgement | None:
    """Return what a scorer's function has returned as a judgement.

    Raises:
        TypeError: It is nothing that a scorer may return.
        ValueError: Its score is not from 0 to 1.
    """
    match opinion:
        case None | Judgement():
            return opinion
        case bool() | int() | float():
            return Judgement(score=float(opinion))
        case _:
            raise TypeError(f"a scorer returns a Judgement, a number from 0 to 1, or None, not {opinion!r}")
