"""What callers of the gateway and of the HTTP API send and get."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, computed_field

from perdure.agent import NAME_PATTERN, Limits
from perdure.approval import GrantTerm
from perdure.budget import Refusal, Usd
from perdure.contracts import ForkOrigin, RunError, RunStatus, Totals
from perdure.endpoint import MAX_URL
from perdure.events import StepApproval
from perdure.feedback import Feedback
from perdure.grant import Grant
from perdure.messages import Frozen, JsonObject
from perdure.oversight import PendingApproval, SteeringRecord
from perdure.plan import PlannedStep
from perdure.priority import Priority
from perdure.rate import Rate
from perdure.tool import Approval, Effect
from perdure_api.text import (
    APPROVAL_ID_PATTERN,
    RUN_ID_PATTERN,
    Arguments,
    Input,
    JsonValue,
    Line,
    SearchKey,
    Text,
)

MAX_BATCH = 100
"""Decisions that one request may bring."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]


class Request(BaseModel):
    """Something a caller sends: a field nobody knows is a mistake, and told."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Answer(Frozen):
    """Something a caller gets; fields may be added to it."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class NewRun(Request):
    """A run to start."""

    agent: Name
    version: Name | None = None
    """Default: the version registered last."""
    input: Input
    """What the agent is to do; at most 512 KiB of UTF-8."""
    user: SearchKey | None = None
    """On whose behalf; default: the caller, if it is known who that is."""
    org: SearchKey | None = None
    """Default, and for a caller of an organisation the only one: the caller's."""
    roles: Annotated[tuple[Line, ...], Field(max_length=50)] | None = None
    """What the run may do as, for its policy; default: all roles of the caller. Never more than those."""
    session_id: SearchKey | None = None
    """The conversation that it belongs to."""
    priority: Priority = Priority.NORMAL
    """Which runs go on first while workers are busy; among equals, organisations take turns."""
    limits: Limits = Limits()
    """The fields given replace the agent's; durations are seconds or ISO 8601."""
    metadata: dict[Line, Text] = Field(default_factory=dict)
    """Kept with the run; at most 16 KiB."""
    callback_url: Annotated[str, Field(min_length=1, max_length=MAX_URL)] | None = None
    """Told by a signed webhook when the run needs a human, and when it ends."""


class RunReference(Answer):
    """A run."""

    run_id: str


class StartedRun(RunReference):
    """A run that is under way."""

    created: bool
    """False: an earlier request with the same idempotency key had started it."""


class DownDependency(Answer):
    """Something that this process depends on, and that does not answer."""

    name: str
    """`temporal`, `workers`, `redis`, `audit` or `oidc`."""
    detail: str
    since: datetime
    """When this process first found it so."""


class RunFilter(Request):
    """Which runs to list; a field left out lets every run pass."""

    agent: Name | None = None
    version: Name | None = None
    status: RunStatus | None = None
    user: SearchKey | None = None
    org: SearchKey | None = None
    session_id: SearchKey | None = None
    error: SearchKey | None = None
    """Of a failed run: its error's type, as in `model_timeout`."""


class RunSummary(Answer):
    """A run in a list, as Temporal's visibility knows it."""

    run_id: str
    agent: str
    version: str
    status: RunStatus
    input: str
    """Its first 200 characters."""
    user: str | None = None
    org: str | None = None
    session_id: str | None = None
    started_at: datetime
    ended_at: datetime | None = None
    steps: int = 0
    """Of an open run: by the last time that it waited, or went on."""
    cost_usd: Decimal | None = Decimal(0)
    """As `steps`. None: nobody has a price for a model that was called, so the cost is not known."""
    waiting_for: tuple[str, ...] = ()
    """Ids of the pending approvals."""
    error_type: str | None = None
    """Of a failed run, as in `model_timeout`."""


class RunPage(Answer):
    """Runs, the newest first."""

    items: tuple[RunSummary, ...]
    next_page_token: str | None = None
    """Ask for the next page with it; None on the last one."""


class PendingCall(Answer):
    """A model call or a tool call that is under way, or waits to be tried again."""

    activity: str
    """`call_model`, `call_tool`, …"""
    running: bool
    """Whether a worker is busy with it at this moment."""
    attempt: int
    """1 for the first; between two attempts, the next one."""
    max_attempts: int | None = None
    """None: it is tried until it succeeds, or the run ends."""
    next_attempt_at: datetime | None = None
    """When it is tried again; None while it runs."""
    last_failure: RunError | None = None
    """Why the attempt before failed."""
    worker: str = ""
    """Identity of the worker process that made the last attempt."""


class RunDetail(RunSummary):
    """A run as it is now, or how it ended."""

    live: bool
    """Whether the numbers are the run's own, of now. False: no worker answered, and they are visibility's."""
    priority: Priority = Priority.NORMAL
    totals: Totals = Totals()
    pending_approvals: tuple[PendingApproval, ...] = ()
    pending_calls: tuple[PendingCall, ...] = ()
    """Calls under way; a run whose models do not answer shows here what it waits for."""
    paused: SteeringRecord | None = None
    """Who holds the run, since when and why; None while nobody does."""
    grants: tuple[Grant, ...] = ()
    """What may run without asking again, for this run."""
    plan: tuple[PlannedStep, ...] = ()
    """What the model means to do and how far it is, if its agent plans."""
    output: str | None = None
    """The answer; of a run that stopped early, the model's last words."""
    error: RunError | None = None
    reason: str = ""
    """Why it stopped early, in words."""
    refusal: Refusal | None = None
    """Of a run that is out of budget: of which one, how that stood, and when it begins anew."""
    feedback: tuple[Feedback, ...] = ()
    """What people and scorers think of it, the latest first."""
    forked_from: ForkOrigin | None = None
    """Of a fork: the run that it goes on from, and the step that it began with."""
    forks: tuple[str, ...] = ()
    """Ids of the runs that go on from this one, the newest first, 100 at most."""
    execution_id: str
    """Temporal's run id of the latest execution."""
    ui_url: str | None = None
    """The run in the Temporal Web UI."""
    trace_id: str | None = None
    """Of the run's trace, 32 hexadecimal digits; None: it was started without one."""

    @computed_field
    def cached_share(self) -> float | None:
        """The part of all input tokens that the providers had in their caches, from 0 to 1."""
        return self.totals.usage.cached_share


