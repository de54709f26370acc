"""What can happen in a run: one type per kind of event, told apart by `kind`, ordered by `id`.

Events are no record of their own. They follow from the run's Temporal history, so the same history gives the same
events with the same ids, in whichever process, during the run and after it.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, TypeAdapter

from perdure.activities import Finish, SkippedModel
from perdure.agent import Limits
from perdure.approval import ArgumentChange
from perdure.budget import Refusal
from perdure.contracts import ForkOrigin, RunError, RunStatus, Totals, Usage
from perdure.messages import Frozen, JsonObject

_EVENT_ID = re.compile(r"(\d{1,9})(?:r([1-9]\d{0,8}))?\.(\d{1,18})(?:\.([1-9]\d{0,8}))?", re.ASCII)


class EventId(NamedTuple):
    """Where an event is in its run. Comparing two of one run tells which came first."""

    execution: int
    """0 for the run's first execution; continue-as-new starts the next."""
    resets: int
    """How often it was reset by then: what comes after a reset has Temporal's ids of what it takes the place of."""
    history_event: int
    """Temporal's id of the history event that it follows from."""
    part: int = 0
    """Counts the events that follow from one history event."""

    @classmethod
    def parse(cls, text: str) -> EventId:
        """Read an id as `str()` writes it.

        Raises:
            ValueError: It is none.
        """
        match = _EVENT_ID.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not an event id; one looks like '0.17', '0.17.1', or '0r1.17' after a reset")
        return cls(*(int(number or 0) for number in match.groups()))

    def __str__(self) -> str:
        resets = f"r{self.resets}" if self.resets else ""
        place = f"{self.execution}{resets}.{self.history_event}"
        return f"{place}.{self.part}" if self.part else place


class Event(Frozen):
    """What every event says."""

    id: str
    """`{execution}[r{resets}].{history event}[.{part}]`; `EventId.parse` makes it comparable. An SSE client sends it
    back as Last-Event-ID to go on behind it."""
    at: datetime
    step: int | None = None
    """The step it belongs to; None for what concerns the whole run."""


class Attempted(Event):
    """The end of a model call or tool call, with what it took."""

    attempts: int = 1
    """Attempts that Temporal made, this one included; history keeps no other trace of the earlier ones."""
    retried_because: str | None = None
    """What went wrong in the attempt before the last."""
    worker: str = ""
    """Identity of the worker process that made the last attempt."""
    duration: timedelta = timedelta(0)
    """From scheduling to the end: queueing, attempts and the pauses between them."""


class RunStarted(Event):
    """A run began."""

    kind: Literal["run.started"] = "run.started"
    agent: str
    version: str
    model: str
    input: str
    tools: tuple[str, ...] = ()
    limits: Limits = Limits()
    user: str | None = None
    org: str | None = None
    session_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    forked_from: ForkOrigin | None = None
    """The run that it goes on from, and the step that it begins with."""


class RunContinued(Event):
    """The run goes on in a new execution with an empty history (continue-as-new)."""

    kind: Literal["run.continued"] = "run.continued"
    execution_id: str
    """Temporal's run id of the new execution."""


class RunReset(Event):
    """Somebody had the run go on from here once more; what followed in the old execution does not count."""

    kind: Literal["run.reset"] = "run.reset"
    execution_id: str
    """Temporal's run id of the old execution."""
    by: str = ""
    """Who had it retried; empty for a reset by other means."""
    reason: str = ""


class RunCancelRequested(Event):
    """Somebody asked to cancel the run."""

    kind: Literal["run.cancel_requested"] = "run.cancel_requested"
    requested_by: str = ""
    """Identity of the client that asked."""
    reason: str = ""


class RunEnded(Event):
    """The run is over. No event follows."""

    kind: Literal["run.ended"] = "run.ended"
    status: RunStatus
    output: str | None = None
    error: RunError | None = None
    totals: Totals = Totals()
    reason: str = ""
    """Why it stopped early; of a terminated run, in the words of whoever did that."""
    by: str = ""
    """Identity of the client that terminated it."""
    refusal: Refusal | None = None
    """Of a run that is out of budget: of which one."""


class RunQueued(Event):
    """The run waits for its place, as only so many may be open at once; it begins when it is admitted."""

    kind: Literal["run.queued"] = "run.queued"
    limits: dict[str, int] = Field(default_factory=dict)
    """How many runs may be open, by whom they are counted for: `org`, `user ann`."""


class RunAdmitted(Event):
    """The run has its place, and begins."""

    kind: Literal["run.admitted"] = "run.admitted"
    waited: timedelta | None = None
    """Since it was started, where that is known."""


class BudgetReserved(Event):
    """The ledger has put money aside for the run's next model calls, in each budget that counts it."""

    kind: Literal["budget.reserved"] = "budget.reserved"
    amount_usd: Decimal


