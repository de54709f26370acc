"""Steering a run by signal: messages that join its conversation, and a gate that people close and open.

As with approvals, a signal cannot be refused: what does not count changes nothing and is written down as `ignored`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeVar

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

    from perdure.contracts import MAX_MESSAGE_BYTES
    from perdure.oversight import Hold, SteeringMemo, SteeringMessage, SteeringRecord
    from perdure_workflows.signals import MAX_QUOTED, NO_PAYLOAD, read_signal
    from perdure_workflows.state import SteeringState

MAX_RECORDS = 100
MAX_WAITING = 100
MAX_WAITING_BYTES = 256 * 1024
"""All messages that wait together; continue-as-new carries them beside everything else."""

M = TypeVar("M", bound=BaseModel)


class Steering:
    """What people want of the run's course."""

    def __init__(self, state: SteeringState) -> None:
        self._state = state

    @property
    def paused(self) -> SteeringRecord | None:
        """Who holds the run, since when and why; None while nobody does."""
        return self._state.paused

    @property
    def has_messages(self) -> bool:
        """Whether people said something that the model has not heard."""
        return bool(self._state.messages)

    @property
    def records(self) -> tuple[SteeringRecord, ...]:
        """What happened, the most recent last."""
        return tuple(self._state.records)

    @property
    def changed(self) -> bool:
        """Whether the memo is behind."""
        return bool(self._state.unpublished)

    def receive_message(self, payload: RawValue, *, now: datetime) -> None:
        """Keep a message for the next model call, or record why not."""
        message = self._read(payload, SteeringMessage, signal="message", now=now)
        if message is None:
            return
        if problem := self._why_not(message):
            self._ignore("message", problem, by=message.sender, text=message.text, now=now)
            return
        self._state.messages.append(message.text)
        self._record(
            SteeringRecord(kind="message", at=now, by=message.sender[:MAX_QUOTED], text=message.text[:MAX_QUOTED])
        )

    def pause(self, payload: RawValue, *, now: datetime) -> None:
        """Close the gate, unless it is closed."""
        hold = self._read(payload, Hold, signal="pause", now=now)
        if hold is None:
            return
        if self._state.paused is not None:
            self._ignore("pause", f"already paused by {self._state.paused.by!r}", by=hold.by, now=now)
            return
        self._state.paused = _held("paused", hold, now=now)
        self._record(self._state.paused)

    def resume(self, payload: RawValue, *, now: datetime) -> None:
        """Open the gate, unless it is open."""
        hold = self._read(payload, Hold, signal="resume", now=now)
        if hold is None:
            return
        if self._state.paused is None:
            self._ignore("resume", "the run is not paused", by=hold.by, now=now)
            return
        self._state.paused = None
        self._record(_held("resumed", hold, now=now))

    def take_messages(self) -> list[str]:
        """Return what people said since the last time, in their order."""
        messages, self._state.messages = self._state.messages, []
        return messages

    def close(self, *, now: datetime) -> None:
        """Let go of everything, as the run ends."""
        self._state.paused = None
        for text in self.take_messages():
            self._ignore("message", "the run ended before its next model call", text=text, now=now)

    def publish(self) -> SteeringMemo:
        """Return what the memo should say, and regard it as said."""
        memo = SteeringMemo(paused=self._state.paused, changes=tuple(self._state.unpublished))
        self._state.unpublished.clear()
        return memo

    def _read(self, payload: RawValue, model: type[M], *, signal: str, now: datetime) -> M | None:
        if payload is NO_PAYLOAD:
            return model()
        try:
            return read_signal(payload, model)
        except ValueError as error:
            self._ignore(signal, str(error), now=now)
            return None

    def _why_not(self, message: SteeringMessage) -> str | None:
        if not message.text.strip():
            return 'the message has no text; send {"text": …, "from": …}'
        size = len(message.text.encode())
        if size > MAX_MESSAGE_BYTES:
            return f"the message is {size:,} bytes; at most {MAX_MESSAGE_BYTES:,} fit"
        waiting = sum(len(text.encode()) for text in self._state.messages)
        if len(self._state.messages) >= MAX_WAITING or waiting + size > MAX_WAITING_BYTES:
            return f"{len(self._state.messages)} messages of {waiting:,} bytes wait for the next model call already"
        return None

    def _ignore(self, signal: str, problem: str, *, by: str = "", text: str = "", now: datetime) -> None:
        self._record(
            SteeringRecord(
                kind="ignored",
                at=now,
                signal=signal,
                by=by[:MAX_QUOTED],
                text=text[:MAX_QUOTED],
                reason=problem[: 2 * MAX_QUOTED],
            )
        )

    def _record(self, record: SteeringRecord) -> None:
        self._state.records.append(record)
        self._state.unpublished.append(record)
        # A flood of signals must fill neither the memo nor what continue-as-new carries.
        del self._state.records[:-MAX_RECORDS]
        del self._state.unpublished[:-MAX_RECORDS]


def _held(kind: Literal["paused", "resumed"], hold: Hold, *, now: datetime) -> SteeringRecord:
    return SteeringRecord(kind=kind, at=now, by=hold.by[:MAX_QUOTED], reason=hold.reason[:MAX_QUOTED])
