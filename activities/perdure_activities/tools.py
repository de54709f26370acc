"""The activities around a tool: `call_tool`, `check_call`, `reconcile_call`, `clean_up_call`.

A tool's failure is a value for the model; an infrastructure failure is an exception for Temporal. Repeatable tools are
as idempotent as their effect promises; the key for it is (run id, call id). A `once` tool has one attempt, and anything
but a result or a `ToolError` leaves its outcome unknown.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from datetime import timedelta

import structlog
from pydantic import BaseModel, ValidationError
from temporalio import activity
from temporalio.exceptions import ApplicationError

from perdure import metrics
from perdure.activities import (
    CLEAN_UP_FAILED,
    STILL_RUNNING,
    TOOL_MISSING,
    CallCheck,
    Reconciliation,
    ToolCall,
    ToolOutcome,
)
from perdure.app import App
from perdure.caching import cache_key
from perdure.contracts import cut
from perdure.errors import ToolError
from perdure.schema import by_parameter, explain, read_arguments, write_result
from perdure.tool import Effect, NotDone, Tool, ToolContext, ToolFunction
from perdure.tracing import current_traceparent
from perdure_activities.grants import find_grant
from perdure_activities.heartbeat import Pulse, heartbeats
from perdure_activities.tool_cache import ToolCache
from perdure_activities.transcripts import Transcripts

MAX_ERROR_BYTES = 4096
OVERTIME = timedelta(seconds=4)
"""How long a plain function may take to end once it was told to; less than what the server adds to the timeout."""
log = structlog.get_logger(__name__)


class _StillRunningError(Exception):
    """A plain function's time, or its worker's, is over, and its thread goes on."""


class ToolActivities:
    """Tool calls of one worker process."""

    def __init__(
        self, app: App, *, transcripts: Transcripts, worker: str, threads: int, cache: ToolCache | None = None
    ) -> None:
        self._app = app
        self._cache = cache
        self._transcripts = transcripts
        self._worker = worker
        self._max_threads = threads
        self._threads = self._new_threads()

    def close(self) -> None:
        """Let the threads go; one that still runs ends with the process. Another worker of the plugin gets new ones."""
        threads, self._threads = self._threads, self._new_threads()
        threads.shutdown(wait=False, cancel_futures=True)

    def _new_threads(self) -> Executor:
        # Not asyncio's own threads: those are few, so that calls would wait in line while their time runs, and the
        # end of a loop waits for each of them.
        return ThreadPoolExecutor(self._max_threads, thread_name_prefix="tool")

    @activity.defn
    async def call_tool(self, call: ToolCall) -> ToolOutcome:
        """Validate the arguments and run the tool."""
        tool = self._tool(call)
        try:
            arguments = read_arguments(tool, call.arguments)
        except ValidationError as error:
            problem = explain(error, call.tool, secrets=tool.spec.secrets)
            _count_error(call, "invalid_arguments")
            return self._outcome(call, cut(problem, MAX_ERROR_BYTES), is_error=True)
        key = _key(tool, arguments, call) if self._cache else None
        if self._cache and key and (content := await self._cache.find(key)) is not None:
            return self._outcome(call, content, is_error=False, cached=True)
        with heartbeats() as pulse:
            try:
                async with asyncio.timeout(call.timeout.total_seconds()) as deadline:
                    result = await self._invoke(tool, tool.function, arguments, call, pulse)
            except ToolError as error:
                return self._failed(call, error.message, retry=error.retry, kind="tool_error")
            except _StillRunningError as error:
                if deadline.expired():
                    return self._broke(call, f"it took longer than {_seconds(call)} and is still running", error)
                if call.effect == Effect.ONCE:
                    return self._broke(call, "its worker was stopped while it was still running", error)
                raise asyncio.CancelledError from error
            except Exception as error:  # user code may raise anything
                if deadline.expired():
                    return self._broke(call, f"it took longer than {_seconds(call)}", error)
                log.warning("tool_raised", error=type(error).__name__, exc_info=True)
                return self._broke(call, f"{type(error).__name__}: {error}", error)
        content = write_result(result)
        if self._cache and key and tool.caching and _fits(content, call):
            await self._cache.keep(key, content, ttl=tool.caching.ttl)
        return self._outcome(call, content, is_error=False)

    @activity.defn
    async def check_call(self, call: ToolCall) -> CallCheck:
        """Validate the arguments without running the tool, and look for a standing grant."""
        tool = self._tool(call)
        try:
            read_arguments(tool, call.arguments)
        except ValidationError as error:
            return CallCheck(problem=cut(explain(error, call.tool, secrets=tool.spec.secrets), MAX_ERROR_BYTES))
        return CallCheck(grant=await find_grant(activity.client(), call.grant_id) if call.grant_id else None)

    @activity.defn
    async def reconcile_call(self, call: ToolCall) -> Reconciliation:
        """Ask the tool's probe whether a lost call took effect."""
        tool = self._tool(call)
        if tool.reconcile is None:
            raise ApplicationError(f"{call.tool} has no reconcile probe here", type="probe_missing", non_retryable=True)
        with heartbeats() as pulse:
            async with asyncio.timeout(call.timeout.total_seconds()):
                found = await self._invoke(tool, tool.reconcile, read_arguments(tool, call.arguments), call, pulse)
        if isinstance(found, NotDone):
            return Reconciliation(done=False)
        return Reconciliation(done=True, outcome=self._outcome(call, write_result(found), is_error=False))

    @activity.defn
    async def clean_up_call(self, call: ToolCall) -> None:
        """Have the tool undo what a call has begun that the run's end cut off. As idempotent as its author made it."""
        tool = self._tool(call)
        if tool.on_cancel is None:
            raise ApplicationError(f"{call.tool} cleans nothing up here", type=CLEAN_UP_FAILED, non_retryable=True)
        with heartbeats() as pulse:
            try:
                async with asyncio.timeout(call.timeout.total_seconds()) as deadline:
                    await self._invoke(tool, tool.on_cancel, read_arguments(tool, call.arguments), call, pulse)
            except Exception as error:  # user code may raise anything
                why = (
                    f"it took longer than {_seconds(call)}"
                    if deadline.expired()
                    else f"{type(error).__name__}: {error}"
                )
                log.warning("tool_clean_up_failed", error=type(error).__name__, exc_info=True)
                raise ApplicationError(cut(why, MAX_ERROR_BYTES), type=CLEAN_UP_FAILED) from error

    async def _invoke(
        self, tool: Tool, function: ToolFunction, arguments: BaseModel, call: ToolCall, pulse: Pulse
    ) -> object:
        named = by_parameter(arguments)
        cancelled = threading.Event()
        context = (_context(call, pulse, cancelled),) if tool.takes_context else ()
        try:
            if inspect.iscoroutinefunction(function):
                return await function(*context, **named)
            result = await _in_thread(self._threads, lambda: function(*context, **named), cancelled)
            return await result if inspect.isawaitable(result) else result
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def _tool(self, call: ToolCall) -> Tool:
        tool = self._app.find_tool(call.tool)
        if tool is None:
            _count_error(call, TOOL_MISSING)
            raise ApplicationError(f"this worker has no tool {call.tool!r}", type=TOOL_MISSING)
        return tool

    def _failed(self, call: ToolCall, why: str, *, retry: bool, kind: str) -> ToolOutcome:
        """Report a failure that certainly had no effect: to Temporal while it may be tried again, else to the model."""
        _count_error(call, kind)
        if retry and activity.info().attempt < call.max_attempts:
            raise ApplicationError(why, type=kind)
        return self._outcome(call, cut(why, MAX_ERROR_BYTES), is_error=True)

    def _broke(self, call: ToolCall, why: str, error: Exception) -> ToolOutcome:
        """Report a failure that may have come after the effect."""
        if call.effect == Effect.ONCE:
            kind = STILL_RUNNING if isinstance(error, _StillRunningError) else "outcome_unknown"
            _count_error(call, kind)
            raise ApplicationError(cut(why, MAX_ERROR_BYTES), type=kind, non_retryable=True) from error
        return self._failed(call, f"{call.tool} failed: {why}", retry=True, kind="tool_broke")

    def _outcome(self, call: ToolCall, content: str, *, is_error: bool, cached: bool = False) -> ToolOutcome:
        content = cut(content, call.max_result_bytes)
        run_id = activity.info().workflow_id or ""
        self._transcripts.remember_result(run_id, call.call_id, content, is_error=is_error)
        return ToolOutcome(content=content, is_error=is_error, cached=cached, worker=self._worker)


