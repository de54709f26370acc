"""The ledger's book: whatever runs ask, spend and do, in any order, no budget is overdrawn and nothing stays held."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure.budget import Line, Place
from perdure.contracts import Usage
from perdure.ledger.book import PATIENCE, SILENCE, SILENCE_IN_NEED, Book
from perdure.ledger.calendar import calendar_at
from perdure.ledger.contracts import (
    Enter,
    HolderReport,
    LedgerAnswer,
    ModelUse,
    Raise,
    Reserve,
    Settle,
    Used,
    cost_of_all,
)
from perdure.ledger.pages import PAGE_ROWS
from perdure.ledger.state import BookState
from perdure.ledger.tallies import Tallies

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
DAY = Line(budget="daily", per="day", subject="org", usd=Decimal(10))
MONTH = Line(budget="monthly", per="month", subject="org", usd=Decimal(25))
ANN = Line(budget="each user", per="day", subject="user ann", usd=Decimal(4))
BOB = Line(budget="each user", per="day", subject="user bob", usd=Decimal(4))


def used(cost: str | Decimal, *, calls: int = 1, model: str = "m:1") -> Used:
    """Return so many calls of a model at this cost together."""
    usage = Usage(input_tokens=10 * calls, output_tokens=calls)
    return {model: ModelUse(calls=calls, usage=usage, cost_usd=Decimal(cost))}


class Desk:
    """A book with a clock, and the answers that it gave."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now
        self.book = Book(BookState(org="acme"))
        self.book.turn(calendar_at(now, time_zone="UTC"))

    def reserve(self, holder: str, minimum: str | Decimal, wanted: str | Decimal, **more: Any) -> None:
        """Have a run ask."""
        fields = {"lines": (DAY,), "user": "ann", "agent": "support", "request_id": uuid.uuid4().hex, **more}
        message = Reserve(
            holder=holder, run_id=f"run-{holder}", minimum=Decimal(minimum), wanted=Decimal(wanted), **fields
        )
        self.book.take(message, now=self.now)
        self.book.serve(now=self.now)

    def settle(self, holder: str, total: Used | None = None, *, ended: bool = True, **more: Any) -> None:
        """Have a run give back what it holds."""
        fields = {"lines": (DAY,), "user": "ann", "agent": "support", **more}
        message = Settle(holder=holder, run_id=f"run-{holder}", used=total or {}, ended=ended, **fields)
        self.book.take(message, now=self.now)
        self.book.serve(now=self.now)

    def enter(self, holder: str, *places: Place) -> None:
        """Have a run ask for a place."""
        message = Enter(holder=holder, run_id=f"run-{holder}", places=places, request_id=uuid.uuid4().hex)
        self.book.take(message, now=self.now)
        self.book.serve(now=self.now)

    def passes(self, time: timedelta) -> None:
        """Let time pass."""
        self.now += time
        calendar = self.book.state.calendar
        if calendar is None or self.now >= calendar.day_ends:
            self.book.turn(calendar_at(self.now, time_zone="UTC"))
        self.book.serve(now=self.now)

    def answers(self) -> dict[str, LedgerAnswer]:
        """Take the answers out, by holder."""
        answers = {delivery.holder: delivery.answer for delivery in self.book.state.outbox}
        self.book.state.outbox.clear()
        return answers

    @property
    def kinds(self) -> dict[str, str]:
        """Take the answers out, and return what kind each is."""
        return {holder: answer.kind for holder, answer in self.answers().items()}

    def tally(self, budget: str = "daily") -> tuple[object, object]:
        """Return what is spent and reserved of a budget, in the period that is going on."""
        [tally] = [one for one in self.book.state.tallies.values() if one.line.budget == budget]
        return tally.spent, tally.reserved


def test_a_run_gets_what_it_wants_while_there_is_plenty() -> None:
    """A block for several calls is granted whole, and nobody is asked twice."""
    desk = Desk()

    desk.reserve("a", "0.10", "0.40")

    answer = desk.answers()["a"]
    assert (answer.kind, answer.usd) == ("reserved", Decimal("0.40"))
    assert desk.tally() == (0, Decimal("0.40"))


