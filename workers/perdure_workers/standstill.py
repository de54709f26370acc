"""What a run waits for while none of its steps is under way, as its events tell it."""

from __future__ import annotations

from perdure.events import ApprovalAsked, ApprovalChanged, RunAdmitted, RunEvent, RunQueued

_ANSWERED = ("approval.approved", "approval.rejected", "approval.expired", "approval.withdrawn")


class Standstill:
    """Follows a run's events."""

    def __init__(self) -> None:
        self._queued = False
        self._question: str | None = None

    def add(self, event: RunEvent) -> None:
        """Take in the next event."""
        match event:
            case RunQueued():
                self._queued = True
            case RunAdmitted():
                self._queued = False
            case ApprovalAsked(question="budget"):
                self._question = event.approval_id
            case ApprovalChanged() if event.approval_id == self._question and event.kind in _ANSWERED:
                self._question = None

    @property
    def waits(self) -> str:
        """What it waits for, as in `waits for …`; empty while it waits for nothing."""
        if self._queued:
            return "its place, as many runs are open as may be"
        return f"more money: {self._question}" if self._question else ""
