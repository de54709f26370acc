"""Every decision of a policy carries its rule into the events, wherever history holds it."""

from __future__ import annotations

import pytest

from perdure.activities import ModelCall
from perdure.contracts import RunResult, RunStatus
from perdure.events import ApprovalAsked, RunEvent, StepStatus, ToolAnswered, ToolCalled, steps
from perdure.events.payloads import CarriedState, OpenCall
from perdure.messages import ToolMessage, ToolResult, canonical, digest_of
from perdure.oversight import ApprovalsMemo
from tests.unit.handmade import Handmade, heard, model_call, outcome, payload, tool_call, wish, words
from tests.unit.test_events import pending, record

DENIED = ToolResult(call_id="p1", content="Denied by the policy (no refunds).", is_error=True, denied_by="no refunds")


def answers(history: Handmade) -> list[tuple[int | None, str | None, str]]:
    """Return the step, text and rule of each call that was answered without a dispatch."""
    return [(one.step, one.content, one.rule) for one in history.events if isinstance(one, ToolAnswered)]


def rule_of(history: Handmade, number: int) -> str:
    """Return the rule of a step."""
    return next(step.rule for step in steps(history.events) if step.number == number)


def test_a_call_that_runs_names_the_rule_that_let_it() -> None:
    """The call's input holds it; so do the event and the step."""
    history = Handmade()
    history.model_call(1, wish())

    scheduled = history.schedule("call_tool", tool_call(2).model_copy(update={"rule": "small refunds"}))
    history.complete(scheduled, outcome("found"))

    called = history.events[-2]
    assert isinstance(called, ToolCalled)
    assert (called.rule, rule_of(history, 2)) == ("small refunds", "small refunds")


def test_a_question_names_the_rule_that_asks() -> None:
    """An approver sees which rule wants them, and the step keeps it after a rejection."""
    history = Handmade()
    history.model_call(1, wish())
    asked = pending().model_copy(update={"rule": "large refunds"})
    history.memo(ApprovalsMemo(pending=(asked,), changes=(record("asked"),)))
    question = history.last

    history.memo(ApprovalsMemo(changes=(record("rejected", decided_by="ann"),)))

    assert isinstance(question, ApprovalAsked)
    assert (question.rule, rule_of(history, 2)) == ("large refunds", "large refunds")


def test_a_denial_names_its_rule_when_the_model_hears_of_it() -> None:
    """The answer is told with its text, and the step is an error with a rule."""
    history = Handmade()
    history.model_call(1, wish())

    history.model_call(3, words("I see."), tail=heard(DENIED))

    assert answers(history) == [(2, DENIED.content, "no refunds")]
    [_, step, _] = steps(history.events)
    assert (step.status, step.result, step.rule) == (StepStatus.DENIED, DENIED.content, "no refunds")


def test_a_denial_is_told_where_the_answers_are_too_large_to_be_repeated() -> None:
    """The model call then names the steps and rules alone."""
    history = Handmade()
    history.model_call(1, wish("p1"), wish("p2"))
    call = ModelCall.model_validate({**model_call(4).model_dump(), "denied": {2: "no refunds"}})

    history.schedule("call_model", call)

    assert answers(history) == [(2, None, "no refunds"), (3, None, "")]


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED])
def test_a_denial_is_told_of_a_run_that_ends_on_it(status: RunStatus) -> None:
    """At a limit, a failure or a cancellation no model call follows; the run's result then has it."""
    history = Handmade()
    history.model_call(1, wish())
    result = RunResult(status=status, denied={2: "no refunds"})

    match status:
        case RunStatus.COMPLETED:
            history.add("workflow_execution_completed", result={"payloads": [payload(result)]})
        case RunStatus.FAILED:
            details = {"details": {"payloads": [payload(result)]}}
            history.add("workflow_execution_failed", failure={"message": "x", "applicationFailureInfo": details})
        case _:
            history.add("workflow_properties_modified", upsertedMemo={"fields": {"result": payload(result)}})
            history.add("workflow_execution_canceled")

    assert answers(history) == [(2, None, "no refunds")]
    assert history.kinds()[-2:] == ["tool.answered", "run.ended"]


@pytest.mark.parametrize("closed", [True, False], ids=["closed turn", "open turn"])
def test_a_denial_is_told_once_across_executions(closed: bool) -> None:
    """It is handed over with the state; the next execution's model call, which names it too, tells nothing twice."""
    history = Handmade()
    history.model_call(1, wish())
    open_calls = () if closed else (OpenCall(step=2, provider_id="p1", tool="find_order", result=DENIED),)
    state = CarriedState(calls=open_calls, tail=heard(DENIED) if closed else (), denied={2: "no refunds"})
    history.add(
        "workflow_execution_continued_as_new",
        newExecutionRunId="next-id",
        input={"payloads": [payload({"state": state.model_dump(mode="json")})]},
    )
    following = Handmade(execution=1, state=state)
    call = ModelCall.model_validate({**model_call(3).model_dump(), "tail": heard(DENIED), "denied": {2: "no refunds"}})

    following.schedule("call_model", call)

    assert answers(history) == [(2, DENIED.content, "no refunds")]
    assert answers(following) == []


def test_a_large_answer_of_a_closed_turn_is_told_where_it_is_handed_over() -> None:
    """Its text is nowhere in history, and its rule is."""
    history = Handmade()
    history.model_call(1, wish())
    state = CarriedState(denied={2: "no refunds"})

    history.add(
        "workflow_execution_continued_as_new",
        newExecutionRunId="next-id",
        input={"payloads": [payload({"state": state.model_dump(mode="json")})]},
    )

    assert answers(history) == [(2, None, "no refunds")]


def test_a_result_without_a_denial_is_written_as_ever() -> None:
    """Digests and histories of runs without a policy stay as they are."""
    result = ToolResult(call_id="p1", content="found")
    message = ToolMessage(results=(result,))

    assert canonical(message) == b'{"results":[{"call_id":"p1","content":"found"}]}'
    assert result.model_dump_json() == '{"call_id":"p1","content":"found","is_error":false}'
    assert "rule" not in tool_call(2).model_dump_json()
    assert "denied" not in model_call(1).model_dump_json() + RunResult(status=RunStatus.COMPLETED).model_dump_json()
    assert digest_of([message]) != digest_of([ToolMessage(results=(DENIED,))])


def test_events_with_rules_survive_json() -> None:
    """An SSE client gets them as they are."""
    history = Handmade()
    history.model_call(1, wish())
    history.model_call(3, words("I see."), tail=heard(DENIED))

    copies: list[RunEvent] = [type(event).model_validate_json(event.model_dump_json()) for event in history.events]

    assert copies == history.events
