"""Approvals as a state machine: whatever arrives in whatever order, a question is decided once or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter

from perdure.activities import call_digest
from perdure.oversight import ApprovalRecord, PendingApproval
from perdure_workflows.approvals import MAX_RECORDS, Approvals
from perdure_workflows.signals import NO_PAYLOAD
from perdure_workflows.state import ApprovalsState

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IDS = ("c1", "c2", "c3")


def question(approval_id: str, *, deadline: datetime | None = None, kind: str = "call") -> PendingApproval:
    """A question about a payment."""
    return PendingApproval.model_validate(
        {
            "approval_id": approval_id,
            "kind": kind,
            "tool": "pay",
            "arguments": {"amount": 1},
            "digest": call_digest("pay", {"amount": 1}),
            "step": 1,
            "asked_at": NOW,
            "deadline": deadline,
        }
    )


def sent(content: Any) -> RawValue:
    """What a signal brings."""
    return RawValue(pydantic_data_converter.payload_converter.to_payload(content))


def asked(*approvals: PendingApproval) -> Approvals:
    """Approvals with these questions open."""
    state = Approvals(ApprovalsState())
    for approval in approvals:
        state.ask(approval)
    return state


decisions = st.fixed_dictionaries(
    {},
    optional={
        "approval_id": st.sampled_from([*IDS, "c9", "", 7]),
        "decided_by": st.sampled_from(["ann", "bob", "", "  ", None]),
        "digest": st.sampled_from([None, call_digest("pay", {"amount": 1}), "0"]),
        "arguments": st.sampled_from([None, {"amount": 2}, "no"]),
        "outcome": st.sampled_from([None, "done", "perhaps"]),
    },
)
payloads = st.one_of(
    decisions.map(sent),
    st.sampled_from([NO_PAYLOAD, sent(None), sent([1]), RawValue(Payload(metadata={"encoding": b"?"}, data=b"\xff"))]),
)


@given(arrivals=st.lists(st.tuples(payloads, st.booleans()), max_size=30))
def test_whatever_arrives_a_question_is_decided_at_most_once(arrivals: list[tuple[RawValue, bool]]) -> None:
    """Every arrival is on record, and the first that counts is the only one that does."""
    approvals = asked(*(question(approval_id) for approval_id in IDS))
    verdicts: dict[str, object] = {}

    for payload, approved in arrivals:
        approvals.receive(payload, approved=approved, now=NOW)
        for approval_id in IDS:
            verdict = approvals.verdict(approval_id)
            if verdict is not None:
                assert verdict.decision.decided_by.strip()
                assert verdicts.setdefault(approval_id, verdict) is verdict

    records = approvals.records
    edits = [verdict for verdict in map(approvals.verdict, IDS) if verdict and verdict.edits]  # recorded when checked
    decided = [record.approval_id for record in records if record.kind in ("approved", "rejected")]
    assert len(records) + len(edits) == len(IDS) + len(arrivals)
    assert sorted([*decided, *(edit.decision.approval_id for edit in edits)]) == sorted(verdicts)
    assert {approval.approval_id for approval in approvals.pending} == set(IDS) - set(verdicts)


def test_a_flood_of_decisions_fills_nothing() -> None:
    """The record is bounded, and still says what was decided."""
    approvals = asked(question("c1"))

    for _ in range(5 * MAX_RECORDS):
        approvals.receive(NO_PAYLOAD, approved=True, now=NOW)
    approvals.receive(sent({"approval_id": "c1", "decided_by": "ann"}), approved=True, now=NOW)

    memo = approvals.publish()
    assert len(approvals.records) == MAX_RECORDS
    assert len(memo.changes) == MAX_RECORDS
    assert memo.changes[-1].kind == "approved"
    assert not approvals.changed


def test_edited_arguments_larger_than_an_input_do_not_count() -> None:
    """A signal may bring 2 MiB, which no activity could be sent; the decision is refused and its sender told why."""
    approvals = asked(question("c1"))
    decision = {"approval_id": "c1", "decided_by": "ann", "arguments": {"text": "x" * 600_000}}

    approvals.receive(sent(decision), approved=True, now=NOW)

    assert approvals.verdict("c1") is None
    assert approvals.records[-1].reason == "the arguments are larger than 524,288 bytes"


def test_a_deadline_decides_once_and_lets_nobody_in_after_it() -> None:
    """At the deadline the question is rejected; a decision before counts, one after does not."""
    late, early = question("c1", deadline=NOW), question("c2", deadline=NOW + timedelta(hours=1))
    approvals = asked(late, early)

    for approval_id in ("c1", "c2"):
        approvals.receive(sent({"approval_id": approval_id, "decided_by": "ann"}), approved=True, now=NOW)
    approvals.expire("c1", now=NOW)
    approvals.expire("c2", now=NOW)

    assert [(record.kind, record.approval_id) for record in approvals.records[2:]] == [
        ("ignored", "c1"),
        ("approved", "c2"),
        ("expired", "c1"),
    ]


def test_an_unknown_outcome_wants_a_word_on_what_happened() -> None:
    """Approving without an outcome, or with other arguments, does not count; a rejection needs no outcome."""
    approvals = asked(question("c1", kind="outcome"), question("c2", kind="outcome"))
    ann = {"approval_id": "c1", "decided_by": "ann"}

    approvals.receive(sent(ann), approved=True, now=NOW)
    approvals.receive(sent({**ann, "outcome": "done", "arguments": {"amount": 2}}), approved=True, now=NOW)
    approvals.receive(sent({**ann, "outcome": "done", "result": [1]}), approved=True, now=NOW)
    approvals.receive(sent({"approval_id": "c2", "decided_by": "ann"}), approved=False, now=NOW)

    assert [record.kind for record in approvals.records[2:]] == ["ignored", "ignored", "approved", "rejected"]
    verdict = approvals.verdict("c1")
    assert verdict is not None
    assert verdict.decision.result == [1]


def test_what_the_run_takes_back_is_on_record() -> None:
    """A run that ends withdraws its questions, and a question asked twice is one."""
    approvals = asked(question("c1"), question("c1"))

    approvals.withdraw_all(now=NOW)

    assert approvals.pending == ()
    assert approvals.records == (
        ApprovalRecord(kind="asked", at=NOW, approval_id="c1", tool="pay"),
        ApprovalRecord(kind="withdrawn", at=NOW, approval_id="c1", tool="pay"),
    )


def test_large_arguments_do_not_fill_the_memo() -> None:
    """The memo shows the beginning; the run itself keeps all of it."""
    large = question("c1").model_copy(update={"arguments": {"text": "x" * 100_000}})
    approvals = asked(large)

    memo = approvals.publish()

    assert len(memo.model_dump_json()) < 10_000
    assert memo.pending[0].arguments["abridged"].startswith('{"text": "xxx')
    assert memo.pending[0].digest == large.digest
    assert approvals.pending == (large,)
