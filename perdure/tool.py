"""Tools: the typed functions of a user's app that a model may call, and what the runtime knows of them."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from typing import Any, Final, Literal

from pydantic import BaseModel, Field

from perdure.caching import Caching
from perdure.messages import Frozen, JsonObject
from perdure.rate import Rate

DEFAULT_TIMEOUT: Final = timedelta(seconds=30)
DEFAULT_MAX_RESULT_BYTES: Final = 64 * 1024
NAME_PATTERN: Final = r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$"
"""What every provider takes as a tool's name."""
MAX_RESULT_BYTES: Final = 1024 * 1024
"""The most a tool may be allowed to return; Temporal refuses 2 MiB, and retries a refused result for ever."""


class Effect(StrEnum):
    """What calling a tool does to the world outside, which decides how it may be repeated."""

    READ = "read"
    """Changes nothing; may be repeated freely."""
    EGRESS = "egress"
    """Changes nothing but sends data outside, like fetching an address the model chose; may be repeated."""
    IDEMPOTENT = "idempotent"
    """Changes something, but twice is the same as once when the idempotency key is honoured; may be repeated."""
    ONCE = "once"
    """Changes something each time: dispatched with one attempt, and a lost attempt is an unknown outcome."""

    @property
    def repeatable(self) -> bool:
        """Whether a lost or failed attempt may simply be made again."""
        return self is not Effect.ONCE


class Approval(StrEnum):
    """Whether a human decides before the tool runs."""

    ALLOW = "allow"
    ASK = "ask"


class BuiltIn(StrEnum):
    """Tools that the run itself answers."""

    PLAN = "plan"
    """See `perdure.plan`."""


class ToolSpec(Frozen):
    """A tool without its function: what history, workflow and model need to know."""

    name: str
    description: str = ""
    input_schema: JsonObject
    effect: Effect = Effect.READ
    approval: Approval = Approval.ALLOW
    timeout: timedelta = DEFAULT_TIMEOUT
    max_attempts: int = 3
    max_result_bytes: int = DEFAULT_MAX_RESULT_BYTES
    has_reconcile: bool = False
    asks_always: bool = False
    """The author said `approval="ask"`: no policy lets a call run without a human."""
    resource: str | None = None
    """Template of what a call touches, for policies; see `perdure.resource`."""
    rate: Rate | None = None
    """How often all workers together may call it; its calls then have a task queue of their own."""
    secrets: tuple[str, ...] = ()
    """Arguments, or paths into them, that nobody but the tool is shown; see `perdure.secret_arguments`."""
    built_in: BuiltIn | None = Field(default=None, exclude_if=lambda value: value is None)
    """Which of the runtime's own it is; None: one of the app's."""


class NotDone:
    """A reconcile probe's answer: the call certainly had no effect."""

    def __repr__(self) -> str:
        return "NOT_DONE"


NOT_DONE: Final = NotDone()

ToolFunction = Callable[..., Awaitable[Any] | Any]


@dataclass(frozen=True)
class Tool:
    """A registered tool: its spec, its function, and the model its arguments are validated with."""

    spec: ToolSpec
    function: ToolFunction
    arguments: type[BaseModel]
    takes_context: bool
    caching: Caching | None = None
    """How long its results are good for other calls with the same arguments; None: each call is made."""
    reconcile: ToolFunction | None = None
    """Called as the function is; returns the result if the call took effect, `NOT_DONE` if it certainly did not, and
    raises when it cannot tell."""


@dataclass(frozen=True)
class ToolContext:
    """What a tool may know of the call it serves. A tool takes it as its first parameter, or leaves it out."""

    run_id: str
    """The run, which is Temporal's workflow id."""
    call_id: str
    """The call, unique in its run and the same in every attempt."""
    idempotency_key: str
    """Give this to whatever can recognise a repetition: it is the same in every attempt at this call, and differs
    between calls."""
    attempt: int
    """1 for the first attempt."""
    agent: str
    user: str | None
    org: str | None
    traceparent: str
    """The call's span as the W3C header `traceparent` has it, for systems that the tool calls; empty without one."""
    log: Any
    """A structlog logger bound to run, call and tool."""
    _heartbeat: Callable[..., None] = field(repr=False)
    _cancelled: threading.Event = field(repr=False)

    def heartbeat(self, *details: Any) -> None:
        """Report progress, visible in the Temporal Web UI. Liveness needs no call: the runtime beats by itself."""
        self._heartbeat(*details)

    @property
    def cancelled(self) -> bool:
        """Whether the call was cancelled or timed out; a long synchronous tool should look now and then."""
        return self._cancelled.is_set()


class ToolOptions(BaseModel, extra="forbid", frozen=True):
    """What `@app.tool(...)` accepts; the names are the decorator's."""

    name: str | None = Field(default=None, pattern=NAME_PATTERN)
    description: str | None = None
    effect: Effect = Effect.READ
    approval: Literal["ask", "allow"] | None = None
    timeout: timedelta = Field(default=DEFAULT_TIMEOUT, gt=timedelta(0), le=timedelta(hours=24))
    max_attempts: int = Field(default=3, ge=1, le=100)
    max_result_bytes: int = Field(default=DEFAULT_MAX_RESULT_BYTES, ge=1024, le=MAX_RESULT_BYTES)
    resource: str | None = Field(default=None, max_length=256)
    rate: Rate | None = None
    cache: timedelta | None = Field(default=None, gt=timedelta(0), le=timedelta(days=30))
    version: str = Field(default="1", min_length=1, max_length=64)
    secrets: tuple[str, ...] = ()