def test_little_is_shared() -> None:
    """Where not everybody can have what they want, those who come first do not take all of it."""
    desk = Desk()
    desk.reserve("a", "1", "10")
    desk.reserve("b", "1", "10")
    desk.reserve("c", "1", "10")

    amounts = {holder: answer.usd for holder, answer in desk.answers().items()}

    assert amounts["a"] == 10 - 0  # it was alone
    assert "b" not in amounts
    assert [waiting.request.holder for waiting in desk.book.state.waiting] == ["b", "c"]


def test_those_who_ask_together_share() -> None:
    """Of a burst of requests each gets its part, at least what it needs."""
    desk = Desk()
    for holder in "abcd":
        message = Reserve(
            holder=holder,
            run_id=holder,
            minimum=Decimal(1),
            wanted=Decimal(8),
            lines=(DAY,),
            request_id=f"request-{holder}",
        )
        desk.book.take(message, now=desk.now)

    desk.book.serve(now=desk.now)

    amounts = [answer.usd for answer in desk.answers().values()]
    assert len(amounts) == 4
    assert max(amounts) == Decimal("2.5")
    assert min(amounts) >= 1
    assert sum(amounts) <= 10


def test_who_asks_again_gives_back_first() -> None:
    """What a run still holds counts for its next request, and what it spent is spent."""
    desk = Desk()
    desk.reserve("a", "4", "9")

    desk.reserve("a", "5", "9", used=used("1"))

    assert desk.answers()["a"].usd == 9
    assert desk.tally() == (1, 9)


def test_a_request_waits_for_others_to_settle() -> None:
    """Nothing is refused that fits once the others have settled; it is granted then."""
    desk = Desk()
    desk.reserve("a", "8", "8")
    desk.reserve("b", "4", "4")
    assert desk.kinds == {"a": "reserved"}

    desk.settle("a", used("2"))

    assert desk.kinds == {"b": "reserved"}
    assert desk.tally() == (2, 4)


def test_a_request_that_can_never_fit_is_refused_at_once() -> None:
    """What is spent leaves no room: the refusal names the budget and when it begins anew."""
    desk = Desk()
    desk.settle("a", used("9"))
    desk.reserve("b", "2", "2")

    answer = desk.answers()["b"]

    assert answer.kind == "refused"
    assert answer.refusal is not None
    assert (answer.refusal.budget, int(answer.refusal.spent_usd), int(answer.refusal.cap_usd)) == ("daily", 9, 10)
    assert answer.refusal.resets_at == datetime(2026, 11, 28, tzinfo=UTC)
    assert answer.refusal.why == (
        "budget 'daily': of $10 for today, $9 is spent, and the next call can cost $2; "
        "it begins anew at 2026-11-28 00:00 UTC"
    )


def test_a_request_does_not_wait_for_ever() -> None:
    """What others keep reserved is refused after a while, and the refusal says so."""
    desk = Desk()
    desk.reserve("a", "8", "8")
    desk.reserve("b", "4", "4")
    desk.passes(PATIENCE - timedelta(seconds=1))
    assert desk.kinds == {"a": "reserved"}

    desk.passes(timedelta(seconds=1))

    refusal = desk.answers()["b"].refusal
    assert refusal is not None
    assert "$8 is reserved by other runs" in refusal.why


def test_first_come_first_served() -> None:
    """A small request does not pass a large one that waits for the same budget, and does one that waits for another."""
    desk = Desk()
    desk.reserve("a", "8", "8")
    desk.reserve("large", "4", "4")
    desk.reserve("small", "1", "1")
    desk.reserve("other", "1", "1", lines=(BOB,))
    assert desk.kinds == {"a": "reserved", "other": "reserved"}

    desk.settle("a")

    assert desk.kinds == {"large": "reserved", "small": "reserved"}


def test_runs_that_began_earlier_get_to_their_end() -> None:
    """Where there is not enough for all, a run under way comes before one that has just begun."""
    desk = Desk()
    desk.reserve("old", "4", "4", began_at=NOON - timedelta(hours=1))
    desk.reserve("other", "5", "5", began_at=NOON - timedelta(minutes=5))
    desk.reserve("new", "4", "4", began_at=NOON)
    assert desk.kinds == {"old": "reserved", "other": "reserved"}

    desk.reserve("old", "5", "5", used=used("1"), began_at=NOON - timedelta(hours=1))
    desk.settle("other", used("1"))

    assert desk.kinds == {"old": "reserved"}


