"""What the audit makes of events: every deed, and nothing that was said."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from google.protobuf.json_format import ParseDict
from pydantic import BaseModel
from temporalio.api.history.v1 import HistoryEvent

from perdure.activities import Finish, call_digest
from perdure.audit.calls import Calls
from perdure.audit.contracts import AUDITOR_WORKFLOW
from perdure.audit.entities import SUBJECTS
from perdure.audit.facts import NOT_AUDITED, Origin, entries_of, keyed
from perdure.audit.facts import POLICY_DECIDED as DECIDED
from perdure.audit.login import FailedLoginBatch, FailedLogins
from perdure.audit.projection import Projection
from perdure.audit.record import AuditEntry
from perdure.audit.words import MAX_WORDS
from perdure.contracts import RunInput, RunStatus, Totals
from perdure.events import (
    ApprovalAsked,
    ApprovalChanged,
    BudgetRaised,
    BudgetRefused,
    ModelReplied,
    RequestedCall,
    RunCancelRequested,
    RunEnded,
    RunEvent,
    RunHeld,
    RunStarted,
    ToolAnswered,
    ToolCalled,
    ToolFailed,
    ToolFinished,
)
from perdure.events.event import Event
from perdure.history import load
from perdure.rollout import Rollout
from tests.unit.handmade import payload

HISTORIES = sorted((Path(__file__).parents[1] / "replay" / "histories").glob("*.json"))
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "sk-live-0123456789"
ARGUMENTS = {"order": "A1", "amount": 5}
ORIGIN = Origin("run-1", "e1", org="acme", user="ann", agent="support", who="bob", roles=("clerk", "night"))


class BudgetDecided(Event):
    """A kind of event that the audit has never heard of."""

    kind: Literal["budget.decided"] = "budget.decided"
    budget: str = "org/day"
    amount_usd: Decimal = Decimal("1.25")
    permission: str = "deny"
    by: str = "carl"
    reason: str = "the day's budget\nis used up"
    note: str = SECRET


def entries(*events: RunEvent | BudgetDecided, key: bytes | None = None) -> list[AuditEntry]:
    """Return what the audit makes of events."""
    calls, digest = Calls(), keyed(key)
    return [entry for event in events for entry in entries_of(event, ORIGIN, calls, digest=digest)]  # type: ignore[arg-type]  # one is made up


def project(path: Path) -> list[AuditEntry]:
    """Return what the audit makes of a stored history."""
    found: list[AuditEntry] = []
    for execution, history in enumerate(load(path.read_text())):
        first = history.events[0].workflow_execution_started_event_attributes
        execution_id = first.original_execution_run_id or f"execution-{execution}"
        projection = Projection("AgentRun", run_id="run-1", execution_id=execution_id, digest=keyed(None))
        for event in history.events:
            found += projection.feed(event)
    return found


def called(*, step: int = 2, rule: str = "", **arguments: Any) -> ToolCalled:
    """Return the dispatch of a call."""
    given = arguments or ARGUMENTS
    return ToolCalled(
        id="0.7", at=NOW, step=step, call_id="c2", tool="refund", arguments=given, effect="once", rule=rule
    )


def replied() -> ModelReplied:
    """Return a reply that asks for a call."""
    wish = RequestedCall(step=2, provider_id="p1", tool="refund", arguments=ARGUMENTS)
    return ModelReplied(id="0.6", at=NOW, step=1, model="m", finish=Finish.TOOL_CALLS, text=SECRET, tool_calls=(wish,))


def test_every_kind_of_event_is_audited_or_named_as_not() -> None:
    """A kind that is added is audited, unless somebody decides otherwise here."""
    types: tuple[type[BaseModel], ...] = get_args(get_args(RunEvent)[0])
    kinds = {kind for one in types for kind in get_args(one.model_fields["kind"].annotation)}

    assert kinds >= NOT_AUDITED
    assert {kind.partition(".")[0] for kind in NOT_AUDITED} == {"model", "run", "worker"}


def test_a_kind_nobody_has_heard_of_is_taken_in() -> None:
    """Who, what, why and numbers are found by the fields' names; a text of unknown meaning is left out."""
    [entry] = entries(BudgetDecided(id="0.9.2", at=NOW, step=3))

    assert (entry.kind, entry.who, entry.outcome) == ("budget.decided", "carl", "deny")
    assert entry.reason == "the day's budget is used up"
    assert entry.details == {"budget": "org/day", "amount_usd": "1.25", "step": 3}
    assert entry.source == "e1/9.2"


