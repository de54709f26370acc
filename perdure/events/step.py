"""The steps of a run: one per model call or tool call, put together from the events that tell of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Literal, assert_never

from perdure.activities import Finish, SkippedModel
from perdure.approval import ArgumentChange
from perdure.contracts import Usage
from perdure.events.event import (
    ApprovalAsked,
    ApprovalChanged,
    ModelCalled,
    ModelFailed,
    ModelReplied,
    RequestedCall,
    RunEnded,
    RunEvent,
    ToolAnswered,
    ToolCalled,
    ToolFailed,
    ToolFinished,
    ToolReconciled,
)
from perdure.messages import Frozen, JsonObject


class StepStatus(StrEnum):
    """Where a step is. The first three are states of an open step, the others its ends."""

    REQUESTED = "requested"
    """The model asked for the call; it is neither dispatched nor answered yet."""
    WAITING = "waiting"
    """A human is asked."""
    RUNNING = "running"
    COMPLETED = "completed"
    """There is a reply, or a result."""
    ERROR = "error"
    """A tool call that was answered with an error, which the model reads."""
    REJECTED = "rejected"
    DENIED = "denied"
    """The policy denied the call."""
    FAILED = "failed"
    """The attempts were used up; a failed model call ends the run, of a failed tool call the model hears."""
    LOST = "lost"
    """A `once` call of which nobody knows whether it took effect."""
    CANCELLED = "cancelled"
    UNFINISHED = "unfinished"
    """The run ended before it did."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will become of the step, as far as it is known by now."""
        return self not in (StepStatus.REQUESTED, StepStatus.WAITING, StepStatus.RUNNING)


class StepApproval(Frozen):
    """A question to a human about a step, and what became of it."""

    approval_id: str
    question: Literal["call", "outcome", "budget"] = "call"
    reason: str = ""
    """Why a human is asked."""
    asked_at: datetime
    deadline: datetime | None = None
    decision: Literal["approved", "rejected", "expired", "withdrawn"] | None = None
    decided_by: str = ""
    decided_at: datetime | None = None
    decision_reason: str = ""
    waited: timedelta | None = None
    edited: bool = False
    """Approved with other arguments than the model's."""
    changes: tuple[ArgumentChange, ...] = ()
    """What was changed in them last."""
    approvers: tuple[str, ...] = ()
    """Roles of which one is needed to decide; empty: whoever may decide at all."""
    quorum: int = 1
    votes: tuple[str, ...] = ()
    """Who approved while more were needed."""
    escalations: int = 0
    """How often nobody decided in time, and others were asked."""


class Step(Frozen):
    """One model call or tool call, with everything that became of it."""

    number: int
    kind: Literal["model", "tool"]
    name: str
    """The model or the tool."""
    status: StepStatus
    started_at: datetime
    """When the model was called; when the model asked for the tool."""
    ended_at: datetime | None = None
    duration: timedelta | None = None
    """Of the call itself, attempts and the pauses between them included, waiting for a human not."""
    attempts: int = 0
    """Attempts of all dispatches together."""
    retried_because: str | None = None
    worker: str = ""
    """Identity of the worker process that made the last attempt."""
    reference: str | None = None
    """The model that answered, as the agent names it: `provider:model`."""
    skipped: tuple[SkippedModel, ...] = ()
    """The agent's models before it, and why they did not answer."""
    finish: Finish | None = None
    text: str | None = None
    """What the model said."""
    usage: Usage | None = None
    cached_share: float | None = None
    """The part of the model's input that its provider had in a cache, from 0 to 1."""
    cost_usd: Decimal | None = None
    """None for a tool, and for a model that nobody has a price for."""
    arguments: JsonObject | None = None
    result: str | None = None
    cached: bool = False
    """The result is an earlier call's: the tool was not called."""
    error: str | None = None
    """Why the call failed or was lost."""
    rule: str = ""
    """Of the policy, that let the call run, had humans asked, or denied it."""
    grant_id: str = ""
    """The standing grant that let it run without asking."""
    approvals: tuple[StepApproval, ...] = ()


