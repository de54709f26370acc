"""What is done around every activity: its ids are bound to each log line it writes."""

from __future__ import annotations

from typing import Any

import structlog
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from perdure.contracts import ModelCall, ToolCall


class LogContext(Interceptor):
    """Bind run, activity, attempt, step and call to the log lines of an activity."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  # the SDK's name
        """Wrap the activity."""
        return _BindIds(next)


class _BindIds(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  # the SDK's name
        info = activity.info()
        ids: dict[str, object] = {
            "run_id": info.workflow_id,
            "activity": info.activity_type,
            "attempt": info.attempt,
        }
        argument = input.args[0] if input.args else None
        if isinstance(argument, ModelCall | ToolCall):
            ids |= {"step": argument.step, "agent": argument.agent}
        if isinstance(argument, ToolCall):
            ids |= {"call_id": argument.call_id, "tool": argument.tool, "user": argument.user, "org": argument.org}
        with structlog.contextvars.bound_contextvars(**ids):
            return await super().execute_activity(input)
