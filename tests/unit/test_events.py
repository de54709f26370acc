"""Events: what each history event says, in which order, and that nothing in a history can break it."""

from __future__ import annotations

import base64
from datetime import timedelta
from decimal import Decimal
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from perdure.activities import Reconciliation
from perdure.contracts import RunError, RunResult, RunStatus, Totals
from perdure.events import (
    RUN_EVENT,
    ApprovalAsked,
    ApprovalChanged,
    EventId,
    ModelFailed,
    ModelReplied,
    Projector,
    RunContinued,
    RunEnded,
    RunEvent,
    RunReset,
    RunStarted,
    SignalReceived,
    ToolAnswered,
    ToolCalled,
    ToolFailed,
    ToolFinished,
    ToolReconciled,
    WorkerTrouble,
)
from perdure.events.payloads import CarriedState, OpenCall
from perdure.messages import ToolResult
from perdure.oversight import ApprovalRecord, ApprovalsMemo, Decision, PendingApproval
from tests.unit.handmade import BEGIN, Handmade, heard, model_call, outcome, payload, tool_call, wish, words

NUMBERS = st.integers(min_value=0, max_value=10**6)
TIMEOUT = {"timeoutFailureInfo": {"timeoutType": "TIMEOUT_TYPE_HEARTBEAT"}, "message": "activity Heartbeat timeout"}
BROKEN = {"message": "find_order raised KeyError", "applicationFailureInfo": {"type": "tool_broke"}}


def pending(approval_id: str = "c2-abc", *, step: int = 2) -> PendingApproval:
    """Return a question that was asked when the history began."""
    return PendingApproval(
        approval_id=approval_id,
        tool="refund",
        arguments={"amount": "5"},
        digest="d",
        step=step,
        asked_at=BEGIN,
        reason="refund needs an approval",
    )


def record(kind: str, approval_id: str = "c2-abc", **fields: Any) -> ApprovalRecord:
    """Return an approval's record, of ten seconds later unless it is a question."""
    at = BEGIN if kind == "asked" else BEGIN + timedelta(seconds=10)
    return ApprovalRecord.model_validate(
        {"kind": kind, "at": at, "approval_id": approval_id, "tool": "refund", **fields}
    )


@given(st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS), st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS))
def test_ids_written_and_read_again_keep_their_order(
    one: tuple[int, int, int, int], other: tuple[int, int, int, int]
) -> None:
    """A Last-Event-ID says exactly where to go on."""
    first, second = EventId.parse(str(EventId(*one))), EventId.parse(str(EventId(*other)))

    assert (first, second) == (one, other)
    assert (first < second) == (one < other)


@pytest.mark.parametrize(
    "text", ["", "7", "0.", "0.1.0", "0.-1", "0.1.2.3", "\u0661.\u0662", "0.1 ", "0.99999999999999999999"]
)
def test_what_is_no_id_is_refused(text: str) -> None:
    """The error shows what an id looks like."""
    with pytest.raises(ValueError, match="one looks like"):
        EventId.parse(text)


def test_a_run_starts_with_what_it_was_asked() -> None:
    """The first event has everything a page's title needs."""
    history = Handmade()

    started = history.last

    assert isinstance(started, RunStarted)
    assert (started.id, started.at) == ("0.1", BEGIN)
    assert (started.agent, started.version, started.model) == ("support", "3", "anthropic:claude")
    assert (started.input, started.user) == ("help me", "ann")


def test_a_reply_tells_its_words_calls_and_use() -> None:
    """The calls of a reply are numbered as the run numbers them: right behind the reply."""
    history = Handmade()

    history.model_call(1, words("Let me look."), wish("p1"), wish("p2"))

    replied = history.last
    assert isinstance(replied, ModelReplied)
    assert history.kinds() == ["model.called", "model.replied"]
    assert (replied.step, replied.model, replied.text) == (1, "claude-1", "Let me look.")
    assert [(call.step, call.provider_id) for call in replied.tool_calls] == [(2, "p1"), (3, "p2")]
    assert (replied.usage.input_tokens, replied.cost_usd) == (10, None)
    assert (replied.worker, replied.attempts, replied.duration) == ("worker-1", 1, timedelta(seconds=2))