class InboxFilter(Request):
    """Which approvals to list; a field left out lets every one pass."""

    agent: Name | None = None
    user: SearchKey | None = None
    org: SearchKey | None = None
    tool: Line | None = None
    role: Line | None = None
    """What holders of this role may decide."""
    kind: Literal["call", "outcome", "budget"] | None = None


class InboxApproval(PendingApproval):
    """A pending approval, with the run that asks."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    run_id: str
    agent: str
    version: str
    input: str
    """Its first 200 characters."""
    user: str | None = None
    org: str | None = None
    session_id: str | None = None


class ApprovalDetail(StepApproval):
    """An approval's durable record: the question, and what became of it. It stays when the run is over."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    run_id: str
    status: Literal["pending", "approved", "rejected", "expired", "withdrawn"]
    step: int
    tool: str
    arguments: JsonObject
    """As they were asked about last."""
    digest: str
    rule: str = ""
    """Of the policy, that asks."""
    resource: str | None = None


class DecisionRequest(Request):
    """A human's decision on an approval."""

    decision: Literal["approve", "reject"]
    decided_by: Line | None = None
    """Required while the API is open; otherwise the caller decides, whom this may repeat."""
    reason: Annotated[Text, Field(max_length=4000)] = ""
    """The model hears the reason of a rejection."""
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Decide only if the call still has this digest."""
    arguments: Arguments | None = None
    """Approve with these arguments instead of the model's."""
    outcome: Literal["done", "retry"] | None = None
    """To approve a call whose outcome is unknown: it took effect, or is to be made again."""
    result: JsonValue = None
    """For outcome `done`: what the tool returned, as far as known."""
    grant: GrantTerm | None = None
    """Approve this tool on this resource for calls to come as well: `run`, seconds, ISO 8601 or as in `1h`; 30 days at
    most. With several approvers it holds if all of them want it, for the shortest time named."""
    amount_usd: Usd | None = None
    """For a budget: how much is added to it; with several approvers, the least that any of them names."""


class Decided(Answer):
    """What became of a decision."""

    run_id: str
    approval_id: str
    decision: Literal["approve", "reject"]
    confirmed: bool
    """True: the run has taken it. False: it is stored and waits for a worker."""
    missing: int = 0
    """How many more people must approve."""


class BatchItem(DecisionRequest):
    """One decision of several."""

    run_id: Annotated[str, Field(pattern=RUN_ID_PATTERN)]
    approval_id: Annotated[str, Field(pattern=APPROVAL_ID_PATTERN)]


class BatchRequest(Request):
    """Decisions on several approvals, of any runs."""

    items: Annotated[tuple[BatchItem, ...], Field(min_length=1, max_length=MAX_BATCH)]


class BatchOutcome(Answer):
    """What became of one decision of several."""

    run_id: str
    approval_id: str
    decided: Decided | None = None
    error: str = ""
    """Why it did not count; a decision by itself would have been answered with this problem."""
    status: int
    """The HTTP status that the decision by itself would have been answered with."""


class GrantFilter(Request):
    """Which standing grants to list; a field left out lets every one pass."""

    agent: Name | None = None
    user: SearchKey | None = None
    org: SearchKey | None = None
    tool: Line | None = None


class GrantList(Answer):
    """Standing grants, the newest first."""

    items: tuple[Grant, ...]


class RevokeRequest(Request):
    """Who takes a grant back, and why; kept with it."""

    by: Line | None = None
    reason: Annotated[Text, Field(max_length=1000)] = ""


class MessageRequest(Request):
    """Something a human says to a run under way."""

    model_config = ConfigDict(validate_by_name=True)

    text: Input
    """The model hears it when it is called next; at most 64 KiB of UTF-8."""
    sender: Line | None = Field(default=None, alias="from")
    """Who says it: the caller, if it is known who that is. Kept in the run's record, and not told to the model."""


class HoldRequest(Request):
    """Who pauses or resumes a run, and why; kept in its record."""

    by: Line | None = None
    """The caller, if it is known who that is."""
    reason: Annotated[Text, Field(max_length=1000)] = ""


class AgentTool(Answer):
    """A tool of an agent."""

    name: str
    description: str
    effect: Effect
    approval: Approval
    timeout: timedelta
    rate: Rate | None = None
    """How often all workers together may call it."""


class AgentSummary(Answer):
    """An agent that runs can be started with."""

    name: str
    version: str
    model: str
    fallbacks: tuple[str, ...]
    """Models that are asked in turn when the ones before them do not answer."""
    description: str
    tools: tuple[AgentTool, ...]
    limits: Limits
    default: bool
    """Whether a run that names no version gets this one."""
