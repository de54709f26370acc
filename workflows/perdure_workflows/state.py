"""All state of a run, in one model that is also what continue-as-new carries over."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, Field

    from perdure.activities import Segment, TailMessage
    from perdure.approval import Vote
    from perdure.budget import BudgetRecord
    from perdure.contracts import RunInput, Totals
    from perdure.grant import Grant
    from perdure.ledger.contracts import Raise, Used
    from perdure.messages import EMPTY_DIGEST, JsonObject, Message, ToolResult
    from perdure.oversight import ApprovalRecord, Decision, PendingApproval, SteeringRecord
    from perdure.plan import PlannedStep


class Call(BaseModel):
    """One tool call of the reply that is being answered."""

    call_id: str
    provider_id: str
    tool: str
    arguments: JsonObject
    malformed: str | None = None
    step: int
    rule: str = ""
    """The policy's rule that decided, if there is a policy."""
    resource: str | None = None
    """What the call touches, by the tool's template, if there is a policy."""
    grant_id: str = ""
    """The standing grant that lets it run."""
    approved_by: str | None = None
    """Who let it run; None until then, or when nobody was asked."""
    edited_by: str | None = None
    """Who gave it other arguments than the model's."""
    dispatched: bool = False
    """Whether it was ever handed to a worker."""
    lost: int = 0
    """Attempts whose outcome could not be told."""
    lost_because: str | None = None
    """What happened to the last attempt, while its outcome is unknown."""
    may_run_until: datetime | None = None
    """A worker cut off from the server could be running the lost attempt until then."""
    runs_on: bool = False
    """The lost attempt's thread outlived its activity, and may take effect whenever it likes."""
    result: ToolResult | None = None
    worker: str = ""
    """The worker process that has the result in memory."""


class Verdict(BaseModel):
    """A decision that counted and waits to be acted upon."""

    approved: bool
    decision: Decision
    expired: bool = False
    votes: tuple[Vote, ...] = ()
    """All who approved."""
    edits: bool = False
    """The decision brings other arguments, which are still to be checked."""
    question: PendingApproval | None = None
    """For an edit: what was asked when it came."""


class ApprovalsState(BaseModel):
    """What is asked, what was answered, and what happened on the way."""

    pending: dict[str, PendingApproval] = Field(default_factory=dict)
    verdicts: dict[str, Verdict] = Field(default_factory=dict)
    records: list[ApprovalRecord] = Field(default_factory=list)
    unpublished: list[ApprovalRecord] = Field(default_factory=list)
    """Records that the memo does not show yet."""
    grants: list[Grant] = Field(default_factory=list)
    """What may run without asking again, for this run."""


class SteeringState(BaseModel):
    """Who holds the run, what people said that the model has not heard yet, and what happened on the way."""

    paused: SteeringRecord | None = None
    messages: list[str] = Field(default_factory=list)
    records: list[SteeringRecord] = Field(default_factory=list)
    unpublished: list[SteeringRecord] = Field(default_factory=list)
    """Records that the memo does not show yet."""


class PurseState(BaseModel):
    """What the run has used, and what of its budgets it holds."""

    holder: str = ""
    """What the ledger knows the run by; empty until something is to be said, and after a reset."""
    began_at: datetime | None = None
    queued: bool = False
    """It waits for its place among the open runs."""
    has_spoken: bool = False
    """The ledger has heard of the holder."""
    used: Used = Field(default_factory=dict)
    """Since the holder began."""
    known: Used = Field(default_factory=dict)
    """The part of it that the ledger was told."""
    held: Decimal = Decimal(0)
    """Reserved and not spent."""
    known_model: str = ""
    """The model that reported its tokens last."""
    known_tokens: int = 0
    """What it then had before it, its reply included, at most."""
    known_size: int = 0
    """Of the transcript by then."""
    raised: dict[str, Decimal] = Field(default_factory=dict)
    """What humans have added to the run's own budgets."""
    raises: list[Raise] = Field(default_factory=list)
    """What they have added to shared ones, until the ledger was told."""
    asked: int = 0
    """How often a human has answered for a budget."""
    downgraded: bool = False
    unpublished: list[BudgetRecord] = Field(default_factory=list)
    """Records that the memo does not show yet."""


class TranscriptState(BaseModel):
    """The messages this execution holds, and where the ones before them are."""

    base: int = 0
    digest: str = EMPTY_DIGEST
    messages: list[Message] = Field(default_factory=list)
    segments: list[Segment] = Field(default_factory=list)
    size: int = 0
    """Bytes of all messages, those included that earlier executions hold."""


class RunState(BaseModel):
    """Everything a run knows beyond its input."""

    deadline: datetime
    totals: Totals = Totals()
    transcript: TranscriptState = Field(default_factory=TranscriptState)
    tail: list[TailMessage] = Field(default_factory=list)
    """Messages since the last model call."""
    model_worker: str = ""
    """The worker process that made the last model call."""
    calls: list[Call] = Field(default_factory=list)
    """The calls of the last reply, while they are being answered."""
    approvals: ApprovalsState = Field(default_factory=ApprovalsState)
    steering: SteeringState = Field(default_factory=SteeringState)
    purse: PurseState = Field(default_factory=PurseState)
    answer: str | None = None
    """The final answer, until it is sure that it ends the run."""
    mid_turn: bool = False
    """The provider paused its turn and goes on with it in the next call: no message may come between."""
    last_words: str = ""
    """The model's latest text: the output of a run that stops early."""
    unfinished_text: str = ""
    """What a reply said before it was cut; the next one goes on from there."""
    rejected: bool = False
    """A human's no ends the run."""
    plan: tuple[PlannedStep, ...] = ()
    """What the model means to do, as it last said."""
    denied: dict[int, str] = Field(default_factory=dict)
    """Steps that the policy denied, with their rules, until history has them."""


class RunArguments(RunInput):
    """The workflow's input: how the run was started, and after continue-as-new what it knew by then."""

    state: RunState | None = None
