"""The span `invoke_agent`, which a run begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.trace import SpanKind
from temporalio.exceptions import WorkflowAlreadyStartedError

from perdure import tracing
from perdure_workflows.state import RunArguments

CREATED: Final = "perdure.created"


@contextmanager
def agent_span(arguments: RunArguments, *, run_id: str) -> Iterator[str]:
    """Start a run in here; yield the traceparent that all of its spans belong to, empty without a trace.

    The span is as short as the start: a backend gets to know a span when it ends, and a run may wait for days. All that
    the run does hangs at it, and the span of the whole run follows when that has ended.
    """
    given = {"enduser.id": arguments.user, "perdure.org": arguments.org, "perdure.session_id": arguments.session_id}
    with tracing.tracer.start_as_current_span(
        f"invoke_agent {arguments.spec.name}",
        kind=SpanKind.CLIENT,
        attributes={
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": "perdure",
            "gen_ai.agent.name": arguments.spec.name,
            "gen_ai.agent.version": arguments.spec.version,
            "gen_ai.request.model": arguments.spec.model_name,
            "gen_ai.conversation.id": run_id,
            **{name: value for name, value in given.items() if value is not None},
        },
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield tracing.current_traceparent()
        except WorkflowAlreadyStartedError:
            span.set_attribute(CREATED, False)  # the same request again: nothing is wrong
            raise
        span.set_attribute(CREATED, True)