def test_each_of_several_budgets_must_have_room() -> None:
    """A run reserves in all budgets that count it or in none, and the one without room is named."""
    desk = Desk()
    desk.reserve("a", "3", "9", lines=(DAY, MONTH, ANN))
    assert desk.answers()["a"].usd == 4

    desk.settle("a", used("3"), lines=(DAY, MONTH, ANN))
    desk.reserve("b", "2", "2", lines=(DAY, MONTH, ANN))
    desk.reserve("c", "2", "2", lines=(DAY, MONTH, BOB), user="bob")

    answers = desk.answers()
    assert answers["b"].refusal is not None
    assert (answers["b"].refusal.budget, answers["b"].refusal.subject) == ("each user", "user ann")
    assert answers["c"].kind == "reserved"
    assert desk.tally("monthly") == (3, 2)


def test_a_reservation_counts_in_the_period_in_which_it_was_made() -> None:
    """What was reserved before midnight and spent after it belongs to the day before."""
    desk = Desk(NOON.replace(hour=23, minute=55))
    desk.reserve("a", "5", "5", lines=(DAY, MONTH))
    desk.passes(timedelta(minutes=10))
    assert desk.book.state.calendar is not None
    assert desk.book.state.calendar.day == "2026-11-28"

    desk.reserve("a", "5", "5", lines=(DAY, MONTH), used=used("4"))

    spent = {tally.period: (int(tally.spent), int(tally.reserved)) for tally in desk.book.state.tallies.values()}
    assert spent == {"2026-11-27": (4, 0), "2026-11": (4, 5), "2026-11-28": (0, 5)}
    desk.passes(timedelta(days=1))
    assert {tally.period for tally in desk.book.state.tallies.values()} == {"2026-11", "2026-11-28"}


def test_a_new_day_has_its_whole_budget() -> None:
    """Who waits or comes after midnight finds the day's budget full again, and the month's as it was."""
    desk = Desk(NOON.replace(hour=23, minute=55))
    desk.settle("a", used("10"), lines=(DAY, MONTH))
    desk.reserve("b", "1", "1", lines=(DAY, MONTH))
    assert desk.kinds == {"b": "refused"}

    desk.passes(timedelta(minutes=5))
    desk.reserve("b", "1", "1", lines=(DAY, MONTH))

    assert desk.kinds == {"b": "reserved"}
    assert desk.tally("monthly") == (10, 1)


def test_a_statement_that_is_heard_twice_counts_once() -> None:
    """Statements are cumulative: repeated, late or out of order, they add nothing."""
    desk = Desk()
    desk.reserve("a", "5", "5")
    for total in (used("2", calls=2), used("1", calls=1), used("2", calls=2)):
        desk.settle("a", total, ended=False)
    desk.settle("a", used("3", calls=3))
    desk.settle("a", used("3", calls=3))

    assert desk.tally() == (3, 0)
    assert [row.use.calls for row in desk.book.state.rows.values()] == [3]
    assert desk.book.state.holders == {}


def test_a_holder_that_is_forgotten_says_itself_what_was_known() -> None:
    """However long a run was silent, only what it had not stated before is added."""
    desk = Desk()

    desk.settle("a", used("5", calls=5), known=used("4", calls=4))

    assert desk.tally() == (1, 0)


def test_a_repeated_request_is_answered_again() -> None:
    """A run that lost its answer asks once more and gets the same one; nothing is reserved twice."""
    desk = Desk()
    desk.reserve("a", "2", "4", request_id="r1")
    first = desk.answers()["a"]

    desk.reserve("a", "2", "4", request_id="r1")

    assert desk.answers()["a"] == first
    assert desk.tally() == (0, 4)


