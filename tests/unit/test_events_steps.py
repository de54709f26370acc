"""Steps: one per model call or tool call, with everything that became of it."""

from __future__ import annotations

from datetime import timedelta

from perdure.events import Step, StepStatus, steps
from perdure.messages import ToolResult
from perdure.oversight import ApprovalsMemo
from tests.unit.handmade import BEGIN, Handmade, heard, outcome, wish, words
from tests.unit.test_events import BROKEN, TIMEOUT, pending, record


def step(history: Handmade, number: int) -> Step:
    """Return a step as the history has it by now."""
    return next(step for step in steps(history.events) if step.number == number)


def asking() -> Handmade:
    """A history in which a human is asked about step 2."""
    history = Handmade()
    history.model_call(1, wish())
    history.memo(ApprovalsMemo(pending=(pending(),), changes=(record("asked"),)))
    return history


def test_a_model_call_has_its_words_tokens_and_time() -> None:
    """Everything that a bill or a page needs is in the step."""
    history = Handmade()

    history.model_call(1, words("Hello."))

    one = step(history, 1)
    assert (one.kind, one.name, one.status, one.text) == ("model", "claude-1", StepStatus.COMPLETED, "Hello.")
    assert one.usage
    assert (one.usage.output_tokens, one.cost_usd) == (5, None)
    assert (one.started_at, one.duration) == (BEGIN + timedelta(seconds=1), timedelta(seconds=2))


def test_a_call_is_a_step_from_the_moment_the_model_asks_for_it() -> None:
    """Its status follows it: requested, waiting, requested, running, completed."""
    history = asking()
    seen = [step(history, 2).status]
    history.memo(ApprovalsMemo(changes=(record("approved", decided_by="ann", reason="fair"),)))
    seen.append(step(history, 2).status)
    scheduled = history.tool_call(2)
    seen.append(step(history, 2).status)
    history.complete(scheduled, outcome("found"))

    two = step(history, 2)

    assert seen == [StepStatus.WAITING, StepStatus.REQUESTED, StepStatus.RUNNING]
    assert (two.status, two.result, two.arguments) == (StepStatus.COMPLETED, "found", {"order_id": "A1"})
    [approval] = two.approvals
    assert (approval.decision, approval.decided_by, approval.decision_reason) == ("approved", "ann", "fair")
    assert (approval.reason, approval.waited) == ("refund needs an approval", timedelta(seconds=10))


def test_an_approval_that_history_writes_behind_its_call_does_not_set_the_call_back() -> None:
    """Both come from one turn of the run, the call first."""
    history = asking()
    history.tool_call(2)

    history.memo(ApprovalsMemo(changes=(record("approved"),)))

    assert step(history, 2).status is StepStatus.RUNNING


def test_a_rejected_call_stays_rejected_when_the_model_hears_of_it() -> None:
    """The words that the model reads are the step's result."""
    history = asking()
    history.memo(ApprovalsMemo(changes=(record("rejected", decided_by="bob"),)))

    history.model_call(3, tail=heard(ToolResult(call_id="p1", content="Rejected by bob", is_error=True)))

    assert (step(history, 2).status, step(history, 2).result) == (StepStatus.REJECTED, "Rejected by bob")


def test_a_lost_call_that_is_made_again_adds_up() -> None:
    """Attempts and time of both dispatches count, and the last one's end is the step's."""
    history = Handmade()
    history.model_call(1, wish())
    lost = history.tool_call(2, effect="once")
    history.fail(lost, TIMEOUT)
    assert step(history, 2).status is StepStatus.LOST
    again = history.tool_call(2, effect="once")

    history.complete(again, outcome("paid"))

    two = step(history, 2)
    assert (two.status, two.attempts, two.error, two.result) == (StepStatus.COMPLETED, 2, None, "paid")
    assert two.duration == timedelta(seconds=2)


def test_a_call_that_failed_for_good_keeps_why() -> None:
    """The error is the step's, the attempts show how often it was tried."""
    history = Handmade()
    history.model_call(1, wish())
    scheduled = history.tool_call(2)
    history.start(scheduled, attempt=3)

    history.fail(scheduled, BROKEN)

    two = step(history, 2)
    assert (two.status, two.attempts, two.error) == (StepStatus.FAILED, 3, "find_order raised KeyError")


def test_what_is_open_when_the_run_ends_is_unfinished() -> None:
    """No step goes on after its run."""
    history = asking()

    history.add("workflow_execution_terminated")

    assert [one.status for one in steps(history.events)] == [StepStatus.COMPLETED, StepStatus.UNFINISHED]


def test_events_from_the_middle_of_a_run_make_the_steps_they_can() -> None:
    """A client that joined late sees a call without the reply that asked for it."""
    history = Handmade()
    history.tool_call(7)

    [only] = steps(history.events[1:])

    assert (only.number, only.name, only.status) == (7, "find_order", StepStatus.RUNNING)
