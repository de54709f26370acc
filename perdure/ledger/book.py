"""The ledger's book: what is spent, reserved and wanted, and what follows from it. Pure: no clock, no outside.

For each budget, whoever has it, and each period there is a tally. What a run asks for fits, or waits in line until
others have settled, or is refused: at once when what is spent already leaves no room, else after a while. The line is
in the order in which the runs began: where there is not enough for all, some get to their end, instead of all half way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from perdure.budget import Line, Refusal, whole
from perdure.ledger.contracts import (
    Calendar,
    Delivery,
    Enter,
    HolderReference,
    HolderReport,
    LedgerAnswer,
    LedgerView,
    ModelUse,
    PageRecord,
    Reserve,
    Settle,
    Standing,
    Statement,
    UsageRow,
    Used,
    cost_of_all,
    used_since,
)
from perdure.ledger.state import BookState, Holder, Tally, Waiting, WrittenPage

PATIENCE: Final = timedelta(minutes=10)
"""How long a request waits for others to settle."""
SILENCE: Final = timedelta(minutes=5)
"""After which it is asked what became of a run that holds something."""
SILENCE_IN_NEED: Final = timedelta(minutes=1)
"""The same while others wait for what it holds."""
PAGE_ROWS: Final = 1000
"""Rows of usage on one page: a page fits into Temporal's two megabytes, however long the names are."""
PAGE_KEPT: Final = timedelta(minutes=2)
"""How long a page that is written stays here too, as lists of workflows are behind a little."""
MAX_STANDINGS: Final = 1000
MAX_INSPECTED: Final = 100
"""Holders that are inquired after at once."""
MAX_REMEMBERED: Final = 500
"""Holders that hold nothing, of which it is still known what they have stated."""