def test_what_budgets_decided_is_audited() -> None:
    """Which budget of whom refused how much, and who put more into it."""
    refused = BudgetRefused(
        id="0.8",
        at=NOW,
        budget="daily",
        per="day",
        subject="user ann",
        cap_usd=Decimal(5),
        spent_usd=Decimal("4.9"),
        needed_usd=Decimal("0.2"),
        reason="the day's budget of user ann has no room",
    )
    raised = BudgetRaised(id="0.9", at=NOW, budget="daily", amount_usd=Decimal(2), by="carl")

    first, second = entries(refused, raised)

    assert (first.kind, first.outcome) == ("budget.refused", "refused")
    assert first.reason == "the day's budget of user ann has no room"
    assert first.details == {
        "budget": "daily",
        "per": "day",
        "subject": "user ann",
        "cap_usd": "5",
        "spent_usd": "4.9",
        "needed_usd": "0.2",
    }
    assert (second.kind, second.who, second.details) == (
        "budget.raised",
        "carl",
        {"budget": "daily", "amount_usd": "2"},
    )


def test_who_started_a_run_with_which_roles() -> None:
    """The start names the principal and on whose behalf the run is, and not what was asked."""
    started = RunStarted(id="0.1", at=NOW, agent="support", version="3", model="m", input=SECRET, session_id="s1")

    [entry] = entries(started)

    assert (entry.who, entry.user, entry.org, entry.agent) == ("bob", "ann", "acme", "support")
    assert entry.details == {"version": "3", "model": "m", "session_id": "s1", "roles": "clerk, night"}


def test_the_starter_falls_back_to_who_is_known() -> None:
    """Without a principal it is the user, without one the client's identity."""
    run = {"spec": {"name": "support", "version": "1", "model": "m:m"}, "input": "hello"}

    def starter(**fields: Any) -> str:
        given = RunInput.model_validate({**run, **fields})
        return Origin.of(given, run_id="r", execution_id="e", identity="7@host").who

    assert starter(requested_by="bob", user="ann") == "bob"
    assert starter(user="ann") == "ann"
    assert starter() == "7@host"


def test_a_policys_decision_is_a_record_of_its_own() -> None:
    """Allowed, asked or denied: which rule said so of which arguments, before what came of it."""
    asked = ApprovalAsked(id="0.8", at=NOW, step=2, approval_id="c2", tool="refund", rule="big refunds", digest="aa")
    answered = ToolAnswered(id="0.9", at=NOW, step=2, tool="refund", content="no", rule="never")

    found = entries(replied(), called(rule="small refunds"), replied(), asked, replied(), answered)

    digest = call_digest("refund", ARGUMENTS)
    assert [(one.kind, one.outcome, one.rule, one.arguments_digest) for one in found] == [
        ("policy.decided", "allow", "small refunds", digest),
        ("tool.called", "called", "small refunds", digest),
        ("policy.decided", "ask", "big refunds", "aa"),
        ("approval.asked", "asked", "big refunds", "aa"),
        ("policy.decided", "deny", "never", digest),
        ("tool.answered", "error", "never", digest),
    ]
    assert [one.source for one in found[:2]] == ["e1/7.0", "e1/7.0.1"]
    assert found[0].place < found[1].place


