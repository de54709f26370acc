"""What is done around every activity: its ids are bound to each log line, and it is one span of a trace.

Spans follow the OpenTelemetry conventions for generative AI (`chat`, `execute_tool`). They carry names, tokens and
durations, never what was said. Without a tracer provider they cost next to nothing.
"""

from __future__ import annotations

from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.util.types import AttributeValue
from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from perdure.activities import ModelCall, ModelReply, ToolCall, ToolOutcome
from perdure.app import App
from perdure.redaction import take_in_hand
from perdure.secret_arguments import secret_values

tracer = trace.get_tracer("perdure")


class Observation(Interceptor):
    """Log lines and spans of activities name their run, step and call, and mask the call's secret arguments."""

    def __init__(self, app: App) -> None:
        """Take the app, whose tools say which arguments are secret."""
        self._app = app

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  # the SDK's name
        """Wrap the activity."""
        return _Observed(next, self._app)


class _Observed(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, app: App) -> None:
        super().__init__(following)
        self._app = app

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  # the SDK's name
        info = activity.info()
        argument = input.args[0] if input.args else None
        take_in_hand(self._secrets(argument))
        with (
            structlog.contextvars.bound_contextvars(**_ids(info, argument)),
            tracer.start_as_current_span(_span_name(info, argument), attributes=_attributes(info, argument)) as span,
        ):
            result = await super().execute_activity(input)
            if span.is_recording():
                span.set_attributes(_outcome(result))
            return result

    def _secrets(self, argument: object) -> list[str]:
        tool = self._app.find_tool(argument.tool) if isinstance(argument, ToolCall) else None
        return secret_values(argument.arguments, tool.spec.secrets) if isinstance(argument, ToolCall) and tool else []


def _ids(info: activity.Info, argument: object) -> dict[str, object]:
    ids: dict[str, object] = {
        "run_id": info.workflow_id,
        "activity": info.activity_type,
        "attempt": info.attempt,
    }
    if isinstance(argument, ModelCall | ToolCall):
        ids |= {"step": argument.step, "agent": argument.agent}
    if isinstance(argument, ToolCall):
        ids |= {"call_id": argument.call_id, "tool": argument.tool, "user": argument.user, "org": argument.org}
    return ids


def _span_name(info: activity.Info, argument: object) -> str:
    if isinstance(argument, ModelCall):
        return f"chat {argument.agent}"
    if isinstance(argument, ToolCall) and info.activity_type == "call_tool":
        return f"execute_tool {argument.tool}"
    return info.activity_type


def _attributes(info: activity.Info, argument: object) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "gen_ai.conversation.id": info.workflow_id or "",
        "perdure.attempt": info.attempt,
    }
    if isinstance(argument, ModelCall):
        attributes |= {
            "gen_ai.operation.name": "chat",
            "gen_ai.agent.name": argument.agent,
            "perdure.step": argument.step,
        }
    if isinstance(argument, ToolCall):
        attributes |= {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.agent.name": argument.agent,
            "gen_ai.tool.name": argument.tool,
            "gen_ai.tool.call.id": argument.call_id,
            "perdure.step": argument.step,
            "perdure.effect": argument.effect,
        }
    return attributes


def _outcome(result: object) -> dict[str, AttributeValue]:
    if isinstance(result, ModelReply):
        return {
            "gen_ai.response.model": result.model,
            "perdure.model": result.reference,
            "perdure.skipped_models": [f"{skipped.model}: {skipped.error_type}" for skipped in result.skipped],
            "gen_ai.response.finish_reasons": [result.finish.value],
            "gen_ai.usage.input_tokens": result.usage.input_tokens,
            "gen_ai.usage.output_tokens": result.usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": result.usage.cache_read_tokens,
            "gen_ai.usage.cache_creation.input_tokens": result.usage.cache_write_tokens,
        }
    if isinstance(result, ToolOutcome):
        return {"perdure.tool.is_error": result.is_error, "perdure.tool.cached": result.cached}
    return {}
