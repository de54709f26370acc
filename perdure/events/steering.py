"""Steering as events: pauses, messages, and signals without effect, as the memo tells of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import assert_never

from perdure.events.event import MessageReceived, RunEvent, RunHeld, SignalIgnored
from perdure.events.stamp import Stamp
from perdure.oversight import SteeringMemo, SteeringRecord


class SteeringLog:
    """Follows the memo field `steering` through one execution."""

    def __init__(self) -> None:
        self._paused_at: datetime | None = None

    def carry_over(self, memo: SteeringMemo) -> None:
        """Know whether an earlier execution of the run was paused."""
        self._paused_at = memo.paused.at if memo.paused else None

    def feed(self, memo: SteeringMemo, stamp: Stamp) -> Iterator[RunEvent]:
        """Return what the memo says that it did not say before."""
        for record in memo.changes:
            yield self._event(record, stamp)

    def _event(self, record: SteeringRecord, stamp: Stamp) -> RunEvent:
        place, at = stamp.next_id(), record.at
        match record.kind:
            case "paused":
                self._paused_at = at
                return RunHeld(id=place, at=at, kind="run.paused", by=record.by, reason=record.reason)
            case "resumed":
                return RunHeld(
                    id=place,
                    at=at,
                    kind="run.resumed",
                    by=record.by,
                    reason=record.reason,
                    paused_for=self._pause_ends(at),
                )
            case "message":
                return MessageReceived(id=place, at=at, sender=record.by, text=record.text)
            case "ignored":
                return SignalIgnored(
                    id=place, at=at, name=record.signal, by=record.by, text=record.text, reason=record.reason
                )
            case _:
                assert_never(record.kind)

    def _pause_ends(self, at: datetime) -> timedelta | None:
        began, self._paused_at = self._paused_at, None
        return at - began if began else None
