"""The usage that a ledger keeps: rows of the day that is going on, and pages on their way to be workflows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from perdure.ledger.contracts import Calendar, ModelUse, PageRecord, UsageRow
from perdure.ledger.state import BookState, Holder, WrittenPage

PAGE_ROWS: Final = 500
"""Rows on one page: it fits into Temporal's two megabytes, however long the names are."""
MAX_KEPT: Final = 2
"""Pages that are written and stay here too; with the open one they fit into one answer to a Query."""
PAGE_KEPT: Final = timedelta(minutes=2)
"""How long a page that is written stays here too, as lists of workflows are behind a little."""


class Pages:
    """Collects rows into pages."""

    def __init__(self, state: BookState) -> None:
        self._state = state

    @property
    def open(self) -> PageRecord | None:
        """The page that is being filled."""
        calendar = self._state.calendar
        return self._page(calendar) if calendar is not None and self._state.rows else None

    @property
    def all(self) -> tuple[PageRecord, ...]:
        """Every page that may not be found in a workflow yet."""
        filled = tuple(one.page for one in self._state.pages)
        return (*filled, self.open) if self.open else filled

    @property
    def unwritten(self) -> list[PageRecord]:
        """The pages that are complete and have not become workflows yet."""
        return [one.page for one in self._state.pages if one.written_at is None]

    @property
    def next_due(self) -> datetime | None:
        """When a page that is written can be let go of."""
        return min((one.written_at + PAGE_KEPT for one in self._state.pages if one.written_at), default=None)

    def add(self, holder: Holder, used: Mapping[str, ModelUse]) -> None:
        """Put what a holder used to the day's rows."""
        for model, use in used.items():
            name = "\n".join((holder.user or "", holder.agent, model))
            row = self._state.rows.get(name) or UsageRow(user=holder.user, agent=holder.agent, model=model)
            self._state.rows[name] = row.model_copy(update={"use": row.use + use})
        if len(self._state.rows) >= PAGE_ROWS and self._state.calendar is not None:
            self._complete(self._state.calendar)
            self._state.page_number += 1

    def end_day(self, calendar: Calendar) -> None:
        """Complete the day of that calendar."""
        self._complete(calendar)
        self._state.page_number = 0

    def written(self, page: PageRecord, *, now: datetime) -> None:
        """Note that a page has become a workflow; it stays here until lists know of it."""
        for one in self._state.pages:
            if one.page is page:
                one.written_at = now

    def forget(self, *, now: datetime) -> None:
        """Let go of pages that were written a while ago."""
        pages = self._state.pages
        written = [one for one in pages if one.written_at is not None and now < one.written_at + PAGE_KEPT]
        self._state.pages = [*written[-MAX_KEPT:], *(one for one in pages if one.written_at is None)]

    def _complete(self, calendar: Calendar) -> None:
        if self._state.rows:
            self._state.pages.append(WrittenPage(page=self._page(calendar)))
            self._state.rows = {}

    def _page(self, calendar: Calendar) -> PageRecord:
        return PageRecord(
            org=self._state.org,
            day=calendar.day,
            number=self._state.page_number,
            ledger=self._state.ledger,
            time_zone=calendar.time_zone,
            rows=tuple(self._state.rows.values()),
        )
