"""Watches runs begin and end: numbers of both, the span of the whole run, and ids on the lines that workflow code logs.

`ObservedRun` is inside the workflow, and gives no command. What it sees it hands to `record`, outside, and never while
history is replayed. A turn that is not accepted by the server is done again: then, rarely, an end is told twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog
from opentelemetry.trace import SpanKind, Status, StatusCode
from temporalio import workflow
from temporalio.exceptions import ApplicationError, FailureError, is_cancelled_exception
from temporalio.worker import ExecuteWorkflowInput, HandleSignalInput, WorkflowInboundInterceptor

from perdure import metrics, tracing
from perdure.contracts import WORKFLOW_NAME
from perdure.search_attributes import MEMO_STARTED

EXTERN: Final = "perdure_observe_run"
NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True)
class RunSeen:
    """A run that has begun, or ended."""

    run_id: str
    agent: str
    version: str
    trace: str
    started_at: datetime
    ended_at: datetime | None = None
    status: str = ""
    error_type: str = ""
    totals: Any = None
    """`Totals`; None if the run could not say."""


class ObservedRun(WorkflowInboundInterceptor):
    """Sees a run begin and end; other workflows only have their ids on log lines."""

    _ids: dict[str, Any] | None = None

    async def execute_workflow(self, input: ExecuteWorkflowInput) -> Any:  # noqa: A002  # the SDK's name
        """Run the workflow."""
        info = workflow.info()
        if info.workflow_type != WORKFLOW_NAME or not input.args:
            return await super().execute_workflow(input)
        arguments: Any = input.args[0]
        self._ids = _ids(arguments)
        structlog.contextvars.bind_contextvars(**self._ids)
        if info.continued_run_id is None:
            _tell(_seen(arguments, started_at=info.start_time))
        try:
            result: Any = await super().execute_workflow(input)
        except (FailureError, asyncio.CancelledError) as error:
            status = "cancelled" if is_cancelled_exception(error) else "failed"
            details = error.details if isinstance(error, ApplicationError) else ()
            kind = (error.type if isinstance(error, ApplicationError) else None) or type(error).__name__
            self._tell_end(arguments, status, details[0] if details else None, error_type=kind)
            raise
        self._tell_end(arguments, str(result.status), result)
        return result

    async def handle_signal(self, input: HandleSignalInput) -> None:  # noqa: A002  # the SDK's name
        """Take a signal in; the lines it leads to are this run's too."""
        if self._ids:
            structlog.contextvars.bind_contextvars(**self._ids)
        await super().handle_signal(input)

    def _tell_end(self, arguments: Any, status: str, result: Any, *, error_type: str = "") -> None:
        if workflow.unsafe.is_replaying():
            return
        started_at = workflow.memo_value(MEMO_STARTED, workflow.info().start_time, type_hint=datetime)
        totals = getattr(result, "totals", None)
        failed = error_type if status == "failed" else ""
        _tell(
            _seen(
                arguments,
                started_at=started_at,
                ended_at=workflow.now(),
                status=status,
                error_type=failed,
                totals=totals,
            )
        )


def record(seen: RunSeen) -> None:
    """Count a run's beginning or end, and leave the span of a whole run. Called outside the sandbox."""
    labels = {"agent": seen.agent, "version": seen.version}
    if seen.ended_at is None:
        metrics.runs_started.add(1, labels)
        return
    metrics.runs_ended.add(1, {**labels, "status": seen.status})
    seconds = (seen.ended_at - seen.started_at).total_seconds()
    metrics.run_duration.record(max(0.0, seconds), {"agent": seen.agent, "status": seen.status})
    span = tracing.tracer.start_span(
        f"run {seen.agent}",
        context=tracing.context_of(seen.trace, run_id=seen.run_id),
        kind=SpanKind.INTERNAL,
        start_time=_nanoseconds(seen.started_at),
        attributes={
            "gen_ai.conversation.id": seen.run_id,
            "gen_ai.agent.name": seen.agent,
            "gen_ai.agent.version": seen.version,
            "perdure.status": seen.status,
        },
    )
    if seen.totals is not None:
        span.set_attributes(
            {
                "perdure.steps": seen.totals.steps,
                "perdure.model_calls": seen.totals.model_calls,
                "perdure.tool_calls": seen.totals.tool_calls,
                "perdure.tool_errors": seen.totals.tool_errors,
                "perdure.cost_usd": float(seen.totals.cost_usd),
            }
        )
    if seen.status == "failed":
        span.set_attribute("error.type", seen.error_type)
        span.set_status(Status(StatusCode.ERROR, seen.error_type))
    span.end(end_time=_nanoseconds(seen.ended_at))


def _seen(arguments: Any, **facts: Any) -> RunSeen:
    return RunSeen(
        run_id=workflow.info().workflow_id,
        agent=arguments.spec.name,
        version=arguments.spec.version,
        trace=arguments.trace,
        **facts,
    )


def _tell(seen: RunSeen) -> None:
    if not workflow.unsafe.is_replaying():
        with workflow.unsafe.sandbox_unrestricted(), workflow.unsafe.imports_passed_through():
            workflow.extern_functions()[EXTERN](seen)


def _ids(arguments: Any) -> dict[str, Any]:
    ids = {
        "run_id": workflow.info().workflow_id,
        "agent": arguments.spec.name,
        "user": arguments.user,
        "org": arguments.org,
        "trace_id": tracing.trace_id_of(arguments.trace) if arguments.trace else None,
    }
    return {name: value for name, value in ids.items() if value is not None}


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * NANOSECONDS)
