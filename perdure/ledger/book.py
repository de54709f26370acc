"""The ledger's book: what is spent, reserved and wanted, and what follows from it. Pure: no clock, no outside.

For each budget, whoever has it, and each period there is a tally. What a run asks for fits, or waits in line until
others have settled, or is refused: at once when what is spent already leaves no room, else after a while. The line is
in the order in which the runs began: where there is not enough for all, some get to their end, instead of all half way.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Final

from perdure.budget import Line, whole
from perdure.ledger.contracts import (
    AddressedAnswer,
    Calendar,
    Enter,
    HolderReference,
    HolderReport,
    LedgerAnswer,
    LedgerView,
    ModelUse,
    Reserve,
    Settle,
    Statement,
    Used,
    cost_of_all,
    used_since,
)
from perdure.ledger.pages import Pages
from perdure.ledger.state import BookState, Holder, Waiting
from perdure.ledger.tallies import Tallies

PATIENCE: Final = timedelta(minutes=10)
"""How long a request waits for others to settle."""
SILENCE: Final = timedelta(minutes=5)
"""After which it is asked what became of a run that holds something."""
SILENCE_IN_NEED: Final = timedelta(minutes=1)
"""The same while others wait for what it holds."""
MAX_INSPECTED: Final = 100
"""Holders that are inquired after at once."""
MAX_REMEMBERED: Final = 500
"""Holders that hold nothing, of which it is still known what they have stated."""


class Book:
    """Takes in what runs state and want, and answers."""

    def __init__(self, state: BookState) -> None:
        self.state = state
        self.pages = Pages(state)
        self._tallies = Tallies(state)

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
                self._tallies.release(holder)
                self._line_up(message, now=now)
            case Settle():
                self._tallies.release(holder)
                self._forget_requests(message.holder)
                if message.ended:
                    self._close(message.holder)

    def serve(self, *, now: datetime) -> None:
        """Answer whoever can be answered, those first whose runs began first."""
        self._admit()
        self.state.waiting.sort(key=lambda waiting: (waiting.request.began_at or waiting.since, waiting.since))
        sharers = self._tallies.sharers(waiting.request for waiting in self.state.waiting)
        taken: set[str] = set()
        """Tallies for which somebody waits who is before in line."""
        left: list[Waiting] = []
        for waiting in self.state.waiting:
            keys = self._tallies.open(waiting.request.lines)
            answer = self._decided(waiting, keys, sharers=sharers, is_first=taken.isdisjoint(keys), now=now)
            if answer is not None:
                self._answer(waiting.request, answer)
            else:
                left.append(waiting)
                taken.update(keys)
        self.state.waiting = left
        self._let_go()

    def turn(self, calendar: Calendar) -> None:
        """Go on in another day: its usage is complete, and so are the tallies of periods that nobody holds any more."""
        before, self.state.calendar = self.state.calendar, calendar
        if before is not None and before.day != calendar.day:
            self.pages.end_day(before)
        self._tallies.prune()

    def silent(self, *, now: datetime) -> list[HolderReference]:
        """Return the holders that have not been heard of for too long."""
        limit = now - (SILENCE_IN_NEED if self.has_line else SILENCE)
        silent = [
            (holder.heard_at, HolderReference(holder=name, run_id=holder.run_id, execution_id=holder.execution_id))
            for name, holder in self.state.holders.items()
            if holder.holds_something and holder.heard_at <= limit
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
        self._count(holder, report.used or {}, lines=())
        self._tallies.release(holder)
        self._forget_requests(report.holder)
        self._close(report.holder)

    def next_due(self, *, inspecting: bool) -> datetime | None:
        """Return when something is to be done though nobody speaks; None if nothing is.

        Args:
            inspecting: It is being asked what became of silent holders; until that is told, they are not due.
        """
        state = self.state
        silence = SILENCE_IN_NEED if self.has_line else SILENCE
        holding = [] if inspecting else [holder for holder in state.holders.values() if holder.holds_something]
        due = [waiting.since + PATIENCE for waiting in state.waiting]
        due += [holder.heard_at + silence for holder in holding]
        due += [self.pages.next_due] if self.pages.next_due else []
        if state.calendar is not None and self.awaits_another_day:
            due.append(state.calendar.day_ends)
        return min(due, default=None)

    def view(self) -> LedgerView:
        """Return what the ledger shows."""
        state = self.state
        return LedgerView(
            org=state.org,
            calendar=state.calendar,
            pages=self.pages.all,
            standings=tuple(self._tallies.standings()) if state.calendar else (),
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
        self._count(holder, statement.used, lines=statement.lines)
        return holder

    def _count(self, holder: Holder, used: Used, *, lines: tuple[Line, ...]) -> None:
        """Put what was used beyond the holder's latest statement to its tallies, or to those of these budgets."""
        before, new = holder.used, used_since(used, holder.used)
        if new:
            holder.used = {**before, **{model: before.get(model, ModelUse()) + use for model, use in new.items()}}
            cost = whole(cost_of_all(holder.used)) - whole(cost_of_all(before))
            self._tallies.spend(holder.tallies or self._tallies.open(lines), cost)
            self.pages.add(holder, new)

    def _line_up(self, request: Reserve, *, now: datetime) -> None:
        if not self._tallies.can_open(request.lines):
            self._answer(request, LedgerAnswer(kind="refused", refusal=self._tallies.full(request)))
            return
        self._tallies.add(request)
        if all(waiting.request.request_id != request.request_id for waiting in self.state.waiting):
            self._forget_requests(request.holder)
            self.state.waiting.append(Waiting(request=request, since=now))

    def _decided(
        self, waiting: Waiting, keys: list[str], *, sharers: Counter[str], is_first: bool, now: datetime
    ) -> LedgerAnswer | None:
        """Return the answer to a request; None if it goes on waiting."""
        request = waiting.request
        refusals = self._tallies.refusals(request, keys)
        if spent := next((refusal for refusal in refusals if not refusal.is_lent), None):
            return LedgerAnswer(kind="refused", refusal=spent)
        if is_first and self._tallies.room(request, keys) >= request.minimum:
            holder = self.state.holders[request.holder]
            return LedgerAnswer(kind="reserved", usd=self._tallies.reserve(request, holder, keys, sharers=sharers))
        if now < waiting.since + PATIENCE:
            return None
        scarcest = min(refusals, key=lambda refusal: refusal.cap_usd - refusal.spent_usd - refusal.reserved_usd)
        return LedgerAnswer(kind="refused", refusal=scarcest)

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
        idle = [name for name, holder in self.state.holders.items() if not holder.holds_something and name not in waits]
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

    def _answer(self, request: Enter | Reserve, answer: LedgerAnswer) -> None:
        holder = self.state.holders[request.holder]
        holder.answered = answer.model_copy(update={"request_id": request.request_id})
        self._send(request.holder, holder, holder.answered)

    def _send(self, name: str, holder: Holder, answer: LedgerAnswer) -> None:
        self.state.outbox.append(AddressedAnswer(holder=name, run_id=holder.run_id, answer=answer))