def test_a_dead_run_lets_go() -> None:
    """A run that is not heard of is inquired after; what it used counts, what it held is free for who waits."""
    desk = Desk()
    desk.reserve("dead", "8", "8")
    desk.reserve("alive", "1", "1")
    desk.answers()
    assert desk.book.silent(now=desk.now + SILENCE - timedelta(seconds=1)) == []
    desk.reserve("waits", "5", "5")
    desk.now += SILENCE_IN_NEED
    silent = {reference.holder for reference in desk.book.silent(now=desk.now)}
    assert silent == {"dead", "alive"}

    desk.book.find(HolderReport(holder="alive", open=True, execution_id="e2"), now=desk.now)
    desk.book.find(HolderReport(holder="dead", open=False, execution_id="e1", used=used("3")), now=desk.now)
    desk.book.serve(now=desk.now)

    assert desk.kinds == {"waits": "reserved"}
    assert desk.tally() == (3, 6)
    assert desk.book.silent(now=desk.now) == []


def test_a_human_puts_more_into_a_budget_once() -> None:
    """A raise holds for whoever the budget counts, for the period, and a repeated one adds nothing."""
    desk = Desk()
    desk.settle("a", used("10"))
    more = Raise(budget="daily", subject="org", usd=Decimal(5), by="ann", approval_id="run-b:budget-1")

    desk.reserve("b", "2", "2", raises=(more,))
    desk.reserve("b", "2", "2", raises=(more,))
    desk.reserve("c", "3", "3")
    desk.reserve("d", "1", "1")

    assert [desk.answers()[holder].kind for holder in "b"] == ["reserved"]
    assert desk.tally() == (10, 5)
    assert [waiting.request.holder for waiting in desk.book.state.waiting] == ["d"]


ORG = Place(subject="org", most=3)
USER = Place(subject="user ann", most=1)
OTHER = Place(subject="user bob", most=1)


def test_runs_beyond_the_cap_are_admitted_as_others_end() -> None:
    """First come, first served, but nobody is held up by a limit that does not count them."""
    desk = Desk()
    desk.enter("ann-1", ORG, USER)
    desk.enter("ann-2", ORG, USER)
    desk.enter("ann-3", ORG, USER)
    desk.enter("bob-1", ORG, OTHER)
    assert desk.kinds == {"ann-1": "admitted", "bob-1": "admitted"}

    desk.settle("ann-1", places=(ORG, USER))
    assert desk.kinds == {"ann-2": "admitted"}

    desk.settle("ann-3", places=(ORG, USER))  # it was cancelled in the queue
    desk.settle("ann-2", places=(ORG, USER))
    assert desk.kinds == {}
    assert desk.book.state.queue == []


def test_a_run_that_gives_back_its_money_keeps_its_place() -> None:
    """Waiting for a human ends a reservation, not the run."""
    desk = Desk()
    desk.enter("a", USER)
    desk.settle("a", ended=False, places=(USER,))
    desk.enter("b", USER)

    assert desk.kinds == {"a": "admitted"}


def test_usage_is_kept_by_user_agent_model_and_day() -> None:
    """A day's rows become pages when the next day begins; no page is larger than Temporal takes."""
    desk = Desk()
    for number in range(PAGE_ROWS + 2):
        desk.settle(f"run-{number}", used("0.01"), user=f"user-{number}", lines=())
    desk.settle("again", used("0.02", calls=2), user=f"user-{PAGE_ROWS + 1}", lines=())

    desk.passes(timedelta(days=1))

    first, second = desk.book.pages.unwritten
    assert (first.day, first.number, len(first.rows)) == ("2026-11-27", 0, PAGE_ROWS)
    assert (second.day, second.number, len(second.rows)) == ("2026-11-27", 1, 2)
    assert second.rows[1].use.calls == 3
    assert desk.book.pages.open is None
    desk.book.pages.written(first, now=desk.now)
    assert desk.book.pages.unwritten == [second]