class BudgetRefused(Event):
    """A budget had no room for the next model call, which was not made."""

    kind: Literal["budget.refused"] = "budget.refused"
    budget: str
    per: Literal["run", "day", "month"]
    subject: str = ""
    """Who has it: `org`, `user ann`, `agent support`; empty for the run's own."""
    cap_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal = Decimal(0)
    """By other runs."""
    needed_usd: Decimal
    """What the next call costs at worst."""
    resets_at: datetime | None = None
    """When the next period begins."""
    ledger_full: bool = False
    """The ledger cannot keep count for another subject."""
    reason: str
    """All of it in words."""


class BudgetRaised(Event):
    """Somebody put more money into a budget."""

    kind: Literal["budget.raised"] = "budget.raised"
    budget: str
    amount_usd: Decimal | None = None
    by: str = ""


class BudgetDowngraded(Event):
    """The run goes on with the agent's cheaper model."""

    kind: Literal["budget.downgraded"] = "budget.downgraded"
    model: str
    """`provider:model`."""


class RunHeld(Event):
    """Somebody paused the run, or let it go on."""

    kind: Literal["run.paused", "run.resumed"]
    by: str = ""
    reason: str = ""
    paused_for: timedelta | None = None
    """For `run.resumed`: since when it was paused, where that is known."""


class MessageReceived(Event):
    """The run took a message in; the model hears it when it is called next."""

    kind: Literal["message.received"] = "message.received"
    sender: str = ""
    """Who said it, by the message's own word."""
    text: str
    """Its first 200 characters; the transcript has it whole."""


class SignalIgnored(Event):
    """A signal to steer the run that had no effect, and why."""

    kind: Literal["signal.ignored"] = "signal.ignored"
    name: str
    """`message`, `pause` or `resume`."""
    by: str = ""
    text: str = ""
    reason: str


class ModelCalled(Event):
    """The model was asked to answer the transcript."""

    kind: Literal["model.called"] = "model.called"
    model: str
    """The agent's model reference, `provider:model`."""
    messages: int = 0
    """Messages in the transcript that it sees."""


class RequestedCall(Frozen):
    """A tool call that a reply asks for."""

    step: int
    """The step that the call is."""
    provider_id: str
    tool: str
    arguments: JsonObject = Field(default_factory=dict)
    malformed: str | None = None
    """The arguments as the model wrote them, when they are no JSON object."""


class ModelReplied(Attempted):
    """The model answered."""

    kind: Literal["model.replied"] = "model.replied"
    model: str
    """The model that answered, as the provider names it."""
    reference: str = ""
    """The same model, as the agent names it: `provider:model`."""
    skipped: tuple[SkippedModel, ...] = ()
    """The agent's models before it, and why they did not answer."""
    finish: Finish
    detail: str = ""
    text: str = ""
    tool_calls: tuple[RequestedCall, ...] = ()
    usage: Usage = Usage()
    cost_usd: Decimal | None = None
    """None: nobody has a price for the model."""


class ModelFailed(Attempted):
    """The model call ended without a reply."""

    kind: Literal["model.failed", "model.cancelled"]
    error: str
    error_type: str = ""
    """The error's stable name; for a time limit, which one: `heartbeat`, `start_to_close`, …"""


class ToolCalled(Event):
    """A tool call was dispatched. A `once` call may be dispatched again when its outcome is found to be nothing."""

    kind: Literal["tool.called"] = "tool.called"
    call_id: str
    tool: str
    arguments: JsonObject
    effect: str
    rule: str = ""
    """Of the policy, that let it run, or had humans asked."""
    grant_id: str = ""
    """The standing grant that let it run without asking."""


class ToolFinished(Attempted):
    """A tool call returned: a result, or an error that the model reads."""

    kind: Literal["tool.finished"] = "tool.finished"
    call_id: str
    tool: str
    content: str
    is_error: bool = False
    cached: bool = False
    """An earlier call's result: the tool was not called."""


class ToolFailed(Attempted):
    """A tool call ended without a result. `tool.lost`: a `once` call of which nobody knows whether it took effect."""

    kind: Literal["tool.failed", "tool.lost", "tool.cancelled"]
    call_id: str
    tool: str
    error: str
    error_type: str = ""
    """The error's stable name; for a time limit, which one: `heartbeat`, `start_to_close`, …"""


class ToolReconciled(Attempted):
    """The tool's probe was asked what became of a lost call."""

    kind: Literal["tool.reconciled"] = "tool.reconciled"
    call_id: str
    tool: str
    done: bool | None
    """Whether the call took effect; None: the probe could not tell."""
    content: str | None = None
    """The call's result, if it took effect."""
    is_error: bool = False
    error: str | None = None
    """Why the probe could not tell."""