def test_a_call_that_humans_let_run_was_not_allowed_by_the_policy() -> None:
    """After a question the dispatch tells no second decision, nor does a second one; a grant answers a question."""
    asked = ApprovalAsked(id="0.8", at=NOW, step=2, approval_id="c2", tool="refund", rule="big refunds", digest="aa")
    by_grant = called(rule="big refunds").model_copy(update={"grant_id": "g1"})

    def decisions(*events: RunEvent) -> list[tuple[str, str]]:
        return [(one.outcome, str(one.details.get("grant_id", ""))) for one in entries(*events) if one.kind == DECIDED]

    assert decisions(replied(), asked, called(rule="big refunds")) == [("ask", "")]
    assert decisions(replied(), called(rule="small"), called(rule="small")) == [("allow", "")]
    assert decisions(replied(), by_grant) == [("ask", "g1")]


def test_a_decision_names_who_why_and_on_which_arguments() -> None:
    """An approval's record has the digest of what was asked; after an edit nobody knows it until the dispatch."""
    asked = ApprovalAsked(id="0.8", at=NOW, step=2, approval_id="c2", tool="refund", digest="aa")

    def decided(kind: Literal["approval.voted", "approval.edited", "approval.approved"]) -> ApprovalChanged:
        return ApprovalChanged(
            id="0.9",
            at=NOW,
            step=2,
            kind=kind,
            approval_id="c2",
            tool="refund",
            decided_by="carl",
            reason="ok",
            missing=1,
        )

    found = entries(
        asked, decided("approval.voted"), decided("approval.edited"), decided("approval.approved"), called(amount=4)
    )

    assert [one.arguments_digest for one in found] == ["aa", "aa", "", "", call_digest("refund", {"amount": 4})]
    assert {one.who for one in found[1:4]} == {"carl"}
    assert found[1].details == {"approval_id": "c2", "step": 2, "missing": 1}


def test_ends_say_what_came_of_it() -> None:
    """Of a call: its result's kind and never the result; of a run: status, steps and cost."""
    finished = ToolFinished(id="0.3", at=NOW, step=2, call_id="c2", tool="refund", content=SECRET, is_error=True)
    lost = ToolFailed(id="0.4", at=NOW, step=2, kind="tool.lost", call_id="c2", tool="refund", error="the worker died")
    ended = RunEnded(
        id="0.5", at=NOW, status=RunStatus.FAILED, output=SECRET, totals=Totals(steps=3, cost_usd=Decimal("0.5"))
    )

    found = entries(called(), finished, lost, ended)

    assert [one.outcome for one in found] == ["called", "error", "lost", "failed"]
    assert found[2].reason == "the worker died"
    assert found[3].details == {"steps": 3, "cost_usd": "0.5", "unpriced_calls": 0}


def test_reasons_lose_their_secrets_before_they_are_cut() -> None:
    """A token or password in somebody's words is masked, also one that the cut would have gone through."""
    token = "ghp_" + "a1B2" * 9

    def reason(text: str) -> str:
        [entry] = entries(RunCancelRequested(id="0.4", at=NOW, requested_by="7@host", reason=text))
        return entry.reason

    assert reason(f"it leaked {token}\nin the log") == "it leaked [secret] in the log"
    assert reason("password=hunter2hunter2") == "password=[secret]"
    assert token[:12] not in reason("x" * (MAX_WORDS - 20) + f" {token}")
    assert len(reason("x" * 10_000)) == MAX_WORDS


def test_steering_names_who_did_it() -> None:
    """Pauses and requests to cancel are deeds of people."""
    held = RunHeld(id="0.3", at=NOW, kind="run.resumed", by="ann", paused_for=timedelta(seconds=90))
    cancel = RunCancelRequested(id="0.4", at=NOW, requested_by="7@host", reason="enough")

    found = entries(held, cancel)

    assert [(one.kind, one.who) for one in found] == [("run.resumed", "ann"), ("run.cancel_requested", "7@host")]
    assert found[0].details == {"paused_for_ms": 90_000}


