"""What organisations used: read from the pages of their days, and for what is in no page yet from their ledgers.

Pages are workflows whose first event holds them, so that they are read with no worker running. A ledger is asked by
Query, which disturbs neither it nor any run; while it cannot answer, the report says what it lacks.
"""

from __future__ import annotations

import asyncio
import csv
import io
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog
from pydantic import ValidationError
from temporalio.client import WorkflowExecution, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.service import RPCError

from perdure import history
from perdure.errors import DecryptionError, InvalidInputError
from perdure.ledger.contracts import LedgerView, ModelUse, PageRecord, UsageRow, page_id
from perdure.search_attributes import MEMO_DAY, ORG
from perdure_api import visibility
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.usage_schemas import BudgetStanding, Dimension, UsageFilter, UsageItem, UsageReport, UsageTotal

log = structlog.get_logger(__name__)

DEFAULT_DAYS: Final = 30
"""How far back a report goes that names no beginning."""
READ_AT_ONCE: Final = 8
ASKED_AT_ONCE: Final = 50
VIEW_TIMEOUT: Final = timedelta(seconds=2)
"""How long a ledger may take to answer."""
PATIENCE: Final = timedelta(seconds=5)
"""How long all together may: where no worker runs, none answers, and there may be thousands."""
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r")
"""Texts that begin so are formulas to a spreadsheet."""

Key = tuple[str | None, ...]


class Usage:
    """The usage of the organisations that a principal may see."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def report(self, wanted: UsageFilter) -> UsageReport:
        """Return what was used, by the dimensions that are wanted.

        Raises:
            InvalidInputError: The period ends before it begins.
        """
        orgs = self._reach.orgs(wanted.org)
        first = wanted.first or datetime.now(UTC).date() - timedelta(days=DEFAULT_DAYS)
        if wanted.last is not None and wanted.last < first:
            raise InvalidInputError(f"the period ends on {wanted.last}, before it begins on {first}")
        with temporal_errors():
            views, silent = await self._views(orgs)
            pages = await self._pages(orgs, wanted, first)
        # A page that was written meanwhile is whole, as the ledger's word of it need not be.
        pages = {page_id(page): page for view in views for page in view.pages} | pages
        groups: dict[Key, ModelUse] = {}
        for page in pages.values():
            if _is_within(page.day, first, wanted.last):
                for row in page.rows:
                    if _passes(row, wanted):
                        key = tuple(_value(page, row, dimension) for dimension in wanted.group_by)
                        groups[key] = groups.get(key, ModelUse()) + row.use
        return UsageReport(
            first=first,
            last=wanted.last,
            group_by=wanted.group_by,
            items=tuple(_item(wanted.group_by, key, groups[key]) for key in sorted(groups, key=_order)),
            total=UsageTotal.of(sum(groups.values(), ModelUse())),
            complete=not silent,
            silent_orgs=tuple(silent),
            budgets=tuple(_budgets(views)) if wanted.last is None else (),
        )

    async def _views(self, orgs: tuple[str, ...]) -> tuple[list[LedgerView], list[str]]:
        """Return what the ledgers show, and the organisations whose ledger does not answer."""
        rows = self._reach.client.list_workflows(visibility.ledger_query(orgs), rpc_timeout=RPC_TIMEOUT)
        ledgers = [row async for row in rows if _is_of(row, orgs)]
        turn, due = asyncio.Semaphore(ASKED_AT_ONCE), time.monotonic() + PATIENCE.total_seconds()

        async def view(ledger: WorkflowExecution) -> LedgerView | None:
            handle = self._reach.client.get_workflow_handle(ledger.id)
            async with turn:
                left = timedelta(seconds=due - time.monotonic())
                if left <= timedelta(0):
                    return None
                try:
                    timeout = min(left, VIEW_TIMEOUT)
                    seen: LedgerView = await handle.query("view", result_type=LedgerView, rpc_timeout=timeout)
                    return seen
                except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
                    log.warning("ledger_silent", ledger=ledger.id, error=str(error))
                    return None

        answers = await asyncio.gather(*map(view, ledgers))
        silent = [
            ledger.typed_search_attributes.get(ORG) or ""
            for ledger, answer in zip(ledgers, answers, strict=True)
            if answer is None
        ]
        return [answer for answer in answers if answer is not None], silent

    async def _pages(self, orgs: tuple[str, ...], wanted: UsageFilter, first: date) -> dict[str, PageRecord]:
        rows = self._reach.client.list_workflows(visibility.page_query(orgs, first=first), rpc_timeout=RPC_TIMEOUT)
        turn = asyncio.Semaphore(READ_AT_ONCE)

        async def read(row: WorkflowExecution) -> PageRecord | None:
            async with turn:
                return await self._page(row)

        found = [row async for row in rows if _is_of(row, orgs) and _is_within(await _day(row), first, wanted.last)]
        pages = await asyncio.gather(*map(read, found))
        return {row.id: page for row, page in zip(found, pages, strict=True) if page is not None}

    async def _page(self, row: WorkflowExecution) -> PageRecord | None:
        try:
            value = await history.read_input(self._reach.client, row.id, execution_id=row.run_id)
            return None if value is None else PageRecord.model_validate_json(value.payload.data)
        except (DecryptionError, ValidationError) as error:  # it must not keep the others from being read
            log.warning("usage_page_unreadable", page=row.id, error=str(error))
            return None


def as_csv(report: UsageReport) -> str:
    """Write a report as CSV (RFC 4180), with a header."""
    numbers = list(UsageTotal.model_fields)
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow([*report.group_by, *numbers])
    for item in report.items:
        names = [_harmless(getattr(item, dimension) or "") for dimension in report.group_by]
        writer.writerow([*names, *(_number(getattr(item, number)) for number in numbers)])
    return written.getvalue()


def _is_of(row: WorkflowExecution, orgs: tuple[str, ...]) -> bool:
    # The query asks for the organisation, but some databases compare texts as if a and A were the same.
    return all(row.typed_search_attributes.get(ORG) == org for org in orgs)


async def _day(row: WorkflowExecution) -> str:
    try:
        return await row.memo_value(MEMO_DAY, "", type_hint=str)
    except DecryptionError:
        return ""


def _is_within(day: str, first: date, last: date | None) -> bool:
    return first.isoformat() <= day and (last is None or day <= last.isoformat())


def _passes(row: UsageRow, wanted: UsageFilter) -> bool:
    filters = ((wanted.user, row.user), (wanted.agent, row.agent), (wanted.model, row.model))
    return all(given in (None, value) for given, value in filters)


def _value(page: PageRecord, row: UsageRow, dimension: Dimension) -> str | None:
    match dimension:
        case "org":
            return page.org
        case "day":
            return page.day
        case "user":
            return row.user
        case "agent":
            return row.agent
        case "model":
            return row.model


def _item(dimensions: Iterable[Dimension], key: Key, use: ModelUse) -> UsageItem:
    named = dict(zip(dimensions, key, strict=True))
    return UsageItem(**dict(UsageTotal.of(use)), **named)


def _order(key: Key) -> tuple[str, ...]:
    return tuple(value or "" for value in key)


def _budgets(views: Iterable[LedgerView]) -> Iterator[BudgetStanding]:
    for view in views:
        yield from (BudgetStanding(org=view.org, **dict(standing)) for standing in view.standings)


def _number(value: Decimal | float | None) -> str:
    return "" if value is None else f"{value:f}" if isinstance(value, Decimal) else str(value)


def _harmless(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULAS) else text
