"""The chain of an agent's models: asked in turn within one attempt at a model call, until one answers.

Of the attempt's time each model but the last gets half of what is left, so a first model that hangs leaves as much to
the others, and one that fails at once leaves them nearly all. When nobody answers, Temporal sees one error.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Final, Protocol

import structlog
from temporalio.exceptions import ApplicationError

from perdure.activities import SkippedModel
from perdure.agent import AgentSpec
from perdure.contracts import cut
from perdure.outage import is_outage
from perdure_activities.breaker import Breaker
from perdure_activities.providers.posture import BY_TYPE, CIRCUIT_OPEN, REJECTED
from perdure_activities.providers.provider import Provider, ProviderReply
from perdure_activities.providers.registry import provider_for

MAX_WHY: Final = 500
"""Bytes that history keeps of why a model did not answer, at each step."""
MAX_VERDICT: Final = 4000
"""Bytes of an error that names all models."""
FIRST_PAUSE: Final = 5.0
"""Seconds."""
LONGEST_PAUSE: Final = timedelta(minutes=2)
"""Between attempts that find all circuits open. Doubled each time, ten attempts wait for over ten minutes: the one call
that is let through meanwhile may take long, and must not cost the others their last attempt."""
JITTER: Final = 0.25
"""So much of such a pause is added by chance, lest all runs come back in the same moment."""

log = structlog.get_logger(__name__)


class Asking(Protocol):
    """One call to one model."""

    async def __call__(self, spec: AgentSpec, provider: Provider, *, deadline: Deadline) -> ProviderReply:
        """Have the model answer.

        Args:
            spec: The agent, with this model as its only one.
            provider: The model's.
            deadline: By when.

        Raises:
            ApplicationError: As the posture table has it.
        """
        ...


class Deadline:
    """When a model's turn is over."""

    def __init__(self, ends: float, *, share: float) -> None:
        self._ends = ends
        self._share = share

    @property
    def left(self) -> timedelta:
        """The time that a call may take that begins now."""
        return timedelta(seconds=max(0.001, (self._ends - asyncio.get_running_loop().time()) * self._share))


@dataclass(frozen=True)
class Answer:
    """A reply, and how it was come by."""

    reply: ProviderReply
    spec: AgentSpec
    """The agent, with the model that answered as its only one."""
    provider: Provider
    skipped: tuple[SkippedModel, ...]


@dataclass(frozen=True)
class Failure:
    """A model that did not answer."""

    model: str
    error: ApplicationError


async def first_answer(
    specs: Sequence[AgentSpec],
    ask: Asking,
    *,
    providers: Mapping[str, Provider],
    breaker: Breaker,
    timeout: timedelta,
    attempt: int,
) -> Answer:
    """Ask each model once, in order, and return the first answer.

    Args:
        specs: The agent, once with each of its models.
        ask: Makes a call.
        providers: By prefix.
        breaker: May keep a model from being asked.
        timeout: For all of it.
        attempt: Of the activity, from 1 on.

    Raises:
        ApplicationError: None answered; see `verdict`.
    """
    ends = asyncio.get_running_loop().time() + timeout.total_seconds()
    failures: list[Failure] = []
    for spec in specs:
        deadline = Deadline(ends, share=1.0 if spec is specs[-1] else 0.5)
        try:
            provider = provider_for(spec.provider, providers)
            reply = await breaker.call(spec.model, partial(ask, spec, provider, deadline=deadline))
        except ApplicationError as error:
            failures.append(Failure(spec.model, error))
            posture = BY_TYPE.get(error.type)
            if posture is None or not posture.next_model:
                break
            if spec is not specs[-1]:
                log.warning("model_skipped", model=spec.model, error_type=error.type, error=error.message)
            continue
        return Answer(reply, spec, provider, tuple(_skipped(failure) for failure in failures))
    raise verdict(failures, attempt=attempt, parks=specs[0].on_outage == "park") from None


def verdict(failures: Sequence[Failure], *, attempt: int, parks: bool) -> ApplicationError:
    """Return the error that Temporal is to see: the most hopeful one, naming all models.

    It is the one that may be tried again the soonest, if any may, else the first. Where the run parks, every outage is
    tried again, as an operator can mend a key or an account while the run waits.

    Args:
        failures: At least one, in the order of the models.
        attempt: Of the activity, from 1 on.
        parks: Whether the run waits until a model answers.
    """
    errors = [failure.error for failure in failures]
    retried = [error for error in errors if not error.non_retryable or (parks and is_outage(error.type or ""))]
    chosen = min(retried, key=lambda error: _pause(error, attempt), default=errors[0])
    delay = chosen.next_retry_delay
    if chosen.type == CIRCUIT_OPEN.type:
        delay = _pause(chosen, attempt) * (1 + JITTER * random.random())  # noqa: S311  # no secret
    return ApplicationError(
        _told(failures) if len(failures) > 1 else chosen.message,
        *chosen.details,
        type=chosen.type,
        non_retryable=not retried,
        next_retry_delay=delay,
    )


def _pause(error: ApplicationError, attempt: int) -> timedelta:
    """Return about how long Temporal will wait before the next attempt."""
    doubled = min(attempt - 1, 6)
    if error.type == CIRCUIT_OPEN.type:
        patience = min(timedelta(seconds=math.ldexp(FIRST_PAUSE, doubled)), LONGEST_PAUSE)
        return max(patience, error.next_retry_delay or patience)
    return error.next_retry_delay or timedelta(seconds=math.ldexp(1, doubled))


def _told(failures: Sequence[Failure]) -> str:
    room = MAX_VERDICT // len(failures)
    said = "; ".join(f"{failure.model}: {cut(failure.error.message, room)}" for failure in failures)
    ends = failures[-1].error.type == REJECTED.type
    return f"{'the chain of models ended' if ends else 'no model answered'}: {said}"


def _skipped(failure: Failure) -> SkippedModel:
    return SkippedModel(
        model=failure.model, error_type=failure.error.type or "", why=cut(failure.error.message, MAX_WHY)
    )
