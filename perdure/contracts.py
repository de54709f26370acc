"""What travels between API, workflow and activities: one input and one result model each, and the activities' stubs.

Fields are only ever added, with defaults, as a history written today is replayed by the code of tomorrow.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import ConfigDict, Field
from temporalio import activity

from perdure.agent import MAX_INPUT_BYTES as MAX_INPUT_BYTES
from perdure.agent import AgentSpec, Limits
from perdure.approval import ApprovalRequirement, ArgumentChange, GrantTerm, Vote
from perdure.budget import Refusal, Terms
from perdure.grant import Grant
from perdure.messages import AssistantMessage, Frozen, JsonObject, Message, ToolResult, is_empty
from perdure.policy import Policy
from perdure.secret_arguments import mask_arguments

WORKFLOW_NAME: Final = "AgentRun"
DEFAULT_TASK_QUEUE: Final = "perdure"
MAX_MESSAGE_BYTES: Final = 64 * 1024
"""The largest message that joins a run under way."""
MAX_REPLY_BYTES: Final = 1024 * 1024
"""The largest model reply that is taken into a history."""
STILL_RUNNING: Final = "still_running"
"""Error type of `call_tool` when a plain function's time is over and its thread, which nothing can stop, goes on."""
TOOL_MISSING: Final = "tool_missing"
"""Error type of `call_tool` when the worker does not have the tool: the call certainly did not run."""
CUT_MARKER: Final = "\n[… cut by Perdure: {dropped:,} of {total:,} bytes left out …]"


def cut(text: str, limit: int) -> str:
    """Shorten a text to `limit` bytes of UTF-8, its marker included; what UTF-8 cannot carry becomes `?`."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode()
    room = max(0, limit - len(CUT_MARKER) - 24)
    kept = encoded[:room].decode("utf-8", "ignore")
    return kept + CUT_MARKER.format(dropped=len(encoded) - len(kept.encode()), total=len(encoded))


class RunStatus(StrEnum):
    """Where a run is. The first four are states of an open run, the others its ends."""

    QUEUED = "queued"
    """As many runs are open as may be; it begins when others have ended."""
    RUNNING = "running"
    WAITING = "waiting"
    """At least one approval waits for a human; calls that need none may be running."""
    PAUSED = "paused"
    """A human holds the run: no step starts; what was running ends, and approvals may be pending."""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    MAX_STEPS = "max_steps"
    REJECTED = "rejected"
    OUT_OF_BUDGET = "out_of_budget"
    """A budget had no room for the next model call."""
    TERMINATED = "terminated"
    """Ended from outside, by Temporal's terminate; the run itself could say nothing more."""

    @property
    def ended(self) -> bool:
        """Whether this is an end."""
        return self not in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.PAUSED)


class RunInput(Frozen):
    """What starts a run; pinned in its history."""

    spec: AgentSpec
    input: str
    """What the user asks, as the transcript's first message."""
    limits: Limits = Limits()
    user: str | None = None
    org: str | None = None
    session_id: str | None = None
    metadata: dict[str, str] = Field(default_factory=dict)
    policy: Policy | None = None
    """What governs the run's calls; None: the tools' own declarations."""
    roles: tuple[str, ...] = ()
    """Of the principal that started the run."""
    requested_by: str = ""
    """Who started the run; `user` is on whose behalf."""
    callback_url: str | None = None
    """Told when the run needs a human, and when it ends."""
    salt: str = ""
    """Random, for digests of calls: without it who sees a digest could guess a short secret argument. Set where a tool
    declares secrets."""
    terms: Terms | None = None
    """What it may spend, and that its organisation's ledger keeps count of it; None: nothing is limited or counted."""


class RunError(Frozen):
    """Why a run failed."""

    type: str
    """A stable name: `model_refused`, `model_request_rejected`, `model_timeout`, `context_window`, …"""
    message: str


