"""Tools in a test: called as the functions they are, or as a model would have them called."""

from __future__ import annotations

import asyncio
import inspect
import threading

import structlog
from pydantic import ValidationError

from perdure.app import App
from perdure.errors import ToolError, UnknownToolError
from perdure.messages import JsonObject, ToolResult
from perdure.schema import by_parameter, explain, read_arguments, write_result
from perdure.tool import ToolContext


def tool_context(
    *,
    run_id: str = "run-1",
    call_id: str = "call-1",
    attempt: int = 1,
    agent: str = "test",
    user: str | None = None,
    org: str | None = None,
    cancelled: bool = False,
) -> ToolContext:
    """Make a context; calls of the same run and call id have the same idempotency key.

    refund = await refund_order(tool_context(call_id="c7"), order_id="A-1001", amount=Decimal(5))
    """
    flag = threading.Event()
    if cancelled:
        flag.set()
    return ToolContext(
        run_id=run_id,
        call_id=call_id,
        idempotency_key=f"{run_id}:{call_id}",
        attempt=attempt,
        agent=agent,
        user=user,
        org=org,
        traceparent="",
        log=structlog.get_logger("perdure.tool").bind(run_id=run_id, call_id=call_id),
        _heartbeat=_no_heartbeat,
        _cancelled=flag,
    )


async def run_tool(app: App, name: str, arguments: JsonObject, *, context: ToolContext | None = None) -> ToolResult:
    """Run a tool with arguments as a model writes them, and return what the model would read.

        result = await run_tool(app, "refund_order", {"order_id": "A-1001", "amount": "5.00"})
        assert not result.is_error

    Arguments that do not fit and a `ToolError` are results, as in a run; what else the tool raises is let through.
    Approval, timeout and retries are the run's, and have no part in it.

    Raises:
        UnknownToolError: The app has no such tool.
    """
    tool = app.find_tool(name)
    if tool is None:
        known = ", ".join(tool.spec.name for tool in app.tools()) or "none"
        raise UnknownToolError(f"the app has no tool {name!r}; it has: {known}")
    context = context or tool_context()
    first = (context,) if tool.takes_context else ()
    try:
        named = by_parameter(read_arguments(tool, arguments))
    except ValidationError as error:
        return ToolResult(
            call_id=context.call_id, content=explain(error, name, secrets=tool.spec.secrets), is_error=True
        )
    try:
        if inspect.iscoroutinefunction(tool.function):
            result: object = await tool.function(*first, **named)
        else:
            result = await asyncio.to_thread(tool.function, *first, **named)
    except ToolError as error:
        return ToolResult(call_id=context.call_id, content=error.message, is_error=True)
    content = write_result(result)
    return ToolResult(call_id=context.call_id, content=content)


def _no_heartbeat(*details: object) -> None:
    """There is no server to beat for."""
