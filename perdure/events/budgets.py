"""Money and the line of runs as events: the ledger's answers in the history, and what the memo says of budgets."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import assert_never

from perdure.budget import BudgetMemo, BudgetRecord, Terms
from perdure.events.event import (
    BudgetDowngraded,
    BudgetRaised,
    BudgetRefused,
    BudgetReserved,
    RunAdmitted,
    RunEvent,
    RunQueued,
)
from perdure.events.stamp import Stamp
from perdure.ledger.contracts import LedgerAnswer


class BudgetLog:
    """Follows what a run hears of its ledger, and what became of its budgets, through one execution."""

    def __init__(self) -> None:
        self._queued_at: datetime | None = None
        self._heard: set[str] = set()
        """Requests that were answered: the ledger says some answers twice."""

    def begin(self, terms: Terms | None, stamp: Stamp) -> Iterator[RunEvent]:
        """Return what a run begins with."""
        if terms is not None and terms.places:
            self._queued_at = stamp.at
            limits = {place.subject: place.most for place in terms.places}
            yield RunQueued(id=stamp.next_id(), at=stamp.at, limits=limits)

    def hear(self, answer: LedgerAnswer | None, stamp: Stamp) -> Iterator[RunEvent]:
        """Return what an answer of the ledger tells; a refusal is told by the memo, with what is done about it."""
        if answer is None or not answer.request_id or answer.request_id in self._heard:
            return
        self._heard.add(answer.request_id)
        if answer.kind == "reserved":
            yield BudgetReserved(id=stamp.next_id(), at=stamp.at, amount_usd=answer.usd)
        elif answer.kind == "admitted":
            waited = stamp.at - self._queued_at if self._queued_at else None
            yield RunAdmitted(id=stamp.next_id(), at=stamp.at, waited=waited)

    def feed(self, memo: BudgetMemo, stamp: Stamp) -> Iterator[RunEvent]:
        """Return what the memo says that it did not say before."""
        for record in memo.changes:
            yield from _event(record, stamp)


def _event(record: BudgetRecord, stamp: Stamp) -> Iterator[RunEvent]:
    match record.kind:
        case "refused":
            if record.refusal is not None:
                fields = dict(record.refusal)
                yield BudgetRefused(id=stamp.next_id(), at=record.at, reason=record.refusal.why, **fields)
        case "raised":
            yield BudgetRaised(
                id=stamp.next_id(), at=record.at, budget=record.budget, amount_usd=record.amount_usd, by=record.by
            )
        case "downgraded":
            yield BudgetDowngraded(id=stamp.next_id(), at=record.at, model=record.model)
        case _:
            assert_never(record.kind)