async def _in_thread(threads: Executor, function: Callable[[], object], cancelled: threading.Event) -> object:
    """Run a plain function. A thread cannot be stopped, only told; what it still does in its overtime counts."""
    in_context = contextvars.copy_context().run
    thread = asyncio.get_running_loop().run_in_executor(threads, in_context, function)
    thread.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may be left to ask
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError as error:
        cancelled.set()
        await asyncio.wait([thread], timeout=OVERTIME.total_seconds())
        if thread.done():
            return thread.result()
        if activity.is_cancelled() and not activity.is_worker_shutdown():
            raise
        raise _StillRunningError from error


def _key(tool: Tool, arguments: BaseModel, call: ToolCall) -> str | None:
    """Return what the call's result is cached under, if the tool is cached."""
    if tool.caching is None:
        return None
    # Without a context a tool cannot know who asks; with one it may answer each user in another way.
    asker = (call.user, call.agent) if tool.takes_context else ()
    return cache_key(
        tool=call.tool,
        version=tool.caching.version,
        schema=tool.spec.input_schema,
        tenant=(call.org, *asker),
        given=call.arguments,
        arguments=arguments,
    )


def _fits(content: str, call: ToolCall) -> bool:
    return len(content.encode("utf-8", "replace")) <= call.max_result_bytes


def _count_error(call: ToolCall, kind: str) -> None:
    # A worker without the tool knows no better than whoever asked for it which names there are.
    metrics.tool_errors.add(1, {"tool": call.tool if kind != TOOL_MISSING else "?", "type": kind})


def _seconds(call: ToolCall) -> str:
    return f"{call.timeout.total_seconds():g} s"


def _context(call: ToolCall, pulse: Pulse, cancelled: threading.Event) -> ToolContext:
    info = activity.info()
    run_id = info.workflow_id or ""
    return ToolContext(
        run_id=run_id,
        call_id=call.call_id,
        idempotency_key=f"{run_id}:{call.call_id}",
        attempt=info.attempt,
        agent=call.agent,
        user=call.user,
        org=call.org,
        traceparent=current_traceparent() or call.trace,
        log=structlog.get_logger("perdure.tool").bind(run_id=run_id, call_id=call.call_id, tool=call.tool),
        _heartbeat=pulse.note,
        _cancelled=cancelled,
    )
