"""All that a ledger knows, in one model that is also what continue-as-new carries over."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from pydantic import BaseModel, Field

from perdure.budget import Line
from perdure.ledger.contracts import AddressedAnswer, Calendar, Enter, LedgerAnswer, PageRecord, Reserve, UsageRow, Used


class Tally(BaseModel):
    """One budget of one subject in one period."""

    line: Line
    period: str
    """`2026-11-27` or `2026-11`."""
    spent: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)
    raised: Decimal = Decimal(0)
    """What humans have added."""
    raises: list[str] = Field(default_factory=list)
    """The approvals by which they did."""


class Holder(BaseModel):
    """A run that holds something, or waits for it."""

    run_id: str
    execution_id: str
    user: str | None = None
    agent: str = ""
    heard_at: datetime
    used: Used = Field(default_factory=dict)
    """What it has stated."""
    reserved: Decimal = Decimal(0)
    """In each of these tallies."""
    tallies: list[str] = Field(default_factory=list)
    """In which it reserved last, and to which what it spends is put."""
    places: list[str] = Field(default_factory=list)
    """Subjects whose limit of open runs counts it."""
    answered: LedgerAnswer | None = None
    """The latest answer, for a request that is repeated."""

    @property
    def holds_something(self) -> bool:
        """Whether others could have what it holds."""
        return bool(self.reserved or self.places)


class Waiting(BaseModel):
    """A reservation that has no room yet."""

    request: Reserve
    since: datetime


class WrittenPage(BaseModel):
    """A page on its way out."""

    page: PageRecord
    written_at: datetime | None = None


class BookState(BaseModel):
    """Everything the ledger knows; also what it carries through continue-as-new."""

    org: str | None = None
    ledger: str = ""
    """As its pages name it."""
    time_zone: str = ""
    """The one that runs named last; it holds from the next day on."""
    calendar: Calendar | None = None
    tallies: dict[str, Tally] = Field(default_factory=dict)
    holders: dict[str, Holder] = Field(default_factory=dict)
    waiting: list[Waiting] = Field(default_factory=list)
    queue: list[Enter] = Field(default_factory=list)
    """Runs that want a place, in their order."""
    rows: dict[str, UsageRow] = Field(default_factory=dict)
    """Of the page that is being filled."""
    page_number: int = 0
    pages: list[WrittenPage] = Field(default_factory=list)
    remembered: dict[str, Used] = Field(default_factory=dict)
    outbox: list[AddressedAnswer] = Field(default_factory=list)


class LedgerInput(BaseModel):
    """Input of the workflow `Ledger`."""

    org: str | None = None
    state: BookState | None = None
    """After continue-as-new."""
