"""What travels between API, workflow and activities: how a run is started, how it stands, and how it ends.

Fields are only ever added, with defaults, as a history written today is replayed by the code of tomorrow.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Final

from pydantic import Field

from perdure.agent import MAX_INPUT_BYTES as MAX_INPUT_BYTES
from perdure.agent import AgentSpec, Limits
from perdure.budget import Refusal, Terms
from perdure.grant import Grant
from perdure.messages import Frozen, is_empty
from perdure.oversight import ApprovalRecord, PendingApproval, SteeringRecord
from perdure.plan import PlannedStep
from perdure.policy import Policy

WORKFLOW_NAME: Final = "AgentRun"
DEFAULT_TASK_QUEUE: Final = "perdure"
MAX_MESSAGE_BYTES: Final = 64 * 1024
"""The largest message that joins a run under way."""
DEADLINE_TIMER: Final = "the run's deadline"
"""What the Web UI calls the timer of the run's time limit."""
APPROVAL_TIMER: Final = "deadline to approve"
"""What it calls those of approvals, with the tool's name behind it."""
MAX_REPLY_BYTES: Final = 1024 * 1024
"""The largest model reply that is taken into a history."""
CUT_MARKER: Final = "\n[… cut by Perdure: {dropped:,} of {total:,} bytes left out …]"


def cut(text: str, limit: int) -> str:
    """Shorten a text to `limit` bytes of UTF-8, its marker included; what UTF-8 cannot carry becomes `?`."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode()
    room = max(0, limit - len(CUT_MARKER) - 24)
    kept = encoded[:room].decode("utf-8", "ignore")
    return kept + CUT_MARKER.format(dropped=len(encoded) - len(kept.encode()), total=len(encoded))


def _is_none(value: object) -> bool:
    return value is None


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


class ForkOrigin(Frozen):
    """Where a fork began: the steps of that run before this one are its own."""

    run_id: str
    step: int


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
    forked_from: ForkOrigin | None = Field(default=None, exclude_if=_is_none)
    """The run that this one goes on from, with something changed."""
    trace: str = Field(default="", exclude_if=is_empty)
    """The W3C `traceparent` of the span that the run's spans belong to; empty: it was started without a trace."""


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
    tool_errors: int = Field(default=0, exclude_if=is_empty)
    """Tool calls that were made and failed; refused and rejected ones are not among them."""

    @property
    def known_cost(self) -> Decimal | None:
        """The whole cost; None when nobody has a price for some of it."""
        return None if self.unpriced_calls else self.cost_usd

    def with_step(self) -> Totals:
        """Return the totals with one step more."""
        return self.model_copy(update={"steps": self.steps + 1})

    def with_tool_error(self) -> Totals:
        """Return the totals with one failed tool call more."""
        return self.model_copy(update={"tool_errors": self.tool_errors + 1})

    def with_model_call(self, usage: Usage, *, cost_usd: Decimal | None, tool_calls: int) -> Totals:
        """Return the totals with a model call and the calls it led to; their steps are counted on their own."""
        return self.model_copy(
            update={
                "model_calls": self.model_calls + 1,
                "tool_calls": self.tool_calls + tool_calls,
                "usage": self.usage + usage,
                "cost_usd": self.cost_usd + (cost_usd or 0),
                "unpriced_calls": self.unpriced_calls + (cost_usd is None),
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
    plan: tuple[PlannedStep, ...] = Field(default=(), exclude_if=is_empty)
    """How far the model's plan was."""


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
    plan: tuple[PlannedStep, ...] = ()
    messages: int = 0