class StepLog:
    """Puts steps together from events, fed in order."""

    def __init__(self) -> None:
        self._steps: dict[int, Step] = {}

    @property
    def steps(self) -> list[Step]:
        """The steps as they are now, in order."""
        return [self._steps[number] for number in sorted(self._steps)]

    def find(self, number: int | None) -> Step | None:
        """Return the step of that number, if there is one yet."""
        return None if number is None else self._steps.get(number)

    def add(self, event: RunEvent) -> None:
        """Take in the next event."""
        match event:
            case ModelCalled(step=int(number)):
                self._steps[number] = Step(
                    number=number, kind="model", name=event.model, status=StepStatus.RUNNING, started_at=event.at
                )
            case ModelReplied():
                self._model_replied(event)
            case ModelFailed():
                self._failed(event)
            case ToolCalled():
                self._tool_called(event)
            case ToolFinished():
                self._tool_finished(event)
            case ToolFailed():
                self._failed(event)
            case ToolReconciled(content=str()):
                self._answered(event)
            case ToolAnswered():
                self._answered(event)
            case ApprovalAsked():
                self._asked(event)
            case ApprovalChanged():
                self._approval_changed(event)
            case RunEnded():
                for number, step in self._steps.items():
                    if not step.status.ended:
                        self._update(number, status=StepStatus.UNFINISHED, ended_at=event.at)

    def _model_replied(self, event: ModelReplied) -> None:
        self._update(
            event.step,
            status=StepStatus.COMPLETED,
            name=event.model,
            ended_at=event.at,
            duration=event.duration,
            attempts=event.attempts,
            retried_because=event.retried_because,
            worker=event.worker,
            reference=event.reference or None,
            skipped=event.skipped,
            finish=event.finish,
            text=event.text,
            usage=event.usage,
            cached_share=event.usage.cached_share,
            cost_usd=event.cost_usd,
        )
        for call in event.tool_calls:
            self._steps[call.step] = _requested(call, at=event.at)

    def _tool_called(self, event: ToolCalled) -> None:
        if event.step is None:
            return
        if event.step not in self._steps:  # the reply that asked for it is not among the events
            self._steps[event.step] = Step(
                number=event.step, kind="tool", name=event.tool, status=StepStatus.RUNNING, started_at=event.at
            )
        self._update(
            event.step,
            status=StepStatus.RUNNING,
            arguments=event.arguments,
            error=None,
            ended_at=None,
            rule=event.rule,
            grant_id=event.grant_id,
        )

    def _tool_finished(self, event: ToolFinished) -> None:
        self._update(
            event.step,
            status=StepStatus.ERROR if event.is_error else StepStatus.COMPLETED,
            result=event.content,
            cached=event.cached,
            **self._end(event),
        )

    def _failed(self, event: ModelFailed | ToolFailed) -> None:
        match event.kind:
            case "model.failed" | "tool.failed":
                status = StepStatus.FAILED
            case "model.cancelled" | "tool.cancelled":
                status = StepStatus.CANCELLED
            case "tool.lost":
                status = StepStatus.LOST
            case _:
                assert_never(event)
        self._update(event.step, status=status, error=event.error, **self._end(event))

    def _end(self, event: ModelFailed | ToolFinished | ToolFailed) -> dict[str, object]:
        before = self.find(event.step)
        return {
            "ended_at": event.at,
            "duration": event.duration + ((before and before.duration) or timedelta(0)),
            "attempts": event.attempts + (before.attempts if before else 0),
            "retried_because": event.retried_because,
            "worker": event.worker,
        }

    def _answered(self, event: ToolAnswered | ToolReconciled) -> None:
        step = self.find(event.step)
        if step is None:
            return
        if step.status is not StepStatus.REJECTED:
            status = StepStatus.ERROR if event.is_error else StepStatus.COMPLETED
            self._update(step.number, status=status)
        if isinstance(event, ToolAnswered) and event.rule:
            self._update(step.number, status=StepStatus.DENIED, rule=event.rule)
        self._update(step.number, result=event.content, ended_at=event.at)

    def _asked(self, event: ApprovalAsked) -> None:
        step = self.find(event.step)
        if step is None:
            return
        approval = StepApproval(
            approval_id=event.approval_id,
            question=event.question,
            reason=event.reason,
            asked_at=event.at,
            deadline=event.deadline,
            approvers=event.approvers,
            quorum=event.quorum,
        )
        others = tuple(asked for asked in step.approvals if asked.approval_id != event.approval_id)
        waiting = {"status": StepStatus.WAITING, "ended_at": None, "approvals": (*others, approval)}
        self._update(step.number, **waiting, rule=event.rule or step.rule)

    def _approval_changed(self, event: ApprovalChanged) -> None:
        step = self.find(event.step)
        if step is None or event.kind == "approval.ignored":
            return
        self._update(
            step.number,
            approvals=tuple(
                _changed(asked, event) if asked.approval_id == event.approval_id else asked for asked in step.approvals
            ),
        )
        # The dispatch that an approval allows comes before it in history, as the memo is written last.
        if event.kind == "approval.approved" and step.status is StepStatus.WAITING:
            self._update(step.number, status=StepStatus.REQUESTED)
        elif event.kind in ("approval.rejected", "approval.expired"):
            self._update(step.number, status=StepStatus.REJECTED, ended_at=event.at)

    def _update(self, number: int | None, **changes: object) -> None:
        if number is not None and (step := self._steps.get(number)):
            self._steps[number] = step.model_copy(update=changes)


def steps(events: Iterable[RunEvent]) -> list[Step]:
    """Return the steps that a run's events tell of, in order."""
    log = StepLog()
    for event in events:
        log.add(event)
    return log.steps


def _changed(asked: StepApproval, event: ApprovalChanged) -> StepApproval:
    """Return what became of a question."""
    match event.kind:
        case "approval.voted":
            update: dict[str, object] = {"votes": (*asked.votes, event.decided_by)}
        case "approval.edited":
            update = {"votes": (), "edited": True, "changes": event.changes}
        case "approval.escalated":
            update = {"votes": (), "approvers": event.approvers, "escalations": asked.escalations + 1}
        case _:
            update = {
                "decision": event.kind.removeprefix("approval."),
                "decided_by": event.decided_by,
                "decided_at": event.at,
                "decision_reason": event.reason,
                "waited": event.waited,
                "edited": event.edited,
            }
    return asked.model_copy(update=update)


def _requested(call: RequestedCall, *, at: datetime) -> Step:
    return Step(
        number=call.step,
        kind="tool",
        name=call.tool,
        status=StepStatus.REQUESTED,
        started_at=at,
        arguments=call.arguments,
    )
