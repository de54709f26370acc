"""The people of a what-if: what they are asked they answer as they did in the recorded run."""

from __future__ import annotations

from collections import deque
from typing import Final, Literal

from temporalio.client import WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from perdure.contracts import RunResult
from perdure.events import ApprovalAsked, ApprovalChanged, RunEvent
from perdure.oversight import Decision
from perdure_workers.whatif.playback import NOT_KNOWN, Playback, Unknown, as_decided
from perdure_workers.whatif.recording import Answered
from perdure_workflows.agent_run import AgentRun

MAX_MORE: Final = 8
"""Approvals by nobody in particular, where the recorded ones do not add up without the time that passed."""
Said = tuple[Literal["approve", "reject"], Decision]
Handle = WorkflowHandle[AgentRun, RunResult]


class Approver:
    """Follows a what-if's events and sends what was decided, one decision at a time."""

    def __init__(self, handle: Handle, playback: Playback) -> None:
        self._handle = handle
        self._playback = playback
        self._left: dict[str, deque[Said]] = {}

    async def follow(self, event: RunEvent) -> None:
        """Answer what an event asks."""
        match event:
            case ApprovalAsked(question="call"):
                await self._asked(event)
            case ApprovalChanged(kind="approval.approved" | "approval.rejected" | "approval.expired"):
                self._left.pop(event.approval_id, None)
            case ApprovalChanged():
                await self._say_next(event.approval_id)

    async def _asked(self, event: ApprovalAsked) -> None:
        match self._playback.answer_to(event.approval_id):
            case Answered() as answered:
                self._left[event.approval_id] = _sayings(answered, event)
                await self._say_next(event.approval_id)
            case Unknown() as unknown:
                self._playback.note(unknown)
                if self._playback.stopped.is_set():
                    return
                refusal = Decision(decided_by="what-if", reason=NOT_KNOWN.format(why=unknown.why))
                self._left[event.approval_id] = deque([("reject", _about(event.approval_id, refusal))])
                await self._say_next(event.approval_id)

    async def _say_next(self, approval_id: str) -> None:
        left = self._left.get(approval_id)
        if not left:
            return
        name, decision = left.popleft()
        try:
            await self._handle.signal(name, decision)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # the run is over meanwhile
                raise


def _sayings(answered: Answered, event: ApprovalAsked) -> deque[Said]:
    decided = [
        (name, _about(event.approval_id, as_decided(decision, recorded=answered.digest, asked=event.digest)))
        for name, decision in answered.decisions
    ]
    if answered.end == "expired":
        late = Decision(decided_by="deadline", roles=("*",), reason="nobody decided before the deadline")
        decided.append(("reject", _about(event.approval_id, late)))
    elif answered.end == "approved":
        more = (Decision(decided_by=f"as recorded, {number}", roles=("*",)) for number in range(MAX_MORE))
        decided += [("approve", _about(event.approval_id, one)) for one in more]
    return deque(decided)


def _about(approval_id: str, decision: Decision) -> Decision:
    return decision.model_copy(update={"approval_id": approval_id})
