"""What runs and their organisation's ledger say to each other, and the ledger's activities.

A run's statements are cumulative: they say what it has used since it began to speak, so that hearing one twice, or not
hearing one, makes nothing wrong. Fields are only ever added, with defaults.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

from pydantic import Field
from temporalio import activity

from perdure.activities import ModelReply
from perdure.budget import Line, Place, Refusal
from perdure.contracts import Usage
from perdure.messages import Frozen

LEDGER_NAME: Final = "Ledger"
PAGE_NAME: Final = "LedgerPage"
ANSWER_SIGNAL: Final = "ledger"
"""The signal by which a run hears its ledger."""
MAX_NAME_BYTES: Final = 512
"""Of an organisation's name in a workflow's id."""


def ledger_id(org: str | None) -> str:
    """Return the workflow id of an organisation's ledger; runs of none have one too."""
    return f"perdure-ledger{_named(org)}"


def page_id(page: PageRecord) -> str:
    """Return the workflow id of a page of an organisation's usage."""
    return f"perdure-usage:{page.day}:{page.number}:{page.ledger[:8]}{_named(page.org)}"


def _named(org: str | None) -> str:
    if org is None:
        return ""
    name = org.encode("utf-8", "surrogatepass")
    # Temporal takes ids of a thousand bytes; a name that is too long for one is told by its digest.
    return f":{org}" if len(name) <= MAX_NAME_BYTES else f"-of-sha256:{hashlib.sha256(name).hexdigest()}"


class ModelUse(Frozen):
    """What was used of one model."""

    calls: int = 0
    unpriced_calls: int = 0
    """Those whose cost nobody knows; the cost is that of the others."""
    usage: Usage = Usage()
    cost_usd: Decimal = Decimal(0)

    def with_reply(self, reply: ModelReply) -> ModelUse:
        """Return the use with one call more."""
        return ModelUse(
            calls=self.calls + 1,
            unpriced_calls=self.unpriced_calls + (reply.cost_usd is None),
            usage=self.usage + reply.usage,
            cost_usd=self.cost_usd + (reply.cost_usd or 0),
        )

    def __add__(self, other: ModelUse) -> ModelUse:
        return ModelUse(
            calls=self.calls + other.calls,
            unpriced_calls=self.unpriced_calls + other.unpriced_calls,
            usage=self.usage + other.usage,
            cost_usd=self.cost_usd + other.cost_usd,
        )

    def since(self, earlier: ModelUse) -> ModelUse:
        """Return what was used after an earlier statement; nothing if this one is the earlier of the two."""
        if self.calls <= earlier.calls:
            return ModelUse()
        return ModelUse(
            calls=self.calls - earlier.calls,
            unpriced_calls=self.unpriced_calls - earlier.unpriced_calls,
            usage=Usage(**{name: value - getattr(earlier.usage, name) for name, value in self.usage}),
            cost_usd=self.cost_usd - earlier.cost_usd,
        )


Used = dict[str, ModelUse]
"""What was used, by the model as the agent names it."""


def used_since(later: Mapping[str, ModelUse], earlier: Mapping[str, ModelUse]) -> Used:
    """Return what one statement says beyond another."""
    differences = {model: use.since(earlier.get(model, ModelUse())) for model, use in later.items()}
    return {model: use for model, use in differences.items() if use.calls}


def cost_of_all(used: Mapping[str, ModelUse]) -> Decimal:
    """Return what it cost together, as far as that is known."""
    return sum((use.cost_usd for use in used.values()), Decimal(0))


class Statement(Frozen):
    """What every message of a run to the ledger says. Each field is optional on the wire."""

    holder: str = ""
    """Who speaks: one run, from its start or its latest reset on. Sub-agents are to speak as their root run does."""
    run_id: str = ""
    execution_id: str = ""
    """Temporal's run id of the execution that speaks."""
    began_at: datetime | None = None
    """When the run began."""
    user: str | None = None
    agent: str = ""
    used: Used = Field(default_factory=dict)
    """Since the holder began."""
    known: Used = Field(default_factory=dict)
    """The part of it that the ledger was told before, should it have forgotten."""
    lines: tuple[Line, ...] = ()
    """The budgets that count the run."""
    places: tuple[Place, ...] = ()
    """The limits of open runs that count it."""
    time_zone: str = "UTC"
    request_id: str = ""
    """What an answer names; for a message that wants one."""


class Enter(Statement):
    """Signal `enter`: the run wants a place among the open ones."""


class Raise(Frozen):
    """A human has put more money into a budget, for the period that is going on."""

    budget: str
    subject: str
    usd: Decimal
    by: str
    approval_id: str


