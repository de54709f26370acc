"""Activities as the workflow knows them: one input and one result model each, and their typed stubs.

Fields are only ever added, with defaults, as a history written today is replayed by the code of tomorrow.
"""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from pydantic import Field
from temporalio import activity

from perdure.contracts import Usage
from perdure.grant import Grant
from perdure.messages import AssistantMessage, Frozen, JsonObject, Message, ToolResult, is_empty

STILL_RUNNING: Final = "still_running"
"""Error type of `call_tool` when a plain function's time is over and its thread, which nothing can stop, goes on."""
CLEAN_UP_FAILED: Final = "clean_up_failed"
"""Error type of `clean_up_call` when the tool's function for it broke, or took too long."""
TOOL_MISSING: Final = "tool_missing"
"""Error type of `call_tool` when the worker does not have the tool: the call certainly did not run."""


class Segment(Frozen):
    """A stretch of the transcript that another execution holds: an earlier one of the run, or of a fork's origin."""

    execution_id: str
    """Temporal's run id of that execution."""
    start: int
    end: int
    closed_at: datetime
    run_id: str = Field(default="", exclude_if=is_empty)
    """Of a fork: the run that the execution is of; empty: the same run."""


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
    model: str = Field(default="", exclude_if=is_empty)
    """The model to call instead of the agent's own, `provider:model`; empty: the agent's."""
    user: str | None = Field(default=None, exclude_if=is_empty)
    org: str | None = Field(default=None, exclude_if=is_empty)
    trace: str = Field(default="", exclude_if=is_empty)
    """As in `RunInput`."""


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
    """Input of the activities `call_tool`, `check_call`, `reconcile_call` and `clean_up_call`."""

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
    trace: str = Field(default="", exclude_if=is_empty)
    """As in `RunInput`."""


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
async def clean_up_call(call: ToolCall) -> None:
    """Have the tool clean up behind a call that the run's end cut off."""
    raise NotImplementedError


@activity.defn
async def adopt_transcript(wanted: TranscriptSlice) -> TranscriptPage:
    """Read messages back from earlier executions of the run, before their histories are deleted."""
    raise NotImplementedError
