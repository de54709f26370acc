"""Scorers: who judges an agent's runs when they have ended. Declared by authors, pinned by runs.

One is a function of the app, or a model that grades by a prompt. What they are given is in `perdure.scored_run`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from perdure.messages import Frozen
from perdure.model_reference import ModelReference

MAX_SCORERS: Final = 10
"""Of an agent; each is a workflow more for each run that it judges."""
MAX_PROMPT: Final = 20_000
"""Characters."""

ScorerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
Sample = Annotated[float, Field(gt=0, le=1)]
"""The part of an agent's runs that is judged."""
Attempts = Annotated[int, Field(ge=1, le=100)]
Timeout = Annotated[timedelta, Field(gt=timedelta(0), le=timedelta(hours=1))]


class Grading(Frozen):
    """How a model grades."""

    model: ModelReference
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    scale: Annotated[int, Field(ge=2, le=100)]
    max_output_tokens: Annotated[int, Field(ge=1)]


class ScorerSpec(Frozen):
    """A scorer as a run is pinned to it."""

    name: ScorerName
    sample: Sample = 1.0
    timeout: Timeout = timedelta(minutes=1)
    max_attempts: Attempts = 5
    grading: Grading | None = None
    """None: it is a function of the app."""

    def judges(self, run_id: str) -> bool:
        """Whether the run is one of the sample: by its id, so the same is said each time and by everybody."""
        drawn = hashlib.sha256(f"{self.name}\0{run_id}".encode()).digest()[:8]
        return int.from_bytes(drawn) < self.sample * 2**64


class ModelScorer(BaseModel):
    """A model that grades an agent's runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ScorerName
    """Its feedback is by `scorer:NAME`."""
    model: ModelReference
    """`provider:model`, as of an agent."""
    prompt: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]
    """What is good and what is bad. How to answer, and that the run is no instruction, the model is told besides."""
    scale: Annotated[int, Field(ge=2, le=100)] = 5
    """The best grade; 1 is the worst. They become scores from 0 to 1 in equal steps."""
    sample: Sample = 1.0
    """The part of the runs that is judged."""
    timeout: Timeout = timedelta(minutes=2)
    """One attempt."""
    max_attempts: Attempts = 5
    max_output_tokens: Annotated[int, Field(ge=1)] = 2048

    def spec(self) -> ScorerSpec:
        """Return what a run is pinned to."""
        return ScorerSpec(
            name=self.name,
            sample=self.sample,
            timeout=self.timeout,
            max_attempts=self.max_attempts,
            grading=Grading(
                model=self.model, prompt=self.prompt, scale=self.scale, max_output_tokens=self.max_output_tokens
            ),
        )


def repeated_name(scorers: Iterable[ScorerSpec]) -> str | None:
    """Return a name that two scorers share, if any do: the feedback of one would take the place of the other's."""
    seen: set[str] = set()
    for scorer in scorers:
        if scorer.name in seen:
            return scorer.name
        seen.add(scorer.name)
    return None
