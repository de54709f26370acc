"""Notifications: who is told what of a run. A section of the policy, and what a run's own callback URL amounts to."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from perdure.endpoint import EndpointUrl
from perdure.messages import Frozen

MAX_TARGETS: Final = 10
"""Each is one more delivery for each thing that happens, beside the run's own commands."""

Occasion = Literal[
    "approval.asked",
    "approval.escalated",
    "approval.approved",
    "approval.rejected",
    "approval.expired",
    "run.ended",
]
"""Something that people or programs outside may want to know; named as the event of a run is."""

USUAL: Final[tuple[Occasion, ...]] = ("approval.asked", "approval.escalated", "run.ended")
"""A human is needed, or the run is over."""


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class NotificationTarget(Frozen):
    """One place that is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: EndpointUrl
    format: Literal["webhook", "slack"] = "webhook"
    """`webhook`: JSON, signed as of Standard Webhooks. `slack`: a message as Slack's incoming webhooks take it."""
    on: Annotated[tuple[Occasion, ...], BeforeValidator(_one_or_more), Field(min_length=1)] = USUAL
