"""Deltas as viewers get them, pieces as they travel there, and what a bus is that carries them.

A bus is a help and never a condition: what it loses is missed by nobody, as the whole text follows as an event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final, Protocol

from pydantic import Field

from perdure.messages import Frozen

DELTA: Final = "delta"
"""The kind of a delta, among the kinds of events."""
ATTEMPT_RESET: Final = "attempt.reset"
"""The kind of a reset."""


class Delta(Frozen):
    """More of what a model says in a step; it goes behind what came before, of the same step and attempt."""

    step: int = Field(ge=0)
    attempt: int = Field(ge=1)
    """From 1 on: each time that a model is asked counts, of a chain's models each."""
    seq: int = Field(ge=0)
    """Grows within an attempt, not always by one."""
    text: str


class AttemptReset(Frozen):
    """Another attempt at the step has begun: whatever earlier ones said is withdrawn."""

    step: int
    attempt: int


class Piece(Delta):
    """A delta on its way. Seq counts from 1 on without a gap; 0, without a text, says that an attempt has begun."""

    execution_id: str
    """Temporal's run id: after a reset, steps and attempts are counted anew."""


class DeltaBus(Protocol):
    """Carries what models say from workers to viewers."""

    def publish(self, run_id: str, piece: Piece) -> None:
        """Pass a piece on, or drop it; it neither waits nor fails."""
        ...

    def listen(self, run_id: str) -> AsyncGenerator[Piece]:
        """Iterate over the pieces of the attempt under way so far, and over those to come, without an end.

        A bus that is away is waited for; pieces may come twice, or be missing.
        """
        ...

    async def close(self) -> None:
        """Release what it holds."""
        ...
