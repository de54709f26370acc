"""What is remembered of a run's tool calls while its events are read: arguments' digests, and what the policy said."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from perdure.activities import call_digest
from perdure.events import ApprovalAsked, ApprovalChanged, ModelReplied, RequestedCall, RunEvent, ToolCalled
from perdure.events.payloads import OpenCall
from perdure.oversight import PendingApproval

_PERMISSIONS: Final = {"tool.called": "allow", "approval.asked": "ask", "tool.answered": "deny"}
"""What a rule said of a call, by the kind of event that carries the rule."""


class CarriedCall(OpenCall):
    """A call that is open when a run goes on in another execution."""

    approved_by: str | None = None


class Calls:
    """What a run's events have told of its tool calls."""

    def __init__(self) -> None:
        self._digests: dict[int, str] = {}
        self._decided: set[int] = set()

    def open(self, calls: Iterable[CarriedCall | RequestedCall]) -> None:
        """Know the calls of a reply."""
        self._digests, self._decided = {}, set()
        for call in calls:
            self._digests[call.step] = call_digest(call.tool, call.arguments)
            if isinstance(call, CarriedCall) and call.approved_by:
                self._decided.add(call.step)

    def ask(self, approvals: Iterable[PendingApproval]) -> None:
        """Know that humans were asked about calls before the events began."""
        self._decided |= {approval.step for approval in approvals}

    def permission(self, event: RunEvent) -> str:
        """Return what the policy said of a call, if the event is the first to tell of that; else nothing."""
        permission = "ask" if getattr(event, "grant_id", "") else _PERMISSIONS.get(event.kind, "")
        if event.step is None or not permission or not getattr(event, "rule", ""):
            return ""
        if event.kind == "tool.called" and event.step in self._decided:
            return ""  # humans were asked, or it is called again
        self._decided.add(event.step)
        return permission

    def digest(self, event: RunEvent) -> str:
        """Take in what an event says of a call's arguments, and return their digest; empty if nobody knows it."""
        match event:
            case ModelReplied():
                self.open(event.tool_calls)
                return ""
            case ToolCalled():
                told = call_digest(event.tool, event.arguments)
            case ApprovalAsked(digest=told) if told:
                pass
            case ApprovalChanged(kind="approval.edited"):
                told = ""  # they are told when the call is dispatched
            case _:
                return self._digests.get(event.step, "") if event.step and hasattr(event, "tool") else ""
        if event.step is not None:
            self._digests[event.step] = told
        return told