class ToolCleanedUp(Attempted):
    """The run's end cut the call off, and the tool was asked to clean up behind it."""

    kind: Literal["tool.cleaned_up"] = "tool.cleaned_up"
    call_id: str
    tool: str
    error: str | None = None
    """Why it did not succeed, after all its attempts; None: it did."""


class ToolAnswered(Event):
    """A call got its answer without a dispatch that returned one: refused, rejected, cut off, or settled by a human.

    It is seen, and dated, when the model hears the answer.
    """

    kind: Literal["tool.answered"] = "tool.answered"
    tool: str
    content: str | None
    """None where history does not repeat the answer, as it is large."""
    is_error: bool = True
    rule: str = ""
    """Of the policy, that denied the call."""


class ApprovalAsked(Event):
    """A human is asked."""

    kind: Literal["approval.asked"] = "approval.asked"
    approval_id: str
    tool: str
    question: Literal["call", "outcome", "budget"] = "call"
    """`call`: may it run? `outcome`: what became of it? `budget`: may more be spent?"""
    arguments: JsonObject = Field(default_factory=dict)
    digest: str = ""
    reason: str = ""
    deadline: datetime | None = None
    rule: str = ""
    """Of the policy, that asks."""
    resource: str | None = None
    approvers: tuple[str, ...] = ()
    """Roles of which one is needed to decide; empty: whoever may decide at all."""
    quorum: int = 1
    """Different people who must approve."""


class ApprovalChanged(Event):
    """Something became of an approval; `approval.ignored` is a decision that had no effect, and why.

    `approval.voted`: somebody approved, and more must. `approval.edited`: somebody changed the arguments.
    `approval.escalated`: nobody decided in time, and others are asked.

    An approval and the call it lets run enter history together, the call first: `at` has them in their order.
    """

    kind: Literal[
        "approval.voted",
        "approval.edited",
        "approval.escalated",
        "approval.approved",
        "approval.rejected",
        "approval.expired",
        "approval.withdrawn",
        "approval.ignored",
    ]
    approval_id: str = ""
    tool: str = ""
    decided_by: str = ""
    reason: str = ""
    edited: bool = False
    """Approved with other arguments than the model's."""
    changes: tuple[ArgumentChange, ...] = ()
    """For `approval.edited`: what was changed."""
    missing: int = 0
    """For `approval.voted`: how many more must approve."""
    approvers: tuple[str, ...] = ()
    """For `approval.escalated`: roles of which one is needed now."""
    waited: timedelta | None = None
    """Since it was asked, where that is known."""


class GrantChanged(Event):
    """An approval holds for calls to come, or for the run no longer."""

    kind: Literal["grant.created", "grant.revoked"]
    grant_id: str
    tool: str
    by: str = ""
    """Everyone who approved it, or who revoked it."""
    reason: str = ""
    expires_at: datetime | None = None
    """None: with the run."""


class NoticeChanged(Event):
    """Somebody outside is told of the run, or was, or cannot be; what comes of it after the run's end is not seen."""

    kind: Literal["notice.sent", "notice.delivered", "notice.failed"]
    notice_id: str
    about: str
    """What they are told: the kind of another event."""
    host: str
    """Where; the whole address may be a secret."""
    error: str = ""


class SignalReceived(Event):
    """A signal reached the run's history. What it changed is told by the events after it, once a worker took it in."""

    kind: Literal["signal.received"] = "signal.received"
    name: str
    sender: str = ""
    """Identity of the client that sent it."""
    approval_id: str = ""
    """For a decision: the approval that it names."""


class WorkerTrouble(Event):
    """The workflow's own progress was disturbed, never its state: another worker, or a later attempt, goes on.

    `worker.lost`: a worker took too long or died. `worker.failed`: the workflow's code failed on a worker.
    """

    kind: Literal["worker.lost", "worker.failed"]
    error: str
    worker: str = ""


RunEvent = Annotated[
    RunStarted
    | RunContinued
    | RunReset
    | RunCancelRequested
    | RunEnded
    | RunQueued
    | RunAdmitted
    | BudgetReserved
    | BudgetRefused
    | BudgetRaised
    | BudgetDowngraded
    | RunHeld
    | MessageReceived
    | ModelCalled
    | ModelReplied
    | ModelFailed
    | ToolCalled
    | ToolFinished
    | ToolFailed
    | ToolReconciled
    | ToolCleanedUp
    | ToolAnswered
    | ApprovalAsked
    | ApprovalChanged
    | GrantChanged
    | NoticeChanged
    | SignalReceived
    | SignalIgnored
    | WorkerTrouble,
    Field(discriminator="kind"),
]

RUN_EVENT: TypeAdapter[RunEvent] = TypeAdapter(RunEvent)
