"""Money and the line of runs as events: each decision is told once, with what it was about."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from rich.console import Console

from perdure.budget import BudgetMemo, BudgetRecord, Place, Refusal, Terms
from perdure.contracts import RunResult, RunStatus
from perdure.events import (
    BudgetDowngraded,
    BudgetRaised,
    BudgetRefused,
    BudgetReserved,
    RunAdmitted,
    RunEnded,
    RunQueued,
)
from perdure.ledger.contracts import LedgerAnswer, ModelUse
from perdure.ledger.spending import used_by
from perdure.oversight import ApprovalRecord, ApprovalsMemo, PendingApproval
from perdure_workers.timeline import show
from perdure_workers.watching import Progress
from perdure_workflows.state import PurseState, RunState
from tests.unit.handmade import BEGIN, Handmade, model_call, payload, reply, words

REFUSAL = Refusal(
    budget="daily",
    per="day",
    subject="user ann",
    cap_usd=Decimal("2.00"),
    spent_usd=Decimal("1.9"),
    needed_usd=Decimal("0.3"),
    resets_at=datetime(2026, 1, 2, tzinfo=UTC),
)
TERMS = Terms(places=(Place(subject="org", most=3), Place(subject="user ann", most=1)))


def test_a_run_waits_in_line_and_is_admitted() -> None:
    """The run tells by which limits it waits, and when it has its place."""
    history = Handmade(terms=TERMS)
    history.signal("ledger", LedgerAnswer(request_id="r1", kind="admitted"))

    _, queued, admitted = history.events
    assert isinstance(queued, RunQueued)
    assert queued.limits == {"org": 3, "user ann": 1}
    assert isinstance(admitted, RunAdmitted)
    assert admitted.waited == timedelta(seconds=1)


def test_a_run_that_no_limit_counts_is_not_queued() -> None:
    """Without a limit of open runs there is no line."""
    assert Handmade(terms=Terms()).kinds() == []


def test_an_answer_that_comes_twice_is_told_once() -> None:
    """The ledger repeats itself where it must; the run takes each answer once, and so do its events."""
    history = Handmade()
    for request in ("r1", "r1", "r2"):
        history.signal("ledger", LedgerAnswer(request_id=request, kind="reserved", usd=Decimal("0.4")))
    history.signal("ledger", {"request_id": 7})
    history.signal("ledger", LedgerAnswer(request_id="r3", kind="refused", refusal=REFUSAL))

    assert history.kinds() == ["budget.reserved", "budget.reserved"]
    assert isinstance(history.last, BudgetReserved)
    assert history.last.amount_usd == Decimal("0.4")


def test_one_sees_what_a_run_waits_for_between_its_steps() -> None:
    """Its place, or somebody who allows more money; then nothing."""
    history, progress = Handmade(terms=TERMS), Progress()

    def line() -> str:
        for event in history.events:
            progress.add(event)
        history.events.clear()
        return progress.line

    assert line().endswith("waits for its place, as many runs are open as may be")
    history.signal("ledger", LedgerAnswer(request_id="r1", kind="admitted"))
    assert line().endswith("goes on")
    asked = PendingApproval(
        approval_id="budget-1", kind="budget", tool="", arguments={}, digest="", step=1, asked_at=BEGIN
    )
    history.memo(
        ApprovalsMemo(pending=(asked,), changes=(ApprovalRecord(kind="asked", at=BEGIN, approval_id="budget-1"),))
    )
    assert line().endswith("waits for more money: budget-1")
    history.memo(ApprovalsMemo(changes=(ApprovalRecord(kind="approved", at=BEGIN, approval_id="budget-1"),)))
    assert line().endswith("goes on")


def test_what_became_of_a_budget_is_told_by_the_memo() -> None:
    """A refusal says all that one must know, a raise who allowed it, a downgrade what the run goes on with."""
    history = Handmade()
    changes = (
        BudgetRecord(kind="refused", at=BEGIN, refusal=REFUSAL),
        BudgetRecord(kind="raised", at=BEGIN, budget="daily", amount_usd=Decimal(5), by="bob"),
        BudgetRecord(kind="downgraded", at=BEGIN, model="anthropic:cheap"),
    )
    history.remember("budget", BudgetMemo(changes=changes))

    _, refused, raised, downgraded = history.events
    assert isinstance(refused, BudgetRefused)
    assert (refused.budget, refused.subject, refused.resets_at) == ("daily", "user ann", REFUSAL.resets_at)
    assert refused.reason == (
        "budget 'daily' of user ann: of $2 for today, $1.9 is spent, and the next call can cost $0.3; "
        "it begins anew at 2026-01-02 00:00 UTC"
    )
    assert isinstance(raised, BudgetRaised)
    assert (raised.amount_usd, raised.by) == (Decimal(5), "bob")
    assert isinstance(downgraded, BudgetDowngraded)
    assert downgraded.model == "anthropic:cheap"


def test_the_end_says_which_budget_it_was() -> None:
    """A run that is out of budget names it, in words and for programs, in its events and in its timeline."""
    history = Handmade(terms=TERMS)
    history.remember("budget", BudgetMemo(changes=(BudgetRecord(kind="refused", at=BEGIN, refusal=REFUSAL),)))
    result = RunResult(status=RunStatus.OUT_OF_BUDGET, output="so far", reason=REFUSAL.why, refusal=REFUSAL)
    history.add("workflow_execution_completed", result={"payloads": [payload(result)]})
    written = io.StringIO()

    show(history.events, Console(file=written, width=100), now=BEGIN)

    assert isinstance(history.last, RunEnded)
    assert (history.last.reason, history.last.refusal) == (REFUSAL.why, REFUSAL)
    text = " ".join(written.getvalue().split())
    for piece in (
        "no budget daily",
        "$1.90 of $2.00",
        "out_of_budget",
    ):
        assert piece in text, piece
    assert text.count("it begins anew at") == 1


def test_what_a_dead_run_used_follows_from_its_history() -> None:
    """Every reply counts, by the model that was asked; after a reset, only what came behind it."""
    history = Handmade()
    history.model_call(1, words("one"))
    history.model_call(2, words("two"))
    before = used_by(history.history)

    history.add("workflow_task_failed", cause="WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW")
    history.model_call(3, words("three"))

    assert {model: use.calls for model, use in before.items()} == {"anthropic:claude": 2}
    assert before["anthropic:claude"].usage.input_tokens == 20
    assert {model: use.calls for model, use in used_by(history.history).items()} == {"anthropic:claude": 1}


def test_what_a_dead_runs_other_model_used_is_that_models() -> None:
    """Where a fallback answered, it is the one that was paid."""
    history = Handmade()
    scheduled = history.schedule("call_model", model_call(1))
    history.complete(scheduled, reply(words("one")).model_copy(update={"reference": "openai:gpt"}))

    assert {model: use.calls for model, use in used_by(history.history).items()} == {"openai:gpt": 1}


def test_a_dead_run_had_used_something_before_this_execution() -> None:
    """What earlier executions of the run used is carried along, and counts."""
    carried = RunState(
        deadline=BEGIN, purse=PurseState(used={"anthropic:claude": ModelUse(calls=3, cost_usd=Decimal(1))})
    )
    history = Handmade(execution=1, state=carried)
    history.model_call(9, words("nine"))

    assert used_by(history.history)["anthropic:claude"].calls == 4