class Reserve(Statement):
    """Signal `reserve`: the run gives back what it holds, and wants so much for its next calls."""

    minimum: Decimal = Decimal(0)
    """What the next call costs at worst."""
    wanted: Decimal = Decimal(0)
    """What would do for several."""
    raises: tuple[Raise, ...] = ()


class Settle(Statement):
    """Signal `settle`: the run gives back what it holds, and wants nothing."""

    ended: bool = False
    """It gives its place back too. One that speaks again all the same has it again."""


class LedgerAnswer(Frozen):
    """Signal `ledger`, to a run. Each field is optional on the wire and checked by the run."""

    request_id: str = ""
    kind: Literal["reserved", "refused", "admitted", ""] = ""
    usd: Decimal = Decimal(0)
    """For `reserved`: how much, between what was needed and what was wanted."""
    refusal: Refusal | None = None


class Calendar(Frozen):
    """A day and a month of a time zone, and when they end."""

    time_zone: str
    day: str
    """As in `2026-11-27`."""
    month: str
    """As in `2026-11`."""
    day_ends: datetime
    month_ends: datetime


class CalendarRequest(Frozen):
    """Input of the activity `read_calendar`."""

    time_zone: str
    now: datetime


class UsageRow(Frozen):
    """What one user's runs of one agent used of one model in a day."""

    user: str | None = None
    agent: str
    model: str
    use: ModelUse = ModelUse()


class PageRecord(Frozen):
    """A page of an organisation's usage, and the whole of a workflow `LedgerPage`'s input."""

    org: str | None = None
    day: str
    number: int = 0
    """A day of many rows has several."""
    ledger: str = ""
    """Temporal's id of the chain of executions that wrote it: a ledger that was terminated has a successor."""
    time_zone: str = "UTC"
    rows: tuple[UsageRow, ...] = ()


class AddressedAnswer(Frozen):
    """An answer on its way."""

    holder: str
    run_id: str
    answer: LedgerAnswer


class Answers(Frozen):
    """Input of the activity `deliver_answers`."""

    answers: tuple[AddressedAnswer, ...]


class AnswersReport(Frozen):
    """Result of the activity `deliver_answers`."""

    gone: tuple[str, ...] = ()
    """Holders whose run has ended, or never was."""
    failed: tuple[AddressedAnswer, ...] = ()
    """What Temporal did not take now."""


class HolderReference(Frozen):
    """A holder that has not been heard of for a while."""

    holder: str
    run_id: str
    execution_id: str


class Inspection(Frozen):
    """Input of the activity `inspect_holders`."""

    holders: tuple[HolderReference, ...]


class HolderReport(Frozen):
    """What became of a holder."""

    holder: str
    open: bool
    execution_id: str
    """The execution in which its run goes on, or ended."""
    used: Used | None = None
    """Of a run that has ended: all that it used, by its history; None if that is deleted."""


class InspectionReport(Frozen):
    """Result of the activity `inspect_holders`."""

    holders: tuple[HolderReport, ...]


class Standing(Frozen):
    """How a budget stands in the period that is going on."""

    budget: str
    per: Literal["day", "month"]
    subject: str
    """Who has it, as in `Line`."""
    period: str
    cap_usd: Decimal
    """With what humans have added."""
    spent_usd: Decimal
    reserved_usd: Decimal
    resets_at: datetime


class LedgerView(Frozen):
    """The answer of the ledger's query `view`."""

    org: str | None = None
    calendar: Calendar | None = None
    pages: tuple[PageRecord, ...] = ()
    """Usage that may not be found in pages of their own yet, the page that is being filled included."""
    standings: tuple[Standing, ...] = ()
    """The fullest first, five hundred at most."""
    open_runs: int = 0
    """Of those that a limit of open runs counts."""
    queued_runs: int = 0
    waiting_runs: int = 0
    """Runs that wait for what others have reserved."""


class OpenLedger(Frozen):
    """Input of the activity `open_ledger`."""

    org: str | None = None


@activity.defn
async def open_ledger(wanted: OpenLedger) -> None:
    """Start an organisation's ledger, unless it is open."""
    raise NotImplementedError


@activity.defn
async def read_calendar(request: CalendarRequest) -> Calendar:
    """Tell the day and the month of a moment."""
    raise NotImplementedError


@activity.defn
async def deliver_answers(batch: Answers) -> AnswersReport:
    """Signal answers to their runs."""
    raise NotImplementedError


@activity.defn
async def inspect_holders(inspection: Inspection) -> InspectionReport:
    """Tell what became of holders that are not heard of."""
    raise NotImplementedError