CUT = {"message": "Failure exceeds size limit.", "serverFailureInfo": {}}
BROKE = {"message": "the wiki hung up", "applicationFailureInfo": {"type": "tool_broke"}}


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ({**CUT, "cause": BROKE}, "the wiki hung up"),
        ({**CUT, "cause": {**BROKE, "message": "Encoded failure"}}, "Failure exceeds size limit."),
        (CUT, "Failure exceeds size limit."),
    ],
    ids=["cut", "cut and encrypted", "nothing left"],
)
def test_a_failure_that_temporal_has_cut_is_told_by_its_own_words(failure: dict[str, Any], said: str) -> None:
    """Temporal keeps 4 KiB of why an attempt failed, inside a failure of its own; what is left of it counts."""
    history = Handmade()
    scheduled = history.tool_call(2)
    history.start(scheduled, attempt=2, last_failure=failure)

    history.complete(scheduled, outcome("found"))

    finished = history.last
    assert isinstance(finished, ToolFinished)
    assert finished.retried_because == said


def test_earlier_attempts_show_in_the_end_of_a_call() -> None:
    """History keeps only their number and the last reason, so both are told."""
    history = Handmade()
    scheduled = history.tool_call(2)
    history.start(scheduled, attempt=3, last_failure=TIMEOUT)

    history.complete(scheduled, outcome("found", is_error=True))

    finished = history.last
    assert isinstance(finished, ToolFinished)
    assert (finished.attempts, finished.retried_because) == (3, "the worker was lost")
    assert (finished.call_id, finished.tool, finished.content, finished.is_error) == (
        "c2-abc",
        "find_order",
        "found",
        True,
    )


@pytest.mark.parametrize(
    ("effect", "failure", "kind", "error_type"),
    [
        ("read", BROKEN, "tool.failed", "tool_broke"),
        ("idempotent", TIMEOUT, "tool.failed", "heartbeat"),
        ("once", TIMEOUT, "tool.lost", "heartbeat"),
        ("once", BROKEN, "tool.lost", "tool_broke"),
        ("once", {"message": "no", "applicationFailureInfo": {"type": "tool_missing"}}, "tool.failed", "tool_missing"),
    ],
)
def test_a_once_call_without_a_result_is_lost_unless_it_certainly_never_ran(
    effect: str, failure: dict[str, Any], kind: str, error_type: str
) -> None:
    """Everything else without a result has failed."""
    history = Handmade()
    scheduled = history.tool_call(2, effect=effect)
    history.start(scheduled)

    history.fail(scheduled, failure)

    failed = history.last
    assert isinstance(failed, ToolFailed)
    assert (failed.kind, failed.error_type) == (kind, error_type)


def test_a_model_call_that_times_out_says_at_which_limit() -> None:
    """A timed-out activity is a failure with the limit as its type."""
    history = Handmade()
    scheduled = history.schedule("call_model", model_call(1))
    limit = {"timeoutFailureInfo": {"timeoutType": "TIMEOUT_TYPE_START_TO_CLOSE"}}

    history.add("activity_task_timed_out", scheduledEventId=scheduled, failure=limit)

    failed = history.last
    assert isinstance(failed, ModelFailed)
    assert (failed.kind, failed.error, failed.error_type) == ("model.failed", "it took too long", "start_to_close")


def test_cancelled_calls_are_told_apart_from_failed_ones() -> None:
    """Both of the model and of a tool."""
    history = Handmade()
    for scheduled in (history.schedule("call_model", model_call(1)), history.tool_call(2)):
        history.add("activity_task_canceled", scheduledEventId=scheduled)

    assert history.kinds() == ["model.called", "tool.called", "model.cancelled", "tool.cancelled"]


