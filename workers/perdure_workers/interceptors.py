"""What is done around every activity and every run: ids are bound to each log line, spans and numbers are recorded.

Spans follow the OpenTelemetry conventions for generative AI. They carry names, tokens and durations; what was said only
if that is switched on. Without a tracer provider they cost next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue
from temporalio import activity
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
)

from perdure import metrics, tracing
from perdure.activities import ModelCall, ModelReply, ToolCall, ToolOutcome
from perdure.app import App
from perdure.notice import Notice
from perdure.redaction import take_in_hand
from perdure.secret_arguments import mask_arguments, secret_values
from perdure.span_content import as_attribute
from perdure_workers.run_observation import EXTERN, ObservedRun, record

log = structlog.get_logger(__name__)


class Observation(Interceptor):
    """Log lines and spans of activities name their run, step and call, and mask the call's secret arguments."""

    def __init__(self, app: App, *, trace_content: bool = False) -> None:
        """Take the app, whose tools say which arguments are secret.

        Args:
            app: Of the worker.
            trace_content: Whether spans show arguments and results.
        """
        self._app = app
        self._trace_content = trace_content

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002  # the SDK's name
        """Wrap the activity."""
        return _Observed(next, self._app, trace_content=self._trace_content)

    def workflow_interceptor_class(
        self,
        input: WorkflowInterceptorClassInput,  # noqa: A002  # the SDK's name
    ) -> type[WorkflowInboundInterceptor] | None:
        """Watch runs begin and end; what is seen is recorded outside the sandbox."""
        input.unsafe_extern_functions.update({EXTERN: record})
        return ObservedRun


class _Observed(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, app: App, *, trace_content: bool) -> None:
        super().__init__(following)
        self._app = app
        self._trace_content = trace_content

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002  # the SDK's name
        info = activity.info()
        argument = input.args[0] if input.args else None
        take_in_hand(self._secrets(argument))
        with structlog.contextvars.bound_contextvars(**_ids(info, argument)):
            if not isinstance(argument, ModelCall | ToolCall | Notice):  # the runtime's own, of no trace
                return await super().execute_activity(input)
            with tracing.tracer.start_as_current_span(
                _span_name(info, argument),
                context=tracing.context_of(_trace(argument), run_id=info.workflow_id or ""),
                attributes=_attributes(info, argument),
            ) as span:
                with _measured(info, argument) as measured:
                    result = measured.result = await super().execute_activity(input)
                if span.is_recording():
                    span.set_attributes(_outcome(result))
                    if self._trace_content:
                        self._show(span, argument, result)
                return result

    def _show(self, span: Span, argument: object, result: object) -> None:
        if isinstance(argument, ToolCall) and isinstance(result, ToolOutcome):
            tool = self._app.find_tool(argument.tool)
            arguments = mask_arguments(argument.arguments, tool.spec.secrets if tool else ())
            span.set_attribute("gen_ai.tool.call.arguments", as_attribute(arguments))
            span.set_attribute("gen_ai.tool.call.result", as_attribute(result.content))

    def _secrets(self, argument: object) -> list[str]:
        tool = self._app.find_tool(argument.tool) if isinstance(argument, ToolCall) else None
        return secret_values(argument.arguments, tool.spec.secrets) if isinstance(argument, ToolCall) and tool else []


@dataclass
class _Measured:
    result: object = None


@contextmanager
def _measured(info: activity.Info, argument: object) -> Iterator[_Measured]:
    """Measure an attempt at a tool call, and say how it went."""
    measured, began = _Measured(), time.perf_counter()
    try:
        yield measured
    finally:
        if isinstance(argument, ToolCall) and info.activity_type == "call_tool":
            outcome = _way(measured.result)
            seconds = time.perf_counter() - began
            metrics.tool_duration.record(seconds, {"tool": argument.tool, "outcome": outcome})
            log.info("tool_called", outcome=outcome, seconds=round(seconds, 3))


def _way(result: object) -> str:
    if not isinstance(result, ToolOutcome) or result.is_error:
        return "error"
    return "cached" if result.cached else "ok"


def _trace(argument: object) -> str:
    return argument.trace if isinstance(argument, ModelCall | ToolCall | Notice) else ""


def _ids(info: activity.Info, argument: object) -> dict[str, object]:
    ids: dict[str, object] = {
        "run_id": argument.run.run_id if isinstance(argument, Notice) else info.workflow_id,
        "activity": info.activity_type,
        "attempt": info.attempt,
    }
    if isinstance(argument, ModelCall | ToolCall):
        ids |= {"step": argument.step, "agent": argument.agent, "user": argument.user, "org": argument.org}
    if isinstance(argument, ToolCall):
        ids |= {"call_id": argument.call_id, "tool": argument.tool}
    if isinstance(argument, Notice):
        ids |= {"agent": argument.run.agent, "user": argument.run.user, "org": argument.run.org}
    return ids


def _span_name(info: activity.Info, argument: object) -> str:
    if isinstance(argument, ToolCall) and info.activity_type == "call_tool":
        return f"execute_tool {argument.tool}"
    if isinstance(argument, Notice):
        return f"deliver {argument.type}"
    return info.activity_type


def _attributes(info: activity.Info, argument: object) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "gen_ai.conversation.id": argument.run.run_id if isinstance(argument, Notice) else info.workflow_id or "",
        "perdure.attempt": info.attempt,
    }
    if isinstance(argument, ModelCall):
        attributes |= {"gen_ai.agent.name": argument.agent, "perdure.step": argument.step}
    if isinstance(argument, ToolCall):
        attributes |= {
            "gen_ai.agent.name": argument.agent,
            "gen_ai.tool.name": argument.tool,
            "gen_ai.tool.call.id": argument.call_id,
            "perdure.step": argument.step,
            "perdure.effect": argument.effect,
        }
        if info.activity_type == "call_tool":
            attributes |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.type": "function"}
    if isinstance(argument, ModelCall | ToolCall):
        attributes |= {
            name: value
            for name, value in (("enduser.id", argument.user), ("perdure.org", argument.org))
            if value is not None
        }
    return attributes


def _outcome(result: object) -> dict[str, AttributeValue]:
    if isinstance(result, ModelReply):
        cost = {} if result.cost_usd is None else {"perdure.cost_usd": float(result.cost_usd)}
        return {
            "perdure.model": result.reference,
            "perdure.skipped_models": [f"{skipped.model}: {skipped.error_type}" for skipped in result.skipped],
            **cost,
        }
    if isinstance(result, ToolOutcome):
        return {"perdure.tool.is_error": result.is_error, "perdure.tool.cached": result.cached}
    return {}