def test_a_key_makes_digests_that_nobody_else_can_guess() -> None:
    """With a key the digest is an HMAC of the one that approvals show, so that its holder can still compare."""
    [plain], [with_key] = entries(called()), entries(called(), key=b"0123456789abcdef")

    expected = hmac.new(b"0123456789abcdef", plain.arguments_digest.encode(), hashlib.sha256).hexdigest()
    assert plain.arguments_digest == call_digest("refund", ARGUMENTS)
    assert with_key.arguments_digest == expected


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_stored_histories_are_audited_in_order(path: Path) -> None:
    """Of every stored run: its start and end, all of its calls, each source once, and in the order of its history."""
    found = project(path)

    sources = [entry.source for entry in found]
    assert len(sources) == len(set(sources))
    for execution in {entry.execution_id for entry in found}:
        places = [entry.place for entry in found if entry.execution_id == execution]
        assert places == sorted(places)
    kinds = [entry.kind for entry in found]
    assert kinds[0] == "run.started"
    assert kinds.count("run.started") == 1
    assert ("run.ended" in kinds) == (path.stem != "running")


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_nothing_that_was_said_is_audited(path: Path) -> None:
    """No argument, result, reply or input of a stored run stands in its records."""
    said = {text for history in load(path.read_text()) for event in history.events for text in texts_of(event)}

    written = " ".join(entry.model_dump_json() for entry in project(path))

    assert [text for text in said if len(text) > 12 and text in written] == []


def texts_of(event: HistoryEvent) -> set[str]:
    """Return what a model, a tool or a user says in an event: contents, texts, and values of arguments."""
    found: set[str] = set()

    def collect(value: Any, key: str = "") -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                collect(inner, "said" if name in ("arguments", "content", "text", "input", "output") else key)
        elif isinstance(value, list):
            for inner in value:
                collect(inner, key)
        elif isinstance(value, str) and key == "said":
            found.add(value)

    for name in ("activity_task_scheduled", "activity_task_completed", "workflow_execution_started"):
        attributes = getattr(event, f"{name}_event_attributes")
        payloads = attributes.result if name == "activity_task_completed" else attributes.input
        for one in payloads.payloads:
            collect(json.loads(one.data or "null"))  # an argument that is None has no data
    return found


class Story:
    """A history by hand of a workflow that stands for a record."""

    def __init__(self, workflow_type: str, *, execution: str = "e1") -> None:
        self.projection = Projection(workflow_type, run_id="w1", execution_id=execution, digest=keyed(None))
        self.entries: list[AuditEntry] = []
        self._length = 0

    def add(self, kind: str, **attributes: Any) -> None:
        """Append an event."""
        self._length += 1
        event = HistoryEvent(event_id=self._length)
        event.event_time.FromDatetime(NOW + timedelta(seconds=self._length))
        ParseDict(attributes, getattr(event, f"{kind}_event_attributes"))
        getattr(event, f"{kind}_event_attributes").SetInParent()
        self.entries += self.projection.feed(event)

    def start(self, record: dict[str, Any] | BaseModel, **attributes: Any) -> None:
        """Begin."""
        given = {"payloads": [payload(record)]}
        self.add("workflow_execution_started", input=given, identity="7@host", **attributes)


KEY = {
    "key_id": "k1",
    "name": "ci",
    "digest": SECRET,
    "user": "ann",
    "org": "acme",
    "roles": ["clerk"],
    "scopes": ["runs:read", "runs:write"],
    "created_by": "carl",
}


def test_a_key_is_audited_from_its_making_to_its_end() -> None:
    """Who made it for whom with which scopes, who revoked it and why; its digest stands nowhere."""
    story = Story("ApiKey")
    story.start(KEY)
    story.add("workflow_execution_terminated", reason="revoked by dora: it leaked", identity="8@host")

    created, revoked = story.entries

    assert (created.kind, created.who, created.user, created.org) == ("key.created", "carl", "ann", "acme")
    kept = {"key_id": "k1", "name": "ci", "roles": "clerk", "scopes": "runs:read, runs:write"}
    assert created.details == kept
    assert (revoked.kind, revoked.who, revoked.reason) == ("key.revoked", "dora", "it leaked")
    assert revoked.details == {**kept, "identity": "8@host"}
    assert SECRET not in created.model_dump_json()