class Usage(Frozen):
    """Tokens of model calls; sums of what the provider reported."""

    input_tokens: int = 0
    """All input tokens, cached ones included."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    """All output tokens, reasoning included."""

    @property
    def cached_share(self) -> float | None:
        """The part of the input that the provider had in its cache, from 0 to 1; None without any input."""
        return self.cache_read_tokens / self.input_tokens if self.input_tokens else None

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            cache_read_tokens=self.cache_read_tokens + other.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens + other.cache_write_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
        )


class Totals(Frozen):
    """What a run has used so far."""

    steps: int = 0
    """Model calls and tool calls together."""
    model_calls: int = 0
    tool_calls: int = 0
    usage: Usage = Usage()
    cost_usd: Decimal = Decimal(0)
    """Of the model calls that have a price."""
    unpriced_calls: int = 0
    """Model calls whose model nobody has a price for; while this is not 0, the cost is a lower bound."""

    @property
    def known_cost(self) -> Decimal | None:
        """The whole cost; None when nobody has a price for some of it."""
        return None if self.unpriced_calls else self.cost_usd

    def with_step(self) -> Totals:
        """Return the totals with one step more."""
        return self.model_copy(update={"steps": self.steps + 1})

    def with_reply(self, reply: ModelReply) -> Totals:
        """Return the totals with a model's reply and the calls it asks for; their steps are counted on their own."""
        return self.model_copy(
            update={
                "model_calls": self.model_calls + 1,
                "tool_calls": self.tool_calls + len(reply.message.tool_calls),
                "usage": self.usage + reply.usage,
                "cost_usd": self.cost_usd + (reply.cost_usd or 0),
                "unpriced_calls": self.unpriced_calls + (reply.cost_usd is None),
            }
        )


class RunResult(Frozen):
    """How a run ended, and what it had by then."""

    status: RunStatus
    output: str | None = None
    """The final answer; for a run that stopped early, the model's last words."""
    error: RunError | None = None
    totals: Totals = Totals()
    denied: dict[int, str] = Field(default_factory=dict, exclude_if=is_empty)
    """By their steps, calls that the policy denied and no model call told of any more, with the rule of each."""
    reason: str = ""
    """Why it stopped early, in words."""
    refusal: Refusal | None = None
    """Of a run that is out of budget: of which one."""


class PendingApproval(Frozen):
    """A question to a human: may this call run, or, if its outcome is unknown, what became of it?"""

    approval_id: str
    kind: Literal["call", "outcome", "budget"] = "call"
    """`call`: approve or reject a call before it runs. `outcome`: a `once` call was lost in flight; say what became of
    it: approve with outcome `done` (and the result) or `retry`, or reject to abort. `budget`: one has no room for the
    next model call; approve with `amount_usd` to add so much to it, or reject to end the run."""
    tool: str
    """Empty for a budget."""
    arguments: JsonObject
    """For a budget: which one, and how it stands."""
    digest: str
    """Of tool and arguments; a decision may name it to be sure of what it decides on."""
    step: int
    asked_at: datetime
    deadline: datetime | None = None
    reason: str = ""
    """Why a human is asked."""
    rule: str = ""
    """Of the policy, that asks."""
    resource: str | None = None
    """What the call touches, by the tool's template."""
    requirement: ApprovalRequirement = ApprovalRequirement()
    """Who must decide, how many of them, and what the deadline does."""
    not_from: tuple[str, ...] = ()
    """Who may not decide: duties are separated."""
    votes: tuple[Vote, ...] = ()
    """Who approved already, while more must."""
    edited_by: str = ""
    """Who changed the arguments that are shown here."""
    escalations: int = 0
    """How often nobody decided in time, and others were asked."""

    secrets: tuple[str, ...] = ()
    """Arguments that the tool declares as secret."""

    @property
    def missing(self) -> int:
        """How many more must approve."""
        return self.requirement.quorum - len(self.votes)

    def shown(self) -> PendingApproval:
        """Return the question as people may see it, its secret arguments masked."""
        if not self.secrets:
            return self
        return self.model_copy(update={"arguments": mask_arguments(self.arguments, self.secrets)})


class Decision(Frozen):
    """The payload of the signals `approve` and `reject`. Every field is optional on the wire and checked by the run."""

    approval_id: str = ""
    decided_by: str = ""
    roles: tuple[str, ...] = ()
    """Of whoever decides; `*` is every role."""
    reason: str = ""
    digest: str | None = None
    """Refuse the decision unless the call still has this digest."""
    arguments: JsonObject | None = None
    """Approve with these arguments instead of the model's; they are validated first."""
    outcome: Literal["done", "retry"] | None = None
    """For an unknown outcome only."""
    result: Any = None
    """For outcome `done`: what the tool returned, as far as known."""
    grant: GrantTerm | None = None
    """Approve calls of this tool on this resource to come as well: `run`, or for how long."""
    amount_usd: Decimal | None = None
    """For a budget: how much is added to it."""


class Revocation(Frozen):
    """The payload of the signal `revoke`: take back a grant that holds for the run."""

    grant_id: str = ""
    by: str = ""
    reason: str = ""