def test_a_probe_tells_what_became_of_a_lost_call() -> None:
    """It is no call of its own, and a probe that fails cannot tell."""
    history = Handmade()
    found = history.schedule("reconcile_call", _once())
    history.complete(found, Reconciliation(done=True, outcome=outcome("paid")))
    unclear = history.schedule("reconcile_call", _once())
    history.fail(unclear, BROKEN)

    done, unknown = history.events[1:]

    assert isinstance(done, ToolReconciled)
    assert isinstance(unknown, ToolReconciled)
    assert (done.done, done.content) == (True, "paid")
    assert (unknown.done, unknown.error) == (None, "find_order raised KeyError")


def test_answers_without_a_dispatch_are_told_when_the_model_hears_them() -> None:
    """A call that was refused or rejected has no activity; its answer stands in the next model call's input."""
    history = Handmade()
    history.model_call(1, wish("p1"), wish("p2", "guess"), wish("p3"))
    dispatched = history.tool_call(2)
    history.complete(dispatched, outcome("found"))
    refusal = ToolResult(call_id="p2", content="There is no tool 'guess'.", is_error=True)

    history.model_call(5, words("Done."), tail=heard(ToolResult(call_id="p1", content="found"), refusal))

    refused, unheard = (event for event in history.events if isinstance(event, ToolAnswered))
    assert (refused.step, refused.tool, refused.content) == (3, "guess", "There is no tool 'guess'.")
    assert (unheard.step, unheard.content) == (4, None)
    assert [EventId.parse(event.id).part for event in history.events[-4:]] == [0, 1, 2, 0]


def test_approvals_are_told_with_the_question_and_the_time_it_waited() -> None:
    """Several changes of one memo are events of their own, in order."""
    history = Handmade()
    history.memo(ApprovalsMemo(pending=(pending(),), changes=(record("asked"),)))

    history.memo(ApprovalsMemo(changes=(record("ignored", "x"), record("approved", decided_by="ann", edited=True))))

    asked, ignored, approved = history.events[1:]
    assert isinstance(asked, ApprovalAsked)
    assert (asked.step, asked.arguments, asked.question) == (2, {"amount": "5"}, "call")
    assert isinstance(ignored, ApprovalChanged)
    assert (ignored.kind, ignored.step, ignored.approval_id) == ("approval.ignored", None, "x")
    assert isinstance(approved, ApprovalChanged)
    assert (approved.decided_by, approved.waited, approved.edited) == ("ann", timedelta(seconds=10), True)
    assert (approved.id, approved.at) == ("0.3.1", BEGIN + timedelta(seconds=10))


def test_an_approval_that_opens_again_is_asked_again() -> None:
    """A decision that cannot be carried out leaves the question pending, and the events say so."""
    history = Handmade()
    history.memo(ApprovalsMemo(pending=(pending(),), changes=(record("asked"),)))
    history.memo(ApprovalsMemo(changes=(record("approved"),)))

    history.memo(ApprovalsMemo(pending=(pending(),), changes=(record("ignored", reason="bad arguments"),)))

    assert history.kinds()[-3:] == ["approval.approved", "approval.ignored", "approval.asked"]


def test_an_approval_asked_in_an_earlier_execution_keeps_its_waiting_time() -> None:
    """Continue-as-new carries the memo over, and it says when the question was put."""
    history = Handmade(execution=1)
    carried = {"memo": {"fields": {"approvals": payload(ApprovalsMemo(pending=(pending(),)))}}}
    history.projector = Projector(1)
    history.add("workflow_execution_started", **carried)

    history.memo(ApprovalsMemo(changes=(record("rejected"),)))

    rejected = history.last
    assert isinstance(rejected, ApprovalChanged)
    assert rejected.waited == timedelta(seconds=10)
    assert rejected.id.startswith("1.")


@pytest.mark.parametrize("content", [b"", b"null", b"[1]", b'{"approval_id": 7}', b"\xff\xfe"])
def test_a_signal_is_told_whatever_its_payload_is(content: bytes) -> None:
    """Nobody can send something that the events cannot show."""
    history = Handmade()

    history.add("workflow_execution_signaled", signalName="approve", identity="cli", input=_raw(content))

    assert isinstance(history.last, SignalReceived)
    assert (history.last.name, history.last.sender, history.last.approval_id) == ("approve", "cli", "")