def test_a_rollout_is_audited_with_its_weights() -> None:
    """Who had which part of an organisation's users get which version, and who ended that."""
    story = Story("Rollout")
    rollout = Rollout(agent="support", org="acme", weights={"1": 90, "2": 10}, created_by="carl", created_at=NOW)
    story.start(rollout)
    story.add("workflow_execution_terminated", reason="revoked by dora", identity="8@host")

    created, ended = story.entries

    assert (created.kind, created.who, created.org, created.agent) == ("rollout.created", "carl", "acme", "support")
    assert created.details == {"weights": "1=90 2=10"}
    assert (ended.kind, ended.who) == ("rollout.revoked", "dora")


@pytest.mark.parametrize(
    ("kind", "attributes", "verb", "who"),
    [
        ("workflow_execution_timed_out", {}, "expired", ""),
        ("workflow_execution_terminated", {"reason": "by hand", "identity": "8@host"}, "revoked", "8@host"),
        ("workflow_execution_terminated", {"reason": "revoked by dora"}, "revoked", "dora"),
        ("workflow_execution_terminated", {"reason": "TerminateIfRunning Policy", "identity": "s"}, "replaced", "s"),
        ("workflow_execution_canceled", {}, "revoked", ""),
        ("workflow_execution_completed", {}, "ended", ""),
        ("workflow_execution_cancel_requested", {"identity": "8@host"}, "cancel_requested", "8@host"),
    ],
)
@pytest.mark.parametrize("workflow_type", SUBJECTS)
def test_every_end_of_a_record_is_audited(
    workflow_type: str, kind: str, attributes: dict[str, str], verb: str, who: str
) -> None:
    """However the workflow ends that a record is: it is told what that means, and who did it."""
    story = Story(workflow_type)
    story.start({"org": "acme", "tool": "refund", "granted_by": ["ann", "bob"]})
    story.add(kind, **attributes)

    made, ended = story.entries

    assert (made.who, made.tool) == ("ann, bob", "refund")
    assert (ended.kind, ended.who, ended.org) == (f"{SUBJECTS[workflow_type]}.{verb}", who, "acme")


def test_failed_logins_are_read_from_the_auditors_own_history() -> None:
    """Each kind of failure in a signal is a record of the key's organisation, with its count."""
    story = Story(AUDITOR_WORKFLOW)
    story.start({})
    failed = FailedLoginBatch(
        failures=(
            FailedLogins(reason="wrong_secret", credential="k1", address="10.0.0.1", org="acme", count=3),
            FailedLogins(reason="malformed", address="10.0.0.2"),
        )
    )
    given = {"payloads": [payload(failed)]}
    story.add("workflow_execution_signaled", signalName="login_failed", input=given, identity="api@host")

    _, first, second = story.entries

    assert (first.kind, first.org, first.reason) == ("login.failed", "acme", "wrong_secret")
    assert first.details == {"credential": "k1", "address": "10.0.0.1", "count": 3}
    assert (second.org, second.reason, second.source) == ("", "malformed", "e1/2.1")


def test_a_reset_executions_copied_events_are_the_old_ones() -> None:
    """An execution that a reset made is audited from the reset on; what it was copied from has the rest."""
    story = Story("AgentRun", execution="new")
    run = RunInput.model_validate({"spec": {"name": "support", "version": "1", "model": "m:m"}, "input": "hello"})
    reset = {"cause": "WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW", "baseRunId": "old"}
    story.start(run, originalExecutionRunId="first")
    story.add("workflow_execution_signaled", signalName="pause")
    story.add("workflow_task_failed", **reset, newRunId="old", failure={"message": "an earlier reset"})
    story.add("workflow_execution_signaled", signalName="pause")
    story.add("workflow_task_failed", **reset, newRunId="new", failure={"message": "by ann"})
    story.add("workflow_execution_signaled", signalName="resume")

    assert [(one.kind, one.reason, one.source) for one in story.entries] == [
        ("run.reset", "by ann", "new/5.0"),
        ("signal.received", "", "new/6.0"),
    ]