class Book:
    """Takes in what runs state and want, and answers."""

    def __init__(self, state: BookState) -> None:
        self.state = state

    @property
    def has_line(self) -> bool:
        """Whether somebody waits for what others hold."""
        return bool(self.state.waiting or self.state.queue)

    @property
    def awaits_another_day(self) -> bool:
        """Whether the end of the day matters to anybody."""
        return bool(self.state.rows or self.state.waiting)

    def take(self, message: Enter | Reserve | Settle, *, now: datetime) -> None:
        """Take in a message; `serve` then answers what has room. The calendar must be of this moment."""
        self.state.time_zone = message.time_zone
        holder = self._record(message, now=now)
        if message.request_id and holder.answered and holder.answered.request_id == message.request_id:
            self._send(message.holder, holder, holder.answered)
            return
        match message:
            case Enter():
                if all(waiting.holder != message.holder for waiting in self.state.queue):
                    self.state.queue.append(message)
            case Reserve():
                self._release(holder)
                self._raise(message)
                if all(waiting.request.request_id != message.request_id for waiting in self.state.waiting):
                    self._forget_requests(message.holder)
                    self.state.waiting.append(Waiting(request=message, since=now))
            case Settle():
                self._release(holder)
                self._forget_requests(message.holder)
                if message.ended:
                    self._close(message.holder)

    def serve(self, *, now: datetime) -> None:
        """Answer whoever can be answered, those first whose runs began first."""
        self._admit()
        self.state.waiting.sort(key=lambda waiting: (waiting.request.began_at or waiting.since, waiting.since))
        sharers = Counter(key for holder in self.state.holders.values() if holder.reserved for key in holder.tallies)
        sharers.update(key for waiting in self.state.waiting for key in self._keys(waiting.request.lines))
        taken: set[str] = set()
        """Tallies for which somebody waits who is before in line."""
        left: list[Waiting] = []
        for waiting in self.state.waiting:
            request, keys = waiting.request, self._open_tallies(waiting.request.lines)
            refusals = self._refusals(request, keys)
            spent = next((refusal for refusal in refusals if not refusal.is_lent), None)
            if spent is not None:
                self._answer(request, LedgerAnswer(kind="refused", refusal=spent))
            elif taken.isdisjoint(keys) and self._room(request, keys) >= request.minimum:
                self._grant(request, keys, sharers)
            elif now >= waiting.since + PATIENCE:
                scarcest = min(refusals, key=lambda refusal: refusal.cap_usd - refusal.spent_usd - refusal.reserved_usd)
                self._answer(request, LedgerAnswer(kind="refused", refusal=scarcest))
            else:
                left.append(waiting)
                taken.update(keys)
        self.state.waiting = left
        self._let_go()

    def turn(self, calendar: Calendar) -> None:
        """Go on in another day: its usage is complete, and so are the tallies of periods that nobody holds any more."""
        before, self.state.calendar = self.state.calendar, calendar
        if before is not None and before.day != calendar.day:
            self._end_page(before)
            self.state.page_number = 0
        held = {key for holder in self.state.holders.values() for key in holder.tallies}
        current = (calendar.day, calendar.month)
        self.state.tallies = {
            key: tally for key, tally in self.state.tallies.items() if tally.period in current or key in held
        }

    def silent(self, *, now: datetime) -> list[HolderReference]:
        """Return the holders that have not been heard of for too long."""
        limit = now - (SILENCE_IN_NEED if self.has_line else SILENCE)
        silent = [
            (holder.heard_at, HolderReference(holder=name, run_id=holder.run_id, execution_id=holder.execution_id))
            for name, holder in self.state.holders.items()
            if (holder.reserved or holder.places) and holder.heard_at <= limit
        ]
        return [reference for _, reference in sorted(silent, key=lambda one: one[0])[:MAX_INSPECTED]]

    def find(self, report: HolderReport, *, now: datetime) -> None:
        """Take in what became of a holder: what it used counts, and what it held is free."""
        holder = self.state.holders.get(report.holder)
        if holder is None:
            return
        if report.open:
            holder.heard_at, holder.execution_id = now, report.execution_id
            return
        self._count(holder, report.used or {}, keys=holder.tallies)
        self._release(holder)
        self._forget_requests(report.holder)
        self._close(report.holder)

    def unwritten(self) -> list[PageRecord]:
        """Return the pages that are complete and have not become workflows yet."""
        return [written.page for written in self.state.pages if written.written_at is None]

    def written(self, page: PageRecord, *, now: datetime) -> None:
        """Note that a page has become a workflow; it stays here until lists know of it."""
        for one in self.state.pages:
            if one.page is page:
                one.written_at = now

    def forget_pages(self, *, now: datetime) -> None:
        """Let go of pages that were written a while ago."""
        self.state.pages = [
            one for one in self.state.pages if one.written_at is None or now < one.written_at + PAGE_KEPT
        ]

    def next_due(self, *, inspecting: bool) -> datetime | None:
        """Return when something is to be done though nobody speaks; None if nothing is.

        Args:
            inspecting: It is being asked what became of silent holders; until that is told, they are not due.
        """
        state = self.state
        silence = SILENCE_IN_NEED if self.has_line else SILENCE
        holding = [] if inspecting else [one for one in state.holders.values() if one.reserved or one.places]
        due = [waiting.since + PATIENCE for waiting in state.waiting]
        due += [holder.heard_at + silence for holder in holding]
        due += [one.written_at + PAGE_KEPT for one in state.pages if one.written_at is not None]
        if state.calendar is not None and self.awaits_another_day:
            due.append(state.calendar.day_ends)
        return min(due, default=None)

    def open_page(self) -> PageRecord | None:
        """Return the page that is being filled."""
        calendar = self.state.calendar
        return self._page(calendar) if calendar is not None and self.state.rows else None

    def view(self) -> LedgerView:
        """Return what the ledger shows."""
        state, page = self.state, self.open_page()
        return LedgerView(
            org=state.org,
            calendar=state.calendar,
            pages=(*(one.page for one in state.pages), *([page] if page else [])),
            standings=tuple(self._standings()),
            open_runs=sum(bool(holder.places) for holder in state.holders.values()),
            queued_runs=len(state.queue),
            waiting_runs=len(state.waiting),
        )

    def _record(self, statement: Statement, *, now: datetime) -> Holder:
        state = self.state
        holder = state.holders.get(statement.holder)
        if holder is None:
            base = state.remembered.pop(statement.holder, None)
            holder = state.holders[statement.holder] = Holder(
                run_id=statement.run_id,
                execution_id=statement.execution_id,
                user=statement.user,
                agent=statement.agent,
                heard_at=now,
                used=statement.known if base is None else base,
            )
        holder.heard_at, holder.execution_id = now, statement.execution_id
        if not isinstance(statement, Enter):  # it goes on, so it has its place, whoever gave it one
            holder.places = [place.subject for place in statement.places]
            state.queue = [one for one in state.queue if one.holder != statement.holder]
        self._count(holder, statement.used, keys=holder.tallies or self._open_tallies(statement.lines))
        return holder

    def _count(self, holder: Holder, used: Used, *, keys: Iterable[str]) -> None:
        """Put what was used beyond the holder's latest statement to the tallies and to the day's rows."""
        before, new = holder.used, used_since(used, holder.used)
        if not new:
            return
        holder.used = {**before, **{model: before.get(model, ModelUse()) + use for model, use in new.items()}}
        cost = whole(cost_of_all(holder.used)) - whole(cost_of_all(before))
        for key in keys:
            self.state.tallies[key].spent += cost
        for model, use in new.items():
            name = "\n".join((holder.user or "", holder.agent, model))
            row = self.state.rows.get(name) or UsageRow(user=holder.user, agent=holder.agent, model=model)
            self.state.rows[name] = row.model_copy(update={"use": row.use + use})
        if len(self.state.rows) >= PAGE_ROWS and self.state.calendar is not None:
            self._end_page(self.state.calendar)
            self.state.page_number += 1

    def _keys(self, lines: Iterable[Line]) -> list[str]:
        calendar = self.state.calendar
        assert calendar is not None  # noqa: S101  # nothing is taken in before there is one
        periods = {"day": calendar.day, "month": calendar.month}
        return ["\n".join((line.budget, line.subject, periods[line.per])) for line in lines]

    def _open_tallies(self, lines: tuple[Line, ...]) -> list[str]:
        keys = self._keys(lines)
        for key, line in zip(keys, lines, strict=True):
            known = self.state.tallies.get(key)
            if known is None:
                self.state.tallies[key] = Tally(line=line, period=key.rpartition("\n")[2])
            else:
                known.line = line  # the latest policy's amount, for whoever looks
        return keys

    def _raise(self, request: Reserve) -> None:
        self._open_tallies(request.lines)
        for raised in request.raises:
            for key, line in zip(self._keys(request.lines), request.lines, strict=True):
                tally = self.state.tallies[key]
                named = (line.budget, line.subject) == (raised.budget, raised.subject)
                if named and raised.approval_id not in tally.raises:
                    tally.raised += raised.usd
                    tally.raises.append(raised.approval_id)

    def _release(self, holder: Holder) -> None:
        for key in holder.tallies:
            self.state.tallies[key].reserved -= holder.reserved
        holder.reserved, holder.tallies = Decimal(0), []

    def _forget_requests(self, name: str) -> None:
        self.state.waiting = [waiting for waiting in self.state.waiting if waiting.request.holder != name]

    def _close(self, name: str) -> None:
        """Forget a holder but for what it has stated, in case it is heard once more."""
        state = self.state
        holder = state.holders.pop(name)
        state.queue = [one for one in state.queue if one.holder != name]
        state.remembered[name] = holder.used
        for oldest in list(state.remembered)[:-MAX_REMEMBERED]:
            del state.remembered[oldest]

    def _let_go(self) -> None:
        """Close the holders that hold nothing and wait for nothing."""
        waits = {waiting.request.holder for waiting in self.state.waiting} | {one.holder for one in self.state.queue}
        idle = [
            name
            for name, holder in self.state.holders.items()
            if not holder.reserved and not holder.places and name not in waits
        ]
        for name in idle:
            self._close(name)

    def _admit(self) -> None:
        open_runs = Counter(subject for holder in self.state.holders.values() for subject in holder.places)
        left: list[Enter] = []
        for entering in self.state.queue:
            subjects = [place.subject for place in entering.places]
            if all(open_runs[place.subject] < place.most for place in entering.places):
                open_runs.update(subjects)
                self.state.holders[entering.holder].places = subjects
                self._answer(entering, LedgerAnswer(kind="admitted"))
            else:
                left.append(entering)
        self.state.queue = left

    def _refusals(self, request: Reserve, keys: list[str]) -> list[Refusal]:
        """Return what could be said against a request, for each of its budgets."""
        calendar = self.state.calendar
        assert calendar is not None  # noqa: S101  # nothing is taken in before there is one
        ends = {"day": calendar.day_ends, "month": calendar.month_ends}
        return [
            Refusal(
                budget=line.budget,
                per=line.per,
                subject=line.subject,
                cap_usd=line.usd + tally.raised,
                spent_usd=tally.spent,
                reserved_usd=tally.reserved,
                needed_usd=request.minimum,
                resets_at=ends[line.per],
            )
            for line, tally in zip(request.lines, (self.state.tallies[key] for key in keys), strict=True)
        ]

    def _room(self, request: Reserve, keys: list[str]) -> Decimal:
        """Return how much could be reserved."""
        return min(self._rooms(request, keys), default=request.wanted)

    def _rooms(self, request: Reserve, keys: list[str]) -> Iterator[Decimal]:
        for line, key in zip(request.lines, keys, strict=True):
            tally = self.state.tallies[key]
            yield line.usd + tally.raised - tally.spent - tally.reserved

    def _grant(self, request: Reserve, keys: list[str], sharers: Counter[str]) -> None:
        """Reserve between what is needed and what is wanted: where little is left, all who are there get their part."""
        holder = self.state.holders[request.holder]
        shares = [room / max(1, sharers[key]) for room, key in zip(self._rooms(request, keys), keys, strict=True)]
        share = whole(min(shares, default=request.wanted))
        amount = min(max(request.minimum, min(request.wanted, share)), self._room(request, keys))
        for key in keys:
            self.state.tallies[key].reserved += amount
        holder.reserved, holder.tallies = amount, keys
        self._answer(request, LedgerAnswer(kind="reserved", usd=amount))

    def _answer(self, request: Enter | Reserve, answer: LedgerAnswer) -> None:
        holder = self.state.holders[request.holder]
        holder.answered = answer.model_copy(update={"request_id": request.request_id})
        self._send(request.holder, holder, holder.answered)

    def _send(self, name: str, holder: Holder, answer: LedgerAnswer) -> None:
        self.state.outbox.append(Delivery(holder=name, run_id=holder.run_id, answer=answer))

    def _end_page(self, calendar: Calendar) -> None:
        if self.state.rows:
            self.state.pages.append(WrittenPage(page=self._page(calendar)))
            self.state.rows = {}

    def _page(self, calendar: Calendar) -> PageRecord:
        return PageRecord(
            org=self.state.org,
            day=calendar.day,
            number=self.state.page_number,
            ledger=self.state.ledger,
            time_zone=calendar.time_zone,
            rows=tuple(self.state.rows.values()),
        )

    def _standings(self) -> list[Standing]:
        calendar = self.state.calendar
        if calendar is None:
            return []
        ends = {calendar.day: calendar.day_ends, calendar.month: calendar.month_ends}
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
            for tally in self.state.tallies.values()
            if tally.period in ends
        ]
        return sorted(standings, key=lambda one: (one.spent_usd + one.reserved_usd) / one.cap_usd, reverse=True)[
            :MAX_STANDINGS
        ]