def test_a_decision_names_its_approval_before_a_worker_takes_it_in() -> None:
    """With no worker running, the signal is all that there is to see."""
    history = Handmade()
    decision = {"payloads": [payload(Decision(approval_id="c2-abc", decided_by="ann"))]}

    history.add("workflow_execution_signaled", signalName="approve", input=decision)

    assert isinstance(history.last, SignalReceived)
    assert history.last.approval_id == "c2-abc"


def test_a_completed_run_ends_as_its_result_says() -> None:
    """Limits and rejections are ordinary completions for Temporal; the status says which end it was."""
    history = Handmade()
    result = RunResult(status=RunStatus.MAX_STEPS, output="so far", totals=Totals(steps=9, cost_usd=Decimal("0.5")))

    history.add("workflow_execution_completed", result={"payloads": [payload(result)]})

    ended = history.last
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.output, ended.totals) == (RunStatus.MAX_STEPS, "so far", result.totals)


def test_a_failed_run_ends_with_its_error_and_what_it_had() -> None:
    """The result stands in the failure's details."""
    history = Handmade()
    error = RunError(type="model_refused", message="no")
    details = {"payloads": [payload(RunResult(status=RunStatus.FAILED, error=error, totals=Totals(steps=1)))]}
    failure = {"message": "no", "applicationFailureInfo": {"type": "model_refused", "details": details}}

    history.add("workflow_execution_failed", failure=failure)

    ended = history.last
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.error, ended.totals.steps) == (RunStatus.FAILED, error, 1)


def test_a_cancelled_run_ends_with_what_its_memo_kept() -> None:
    """Temporal keeps no result of a cancelled workflow, so the run leaves it in the memo."""
    history = Handmade()
    result = RunResult(status=RunStatus.CANCELLED, totals=Totals(steps=4))
    history.add("workflow_properties_modified", upsertedMemo={"fields": {"result": payload(result)}})

    history.add("workflow_execution_canceled")

    ended = history.last
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.totals.steps) == (RunStatus.CANCELLED, 4)


@pytest.mark.parametrize(
    ("kind", "status"),
    [("workflow_execution_terminated", RunStatus.TERMINATED), ("workflow_execution_timed_out", RunStatus.TIMED_OUT)],
)
def test_a_run_ended_from_outside_has_the_totals_that_history_shows(kind: str, status: RunStatus) -> None:
    """Such a run could say nothing itself."""
    history = Handmade()
    history.model_call(1, words("Let me look."), wish())

    history.add(kind)

    ended = history.last
    assert isinstance(ended, RunEnded)
    assert (ended.status, ended.output) == (status, "Let me look.")
    assert (ended.totals.steps, ended.totals.model_calls, ended.totals.tool_calls) == (2, 1, 1)
    assert (ended.totals.usage.output_tokens, ended.totals.unpriced_calls) == (5, 1)


def test_continue_as_new_is_an_event_and_the_next_execution_goes_on_counting() -> None:
    """The next execution starts no second run, and its totals include what came before."""
    history = Handmade()
    history.add("workflow_execution_continued_as_new", newExecutionRunId="next-id")
    state = CarriedState(totals=Totals(steps=6, model_calls=3), calls=(OpenCall(step=6, provider_id="p1", tool="t"),))
    after = Handmade(execution=1, state=state)

    after.add("workflow_execution_terminated")

    ended = after.last
    assert isinstance(history.last, RunContinued)
    assert history.last.execution_id == "next-id"
    assert [event.kind for event in after.events] == ["run.ended"]
    assert isinstance(ended, RunEnded)
    assert (ended.id, ended.totals.steps, ended.totals.model_calls) == ("1.2", 6, 3)


