"""The tallies of a ledger: for each budget, whoever has it, and each period, what is spent and what is reserved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Final

from perdure.budget import Line, Refusal, whole
from perdure.ledger.contracts import Calendar, Reserve, Standing
from perdure.ledger.state import BookState, Holder, Tally

MAX_TALLIES: Final = 40_000
"""Subjects of budgets in the day and the month that are going on, all budgets together. So many are 10 MB of JSON, half
a megabyte compressed, and half a second to read when the ledger goes on in another execution."""
MAX_STANDINGS: Final = 500


class Tallies:
    """Puts money to the tallies of a book, and says how they stand. The book must have a calendar."""

    def __init__(self, state: BookState) -> None:
        self._state = state

    def keys(self, lines: Iterable[Line]) -> list[str]:
        """Return the names of these budgets' tallies in the periods that are going on."""
        periods = {"day": self._calendar.day, "month": self._calendar.month}
        return ["\n".join((line.budget, line.subject, periods[line.per])) for line in lines]

    def open(self, lines: tuple[Line, ...]) -> list[str]:
        """Have a tally for each of these budgets, and return their names."""
        keys = self.keys(lines)
        for key, line in zip(keys, lines, strict=True):
            known = self._state.tallies.get(key)
            if known is None:
                self._state.tallies[key] = Tally(line=line, period=key.rpartition("\n")[2])
            else:
                known.line = line  # the latest policy's amount, for whoever looks
        return keys

    def can_open(self, lines: tuple[Line, ...]) -> bool:
        """Whether there is room for what these budgets need: a state that outgrows Temporal would be the end of it."""
        tallies = self._state.tallies
        new = len(set(self.keys(lines)) - tallies.keys())
        if len(tallies) + new > MAX_TALLIES:
            held = self._held()
            tallies = {key: one for key, one in tallies.items() if one.spent or one.raised or key in held}
            self._state.tallies = tallies
        return len(tallies) + new <= MAX_TALLIES

    def spend(self, keys: Iterable[str], cost: Decimal) -> None:
        """Put a cost to tallies."""
        for key in keys:
            self._state.tallies[key].spent += cost

    def add(self, request: Reserve) -> None:
        """Put more into budgets, as humans have allowed; once for each of their approvals."""
        for raised in request.raises:
            for key, line in zip(self.open(request.lines), request.lines, strict=True):
                tally = self._state.tallies[key]
                named = (line.budget, line.subject) == (raised.budget, raised.subject)
                if named and raised.approval_id not in tally.raises:
                    tally.raised += raised.usd
                    tally.raises.append(raised.approval_id)

    def sharers(self, requests: Iterable[Reserve]) -> Counter[str]:
        """Return how many there are for each tally, who hold something of it or want it."""
        holders = self._state.holders.values()
        sharers = Counter(key for holder in holders if holder.reserved for key in holder.tallies)
        sharers.update(key for request in requests for key in self.keys(request.lines))
        return sharers

    def room(self, request: Reserve, keys: list[str]) -> Decimal:
        """Return how much could be reserved."""
        return min(self._rooms(request, keys), default=request.wanted)

    def reserve(self, request: Reserve, holder: Holder, keys: list[str], *, sharers: Counter[str]) -> Decimal:
        """Reserve between what is needed and what is wanted: where little is left, all who are there get their part."""
        shares = [room / max(1, sharers[key]) for room, key in zip(self._rooms(request, keys), keys, strict=True)]
        share = whole(min(shares, default=request.wanted))
        amount = min(max(request.minimum, min(request.wanted, share)), self.room(request, keys))
        for key in keys:
            self._state.tallies[key].reserved += amount
        holder.reserved, holder.tallies = amount, keys
        return amount

    def release(self, holder: Holder) -> None:
        """Free what a holder has reserved."""
        for key in holder.tallies:
            self._state.tallies[key].reserved -= holder.reserved
        holder.reserved, holder.tallies = Decimal(0), []

    def refusals(self, request: Reserve, keys: list[str]) -> list[Refusal]:
        """Return what could be said against a request, for each of its budgets."""
        tallies = (self._state.tallies[key] for key in keys)
        return [self._refusal(line, tally, request) for line, tally in zip(request.lines, tallies, strict=True)]

    def full(self, request: Reserve) -> Refusal:
        """Return what is said of a request that there are no tallies for."""
        line = request.lines[0]
        return self._refusal(line, Tally(line=line, period=""), request).model_copy(update={"ledger_full": True})

    def prune(self) -> None:
        """Forget the periods that are over and of which nobody holds anything any more."""
        held, current = self._held(), (self._calendar.day, self._calendar.month)
        self._state.tallies = {
            key: tally for key, tally in self._state.tallies.items() if tally.period in current or key in held
        }

    def standings(self) -> list[Standing]:
        """Return how budgets stand in the periods that are going on, the fullest first."""
        ends = {self._calendar.day: self._calendar.day_ends, self._calendar.month: self._calendar.month_ends}
        standings = [
            Standing(
                budget=tally.line.budget,
                per=tally.line.per,
                subject=tally.line.subject,
                period=tally.period,
                cap_usd=tally.line.usd + tally.raised,
                spent_usd=tally.spent,
                reserved_usd=tally.reserved,
                resets_at=ends[tally.period],
            )
            for tally in self._state.tallies.values()
            if tally.period in ends
        ]
        standings.sort(key=lambda one: (one.spent_usd + one.reserved_usd) / one.cap_usd, reverse=True)
        return standings[:MAX_STANDINGS]

    @property
    def _calendar(self) -> Calendar:
        calendar = self._state.calendar
        assert calendar is not None  # noqa: S101  # nothing is taken in before there is one
        return calendar

    def _held(self) -> set[str]:
        return {key for holder in self._state.holders.values() for key in holder.tallies}

    def _rooms(self, request: Reserve, keys: list[str]) -> Iterator[Decimal]:
        for line, key in zip(request.lines, keys, strict=True):
            tally = self._state.tallies[key]
            yield line.usd + tally.raised - tally.spent - tally.reserved

    def _refusal(self, line: Line, tally: Tally, request: Reserve) -> Refusal:
        return Refusal(
            budget=line.budget,
            per=line.per,
            subject=line.subject,
            cap_usd=line.usd + tally.raised,
            spent_usd=tally.spent,
            reserved_usd=tally.reserved,
            needed_usd=request.minimum,
            resets_at=self._calendar.day_ends if line.per == "day" else self._calendar.month_ends,
        )