def test_a_full_ledger_refuses_whom_it_cannot_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps counting for those whom it knows, and makes room by forgetting whoever has spent nothing."""
    monkeypatch.setattr("perdure.ledger.tallies.MAX_TALLIES", 2)
    desk = Desk()
    desk.settle("a", used("1"), lines=(ANN,))
    desk.reserve("b", "1", "1", lines=(BOB,), user="bob")
    cat = Line(budget="each user", per="day", subject="user cat", usd=Decimal(4))
    desk.reserve("c", "1", "1", lines=(cat,), user="cat")
    desk.reserve("d", "1", "1", lines=(ANN,))

    answers = desk.answers()
    assert answers["c"].refusal is not None
    assert "not for another" in answers["c"].refusal.why
    assert (answers["b"].kind, answers["d"].kind) == ("reserved", "reserved")

    desk.settle("b", lines=(BOB,), user="bob")
    desk.reserve("c", "1", "1", lines=(cat,), user="cat")
    assert desk.kinds == {"c": "reserved"}


def test_something_is_due_only_while_something_is_held() -> None:
    """An idle ledger sleeps without a timer."""
    desk = Desk()
    assert desk.book.next_due(inspecting=False) is None

    desk.reserve("a", "1", "1")
    assert desk.book.next_due(inspecting=False) == desk.now + SILENCE
    assert desk.book.next_due(inspecting=True) is None

    desk.settle("a", used("1"))
    assert desk.book.next_due(inspecting=False) == datetime(2026, 11, 28, tzinfo=UTC)


@given(costs=st.lists(st.decimals("0.000000001", "2", places=9), min_size=1, max_size=12), data=st.data())
def test_the_order_of_settling_changes_no_sum(costs: list[Decimal], data: st.DataObject) -> None:
    """Whoever settles first, the same is spent in the end, and by the same rows."""

    def settled(order: list[int]) -> tuple[object, Mapping[str, Used]]:
        desk = Desk()
        for number, cost in enumerate(costs):
            desk.reserve(f"r{number}", cost, cost, user=f"u{number % 2}")
        for number in order:
            desk.settle(f"r{number}", used(costs[number]), user=f"u{number % 2}")
        return desk.tally(), {name: {"": row.use} for name, row in sorted(desk.book.state.rows.items())}

    order = data.draw(st.permutations(range(len(costs))))

    assert settled(order) == settled(list(range(len(costs))))


CAP = Decimal(10)
LINES: dict[str, tuple[Line, ...]] = {"ann": (DAY, MONTH, ANN), "bob": (DAY, BOB), "cat": (MONTH,)}


class Run:
    """A run as the book knows it, and as it is."""

    def __init__(self, user: str) -> None:
        self.name = uuid.uuid4().hex
        self.user = user
        self.held = Decimal(0)
        self.calls = 0
        self.spent = Decimal(0)
        self.waits = ""
        self.dead = False

    @property
    def used(self) -> Used:
        """What it states."""
        return used(self.spent, calls=self.calls) if self.calls else {}


class LedgerMachine(RuleBasedStateMachine):
    """Runs that ask, spend, settle, die and are raised, days that pass: in every order."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(NOON.replace(hour=20))
        self.runs: list[Run] = []
        self.raised: dict[str, Decimal] = {}

    def alive(self, chosen: Callable[[Run], bool]) -> list[Run]:
        """Return the runs that something can happen to."""
        return [run for run in self.runs if not run.dead and chosen(run)]

    def hear(self) -> None:
        """Have the runs take their answers in."""
        answers = self.desk.answers()
        for run in self.runs:
            if (answer := answers.get(run.name)) and answer.request_id == run.waits:
                run.waits = ""
                run.held = answer.usd

    @rule(user=st.sampled_from(sorted(LINES)))
    def start(self, user: str) -> None:
        """A run begins."""
        self.runs.append(Run(user))

    @precondition(lambda self: self.alive(lambda run: not run.waits))
    @rule(
        data=st.data(),
        minimum=st.decimals("0.01", "6", places=3),
        more=st.decimals("0", "6", places=3),
        adds=st.booleans(),
    )
    def ask(self, data: st.DataObject, minimum: Decimal, more: Decimal, adds: bool) -> None:
        """A run asks for its next calls; perhaps a human has allowed more."""
        run = data.draw(st.sampled_from(self.alive(lambda run: not run.waits)))
        run.waits, run.held = uuid.uuid4().hex, Decimal(0)
        line = LINES[run.user][0]
        raises = (
            Raise(budget=line.budget, subject=line.subject, usd=Decimal(1), by="ann", approval_id=uuid.uuid4().hex),
        )
        if adds:
            period = Tallies(self.desk.book.state).keys((line,))[0]
            self.raised[period] = self.raised.get(period, Decimal(0)) + 1
        self.desk.reserve(
            run.name,
            minimum,
            minimum + more,
            request_id=run.waits,
            lines=LINES[run.user],
            user=run.user,
            used=run.used,
            raises=raises if adds else (),
        )
        self.hear()

    @precondition(lambda self: self.alive(lambda run: run.held > 0))
    @rule(data=st.data(), share=st.decimals("0", "1", places=2))
    def spend(self, data: st.DataObject, share: Decimal) -> None:
        """A run makes a call that costs at most what it holds."""
        run = data.draw(st.sampled_from(self.alive(lambda run: run.held > 0)))
        cost = run.held * share
        run.calls, run.spent, run.held = run.calls + 1, run.spent + cost, run.held - cost

    @precondition(lambda self: self.alive(lambda run: True))
    @rule(data=st.data(), ended=st.booleans(), twice=st.booleans())
    def settle(self, data: st.DataObject, ended: bool, twice: bool) -> None:
        """A run gives back what it holds, because it waits or because it ends."""
        run = data.draw(st.sampled_from(self.alive(lambda run: True)))
        for _ in range(1 + twice):
            self.desk.settle(run.name, run.used, ended=ended, lines=LINES[run.user], user=run.user)
        run.held, run.waits = Decimal(0), ""
        if ended:
            self.runs.remove(run)
        self.hear()

    @precondition(lambda self: self.alive(lambda run: True))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A run is terminated, and says nothing."""
        data.draw(st.sampled_from(self.alive(lambda run: True))).dead = True

    @rule(time=st.sampled_from([timedelta(seconds=40), timedelta(minutes=6), timedelta(hours=5)]))
    def wait(self, time: timedelta) -> None:
        """Time passes; who is silent is inquired after."""
        self.desk.passes(time)
        self.hear()
        for reference in self.desk.book.silent(now=self.desk.now):
            [run] = [run for run in self.runs if run.name == reference.holder]
            self.desk.book.find(
                HolderReport(holder=run.name, open=not run.dead, execution_id="", used=run.used if run.dead else None),
                now=self.desk.now,
            )
            if run.dead:
                self.runs.remove(run)
        self.desk.book.serve(now=self.desk.now)
        self.hear()

    @invariant()
    def no_budget_is_overdrawn(self) -> None:
        """What is spent and reserved never passes what there is."""
        for key, tally in self.desk.book.state.tallies.items():
            assert tally.spent + tally.reserved <= tally.line.usd + self.raised.get(key, Decimal(0)), key
            assert tally.reserved >= 0

    @invariant()
    def every_reservation_has_its_holder(self) -> None:
        """What a tally has reserved is what its holders hold, and each run holds no more than that."""
        held: dict[str, Decimal] = {}
        for holder in self.desk.book.state.holders.values():
            for key in holder.tallies:
                held[key] = held.get(key, Decimal(0)) + holder.reserved
        for key, tally in self.desk.book.state.tallies.items():
            assert tally.reserved == held.get(key, Decimal(0))
        for run in self.runs:
            if run.held:
                assert run.held <= self.desk.book.state.holders[run.name].reserved

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Whoever waits for an answer waits in the book."""
        waiting = {one.request.request_id for one in self.desk.book.state.waiting}
        assert all(run.waits in waiting for run in self.runs if run.waits and not run.dead)

    def teardown(self) -> None:
        """At the end of it all, everything that was granted is settled or released, and counted."""
        for run in list(self.runs):
            if run.dead:
                report = HolderReport(holder=run.name, open=False, execution_id="", used=run.used)
                self.desk.book.find(report, now=self.desk.now)
            else:
                self.desk.settle(run.name, run.used, lines=LINES[run.user], user=run.user)
        assert all(tally.reserved == 0 for tally in self.desk.book.state.tallies.values())
        assert self.desk.book.state.holders == {}
        assert self.desk.book.state.waiting == []


TestLedgerMachine = pytest.mark.timeout(120)(LedgerMachine.TestCase)
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_cost_of_all_is_the_sum_over_models() -> None:
    """A statement's cost is that of all its models."""
    assert cost_of_all(used("1") | used("2", model="m:2")) == 3
