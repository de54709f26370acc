"""What callers get about deliveries."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from perdure.contracts import RunError
from perdure.notification import Occasion
from perdure_api.schemas import Answer


class RunDelivery(Answer):
    """One notice of a run to one receiver, and how far it has come."""

    delivery_id: str
    notice_id: str
    """The receiver's `webhook-id`: the same in every attempt, and when it is sent again."""
    about: Occasion
    """What the receiver is told."""
    host: str
    """Whom it goes to; the rest of the address may be a secret."""
    format: Literal["webhook", "slack"]
    status: Literal["under_way", "delivered", "failed"]
    """`failed`: it is not tried any more, unless somebody has it sent again."""
    attempts: int
    """That were begun; since it was sent again, if it was. 0 also if nobody can tell any more."""
    answered: int | None = None
    """The status of HTTP that a receiver has taken it with."""
    error: RunError | None = None
    """Why the last attempt failed, or why it was given up."""
    next_attempt_at: datetime | None = None
    """When it is tried again; None while it is, and when it is over."""
    started_at: datetime
    """When it was begun, or sent again."""
    ended_at: datetime | None = None
    """When it was delivered or given up."""


class DeliveryList(Answer):
    """What a run has told to whom, the first first."""

    items: tuple[RunDelivery, ...]
