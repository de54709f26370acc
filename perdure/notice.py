"""What travels between a run and a delivery: the notice, what became of it, and the stub of the sending activity."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import Field
from temporalio import activity

from perdure.contracts import RunResult
from perdure.endpoint import parse_endpoint
from perdure.messages import Frozen, is_empty
from perdure.notification import Occasion
from perdure.oversight import ApprovalRecord, PendingApproval

DELIVERY_NAME: Final = "Delivery"
"""The workflow's type, by which deliveries are listed."""
DELIVERY_PREFIX: Final = "perdure-delivery:"
"""Of the workflow's id; the notice's id and the target's place follow."""
MAX_OUTPUT_BYTES: Final = 64 * 1024
"""Of a run's output in a notice; the run itself has it whole."""
REFUSED: Final = "delivery_refused"
"""Error type of a delivery that no further attempt would change."""


class RunFacts(Frozen):
    """Which run it is about."""

    run_id: str
    agent: str
    version: str
    user: str | None = None
    org: str | None = None
    session_id: str | None = None
    requested_by: str = ""


class Notice(Frozen):
    """Input of the workflow `Delivery` and of its activity: what happened, and who is to be told."""

    notice_id: str
    """The same in every attempt and for every target, for receivers to know a repetition by."""
    url: str
    format: Literal["webhook", "slack"] = "webhook"
    type: Occasion
    at: datetime
    run: RunFacts
    approval: PendingApproval | None = None
    """For `approval.asked` and `approval.escalated`: the question, secret arguments masked."""
    record: ApprovalRecord | None = None
    """For all of `approval.…`: what happened to it."""
    result: RunResult | None = None
    """For `run.ended`."""
    trace: str = Field(default="", exclude_if=is_empty)
    """As in `RunInput`."""


def summary(notice: Notice) -> str:
    """Return what the Web UI calls the delivery; of an address no more than the host, as the rest may be a secret."""
    return f"{notice.type} of {notice.run.run_id} to {parse_endpoint(notice.url).host}"


class Delivered(Frozen):
    """Result of the workflow `Delivery`."""

    status: int
    """As the receiver answered."""
    attempts: int


@activity.defn
async def deliver(notice: Notice) -> Delivered:
    """Send a notice once."""
    raise NotImplementedError