def test_an_answer_that_only_the_next_execution_knows_is_told_where_it_is_handed_over() -> None:
    """A call refused beside one that waits for a human is not heard by the model before the history is full."""
    history = Handmade()
    history.model_call(1, wish("p1", "guess"), wish("p2"))
    refusal = ToolResult(call_id="p1", content="no such tool", is_error=True)
    calls = (
        OpenCall(step=2, provider_id="p1", tool="guess", result=refusal),
        OpenCall(step=3, provider_id="p2", tool="find_order"),
    )
    carried = {"payloads": [payload({"state": CarriedState(calls=calls).model_dump(mode="json")})]}

    history.add("workflow_execution_continued_as_new", newExecutionRunId="next-id", input=carried)

    assert history.kinds()[-2:] == ["tool.answered", "run.continued"]


def test_trouble_with_workers_is_told_and_harmless_repetitions_are_not() -> None:
    """A signal that comes in between makes a turn be taken again; that is no trouble."""
    history = Handmade()
    history.add("workflow_task_failed", cause="WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND")
    history.add("workflow_task_timed_out", timeoutType="TIMEOUT_TYPE_SCHEDULE_TO_START")
    bug = {"message": "KeyError: 'x'"}
    history.add(
        "workflow_task_failed", cause="WORKFLOW_TASK_FAILED_CAUSE_WORKFLOW_WORKER_UNHANDLED_FAILURE", failure=bug
    )

    lost, failed = history.events[1:]

    assert isinstance(lost, WorkerTrouble)
    assert (lost.kind, "schedule_to_start" in lost.error) == ("worker.lost", True)
    assert isinstance(failed, WorkerTrouble)
    assert failed.error == "workflow_worker_unhandled_failure: KeyError: 'x'"


def test_a_reset_names_the_execution_it_left() -> None:
    """What followed there does not count any more."""
    history = Handmade()

    history.add("workflow_task_failed", cause="WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW", baseRunId="old-id")

    assert isinstance(history.last, RunReset)
    assert history.last.execution_id == "old-id"


def test_a_request_to_cancel_names_who_asked() -> None:
    """The run may still take its time to end."""
    history = Handmade()

    history.add("workflow_execution_cancel_requested", identity="ann@laptop", cause="wrong customer")

    assert history.last.model_dump(include={"kind", "requested_by", "reason"}) == {
        "kind": "run.cancel_requested",
        "requested_by": "ann@laptop",
        "reason": "wrong customer",
    }


@given(st.binary(max_size=40), st.sampled_from(["call_model", "call_tool", "reconcile_call", "embed_text", ""]))
def test_unknown_activities_and_unreadable_payloads_are_left_out(content: bytes, activity: str) -> None:
    """Histories of newer code, or of another workflow, never break the projector."""
    history = Handmade()
    scheduled = history.add("activity_task_scheduled", activityType={"name": activity}, input=_raw(content))
    history.add("activity_task_started", scheduledEventId=scheduled, attempt=1)
    history.add("activity_task_completed", scheduledEventId=scheduled, result=_raw(content))
    history.add("activity_task_completed", scheduledEventId=999)
    history.add("workflow_properties_modified", upsertedMemo={"fields": {"approvals": _raw(content)["payloads"][0]}})
    history.add("workflow_execution_completed", result=_raw(content))

    assert history.kinds() == ["run.ended"]


def test_every_kind_of_event_survives_json() -> None:
    """What the API sends is what a client reads, and each kind has one type."""
    history = Handmade()
    history.model_call(1, wish())
    history.complete(history.tool_call(2), outcome("found"))
    history.memo(ApprovalsMemo(pending=(pending(),), changes=(record("asked"), record("expired"))))
    history.add("workflow_execution_terminated")

    again = [RUN_EVENT.validate_json(RUN_EVENT.dump_json(event)) for event in history.events]

    assert again == history.events
    assert any(isinstance(event, ToolCalled) for event in again)
    assert len(_kinds()) == len(set(_kinds()))


def _kinds() -> list[str]:
    types: tuple[type[BaseModel], ...] = get_args(get_args(RunEvent)[0])
    return [kind for one in types for kind in get_args(one.model_fields["kind"].annotation)]


def _once() -> BaseModel:
    return tool_call(2, effect="once")


def _raw(content: bytes) -> dict[str, Any]:
    return {"payloads": [{"data": base64.b64encode(content).decode()}]}