class ApprovalRecord(Frozen):
    """One thing that happened to an approval, as the run's memo records it."""

    kind: Literal[
        "asked",
        "voted",
        "edited",
        "escalated",
        "approved",
        "rejected",
        "expired",
        "withdrawn",
        "ignored",
        "granted",
        "revoked",
    ]
    at: datetime
    approval_id: str = ""
    tool: str = ""
    decided_by: str = ""
    reason: str = ""
    """The decider's reason; for `ignored`, why the decision had no effect."""
    edited: bool = False
    changes: tuple[ArgumentChange, ...] = ()
    """For `edited`: what was changed."""
    missing: int = 0
    """How many more must approve."""
    approvers: tuple[str, ...] = ()
    """For `escalated`: the roles that are asked now."""
    grant_id: str = ""
    """For `granted` and `revoked`."""
    expires_at: datetime | None = None
    """For `granted`: until when; None: with the run."""


class ApprovalsMemo(Frozen):
    """The memo field `approvals`: what is pending now, and what changed since the memo was last written."""

    pending: tuple[PendingApproval, ...] = ()
    changes: tuple[ApprovalRecord, ...] = ()


class SteeringMessage(Frozen):
    """The payload of the signal `message`. Every field is optional on the wire and checked by the run."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    text: str = ""
    sender: str = Field(default="", alias="from")


class Hold(Frozen):
    """The payload of the signals `pause` and `resume`; a signal without one will do."""

    by: str = ""
    reason: str = ""


class SteeringRecord(Frozen):
    """One thing that a human did to the course of the run, as the run's memo records it."""

    kind: Literal["paused", "resumed", "message", "ignored"]
    at: datetime
    by: str = ""
    text: str = ""
    """A message's first 200 characters; the transcript has it whole."""
    reason: str = ""
    """Why it was paused or resumed; for `ignored`, why the signal had no effect."""
    signal: str = ""
    """For `ignored`: the signal's name."""


class SteeringMemo(Frozen):
    """The memo field `steering`: whether the run is paused, and what changed since the memo was last written."""

    paused: SteeringRecord | None = None
    changes: tuple[SteeringRecord, ...] = ()


class RunView(Frozen):
    """The answer of the query `view`: the run as it is now."""

    status: RunStatus
    totals: Totals
    pending_approvals: tuple[PendingApproval, ...] = ()
    approvals: tuple[ApprovalRecord, ...] = ()
    """What happened to approvals in this run, the most recent 100."""
    grants: tuple[Grant, ...] = ()
    """What may run without asking again, for this run."""
    paused: SteeringRecord | None = None
    """Who holds the run, since when and why; None while nobody does."""
    steering: tuple[SteeringRecord, ...] = ()
    """Pauses, messages, and signals that had no effect, the most recent 100."""
    output: str | None = None
    messages: int = 0


class Segment(Frozen):
    """A stretch of the transcript that an earlier execution of the same run holds in its history."""

    execution_id: str
    """Temporal's run id of that execution."""
    start: int
    end: int
    closed_at: datetime


class TranscriptRequest(Frozen):
    """The argument of the query `transcript`."""

    start: int
    """Index of the first message wanted."""
    max_bytes: int = 1_500_000
    """Stop before the page is larger than this; one message always comes."""


class TranscriptPage(Frozen):
    """Part of a transcript."""

    start: int
    messages: tuple[Message, ...]
    length: int
    """Messages in the whole transcript."""
    segments: tuple[Segment, ...] = ()
    """Where the messages before this execution's own are."""
    base: int = 0
    """Index of the first message that this execution holds itself."""


class ResultReference(Frozen):
    """A tool result that the worker which runs the next model call has in memory, as it ran the tool."""

    call_id: str
    """The call, as in `ToolCall`."""
    provider_id: str
    """The call, as the provider names it."""


class TailMessage(Frozen):
    """A message that is new since the last model call: spelled out, or for tool results by reference."""

    message: Message | None = None
    results: tuple[ToolResult | ResultReference, ...] = ()
    """Without `message`: the results of a tool message."""


class ModelCall(Frozen):
    """Input of the activity `call_model`. It carries a digest of the conversation, never the conversation."""

    step: int
    agent: str
    version: str
    spec_digest: str
    length: int
    """Messages in the transcript that the model is to see."""
    digest: str
    """The transcript's rolling digest after them."""
    tail: tuple[TailMessage, ...] = ()
    """The last ones of these messages, for a worker that has those before."""
    timeout: timedelta
    denied: dict[int, str] = Field(default_factory=dict, exclude_if=is_empty)
    """By their steps, calls since the last model call that the policy denied, with the rule of each: the tail may be
    too large to be written here."""
    unfinished: str = ""
    """The end of what a reply said before it was cut, for an output guard: what it looks for may lie across the cut."""
    model: str = ""
    """The model to call instead of the agent's own, `provider:model`; empty: the agent's."""


