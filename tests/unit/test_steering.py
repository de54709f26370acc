"""Steering as a state machine: whatever arrives in whatever order, the gate and the inbox are as the last word says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue
from temporalio.contrib.pydantic import pydantic_data_converter

from perdure.contracts import MAX_MESSAGE_BYTES
from perdure.events import MessageReceived, RunHeld, SignalIgnored
from perdure.oversight import SteeringMemo, SteeringMessage, SteeringRecord
from perdure.search_attributes import MEMO_STEERING
from perdure_workflows.signals import NO_PAYLOAD
from perdure_workflows.state import SteeringState
from perdure_workflows.steering import MAX_RECORDS, MAX_WAITING, MAX_WAITING_BYTES, Steering
from tests.unit.handmade import Handmade, payload

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def sent(content: Any) -> RawValue:
    """What a signal brings."""
    return RawValue(pydantic_data_converter.payload_converter.to_payload(content))


anything = st.one_of(
    st.sampled_from([NO_PAYLOAD, sent(None), sent([1]), RawValue(Payload(metadata={"encoding": b"?"}, data=b"\xff"))]),
    st.fixed_dictionaries(
        {},
        optional={
            "text": st.sampled_from(["hurry", "", " ", 7, "x" * (MAX_MESSAGE_BYTES + 1), "y" * MAX_MESSAGE_BYTES]),
            "from": st.sampled_from(["ann", "b" * 500, None]),
            "by": st.sampled_from(["ann", 3]),
            "reason": st.sampled_from(["lunch", None]),
        },
    ).map(sent),
)


@given(st.lists(st.tuples(st.sampled_from(["message", "pause", "resume"]), anything), max_size=30))
def test_each_signal_is_one_record_and_changes_no_more_than_it_says(signals: list[tuple[str, RawValue]]) -> None:
    """The records alone tell whether the run is paused and which messages wait."""
    state = SteeringState()
    steering = Steering(state)

    for name, brought in signals:
        match name:
            case "message":
                steering.receive_message(brought, now=NOW)
            case "pause":
                steering.pause(brought, now=NOW)
            case _:
                steering.resume(brought, now=NOW)

    kinds = [record.kind for record in steering.records]
    holds = [kind for kind in kinds if kind in ("paused", "resumed")]
    assert len(kinds) == len(signals)
    assert holds == ["paused", "resumed"] * (len(holds) // 2) + ["paused"] * (len(holds) % 2)
    assert (steering.paused is not None) == (holds[-1:] == ["paused"])
    assert len(state.messages) == kinds.count("message")
    assert sum(len(text) for text in state.messages) <= MAX_WAITING_BYTES


def test_a_flood_neither_fills_the_state_nor_loses_the_hold() -> None:
    """Waiting messages and records have a bound; who paused is known however much came after."""
    state = SteeringState()
    steering = Steering(state)

    steering.pause(sent({"by": "ann"}), now=NOW)
    for number in range(3 * MAX_RECORDS):
        steering.receive_message(sent({"text": f"m{number}"}), now=NOW)

    assert len(state.messages) == MAX_WAITING
    assert len(steering.records) == len(steering.publish().changes) == MAX_RECORDS
    assert steering.paused
    assert steering.paused.by == "ann"


def test_messages_are_taken_once_and_in_order() -> None:
    """What is taken does not come again; what is left at the end is said to have come too late."""
    steering = Steering(SteeringState())
    for text in ("one", "two"):
        steering.receive_message(sent({"text": text}), now=NOW)

    taken = steering.take_messages()
    steering.receive_message(sent({"text": "three"}), now=NOW)
    steering.close(now=NOW)

    assert (taken, steering.take_messages()) == (["one", "two"], [])
    assert [(record.kind, record.text) for record in steering.records][-1] == ("ignored", "three")


def test_the_sender_is_from_on_the_wire() -> None:
    """A plain JSON object of the `temporal` command and the API's payload are the same."""
    written = pydantic_data_converter.payload_converter.to_payload(SteeringMessage(text="hurry", sender="ann"))

    assert written.data == b'{"text":"hurry","from":"ann"}'


def test_the_memo_becomes_events_across_executions() -> None:
    """A resume after continue-as-new still tells how long the run was paused."""
    paused = SteeringRecord(kind="paused", at=NOW, by="ann", reason="lunch")
    later = NOW + timedelta(minutes=5)
    before, after = Handmade(), Handmade(execution=1)
    ignored = SteeringRecord(kind="ignored", at=NOW, signal="pause", by="eve", reason="already paused by 'ann'")

    before.add(
        "workflow_properties_modified",
        upsertedMemo={"fields": {MEMO_STEERING: payload(SteeringMemo(paused=paused, changes=(paused, ignored)))}},
    )
    after.add("workflow_execution_started", memo={"fields": {MEMO_STEERING: payload(SteeringMemo(paused=paused))}})
    changes = (
        SteeringRecord(kind="message", at=later, by="ann", text="hurry"),
        SteeringRecord(kind="resumed", at=later, by="bob"),
    )
    after.add(
        "workflow_properties_modified",
        upsertedMemo={"fields": {MEMO_STEERING: payload(SteeringMemo(changes=changes))}},
    )

    held, vain = before.events[1:]
    said, resumed = after.events[-2:]
    assert isinstance(held, RunHeld)
    assert (held.kind, held.by, held.reason) == ("run.paused", "ann", "lunch")
    assert isinstance(vain, SignalIgnored)
    assert (vain.name, vain.reason) == ("pause", "already paused by 'ann'")
    assert isinstance(said, MessageReceived)
    assert (said.sender, said.text) == ("ann", "hurry")
    assert isinstance(resumed, RunHeld)
    assert (resumed.kind, resumed.paused_for) == ("run.resumed", timedelta(minutes=5))