class Finish(StrEnum):
    """Why the model stopped, in no provider's dialect."""

    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    """Cut at `max_output_tokens`; a tool call may be incomplete."""
    PAUSE = "pause"
    """The provider paused a long turn and wants to be called again."""
    REFUSAL = "refusal"
    CONTENT_FILTER = "content_filter"
    BLOCKED = "blocked"
    """The agent's output guard blocks the reply, which is not kept."""
    CONTEXT_WINDOW = "context_window"


class SkippedModel(Frozen):
    """A model that comes before the one that answered, and did not."""

    model: str
    """As the agent names it: `provider:model`."""
    error_type: str
    """The stable name of what kept it: `model_overloaded`, `circuit_open`, …"""
    why: str


class ModelReply(Frozen):
    """Result of the activity `call_model`."""

    message: AssistantMessage
    finish: Finish
    detail: str = ""
    """The provider's words on a refusal or filter."""
    model: str
    """The model that answered, as the provider names it."""
    reference: str = ""
    """The same model, as the agent names it: `provider:model`."""
    skipped: tuple[SkippedModel, ...] = ()
    """The agent's models before it, in order, and why they did not answer."""
    usage: Usage = Usage()
    cost_usd: Decimal | None = None
    """None when nobody has a price for the model: unpriced, not free."""
    worker: str = ""
    """The worker process that has the conversation in memory now."""
    withdrawn: int = 0
    """Characters at the end of `ModelCall.unfinished` that turned out to be the beginning of what a guard masks."""


class ToolCall(Frozen):
    """Input of the activities `call_tool`, `check_call` and `reconcile_call`."""

    step: int
    call_id: str
    tool: str
    arguments: JsonObject
    effect: str
    timeout: timedelta
    max_attempts: int = 1
    max_result_bytes: int = 64 * 1024
    agent: str = ""
    user: str | None = None
    org: str | None = None
    rule: str = Field(default="", exclude_if=is_empty)
    """Of the policy, that lets the call run."""
    grant_id: str = Field(default="", exclude_if=is_empty)
    """For `check_call`: the standing grant that would do in place of asking."""


class ToolOutcome(Frozen):
    """Result of the activity `call_tool`."""

    content: str
    is_error: bool = False
    cached: bool = False
    """An earlier call's result: the tool was not called."""
    worker: str = ""
    """The worker process that has the result in memory now."""


class CallCheck(Frozen):
    """Result of the activity `check_call`: whether arguments fit the tool's schema."""

    problem: str | None = None
    """What would be right, in words for the model; None when they fit."""
    grant: Grant | None = None
    """The standing grant that was asked for, if it stands."""


class Reconciliation(Frozen):
    """Result of the activity `reconcile_call`."""

    done: bool
    outcome: ToolOutcome | None = None
    """The tool's result, when the call took effect."""


class TranscriptSlice(Frozen):
    """Input of the activity `adopt_transcript`."""

    segments: tuple[Segment, ...]
    end: int
    """One past the last message wanted; the answer reaches back from there as far as one result may."""


def call_digest(tool: str, arguments: JsonObject, *, salt: str = "") -> str:
    """Identify a call's content: SHA-256 of the run's salt, the tool's name and its arguments as canonical JSON."""
    what = [salt, tool, arguments] if salt else [tool, arguments]
    content = json.dumps(what, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()


@activity.defn
async def call_model(call: ModelCall) -> ModelReply:
    """Have the model answer the transcript."""
    raise NotImplementedError


@activity.defn
async def call_tool(call: ToolCall) -> ToolOutcome:
    """Validate the arguments and run the tool."""
    raise NotImplementedError


@activity.defn
async def check_call(call: ToolCall) -> CallCheck:
    """Validate the arguments without running the tool."""
    raise NotImplementedError


@activity.defn
async def record_grant(grant: Grant) -> None:
    """Let a standing grant begin."""
    raise NotImplementedError


@activity.defn
async def reconcile_call(call: ToolCall) -> Reconciliation:
    """Ask the tool's probe whether a lost call took effect."""
    raise NotImplementedError


@activity.defn
async def adopt_transcript(wanted: TranscriptSlice) -> TranscriptPage:
    """Read messages back from earlier executions of the run, before their histories are deleted."""
    raise NotImplementedError
