"""Runs whose workflow code breaks: what fails, since when, and how often it was tried.

Temporal tries such a task again for ever, so a fixed build lets the run go on. Until then nothing of the run says so:
its status is that of its last good turn.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC
from typing import Final

from temporalio.api.enums.v1 import EventType, WorkflowTaskFailedCause
from temporalio.api.history.v1 import HistoryEvent
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.client import Client, WorkflowExecutionDescription

from perdure.events.payloads import short_name
from perdure_api.pending_calls import error_of
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import Stuck

LOOKED_AT: Final = 100
"""Events at a history's end that are looked at. A failing task writes few, as most attempts leave no trace."""
_NO_BUG: Final = (
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_UNHANDLED_COMMAND,
    WorkflowTaskFailedCause.WORKFLOW_TASK_FAILED_CAUSE_RESET_STICKY_TASK_QUEUE,
)
"""What the server itself has tasks fail for in a run that is well."""


async def stuck(client: Client, description: WorkflowExecutionDescription) -> Stuck | None:
    """Return what the code of an open run breaks by; None if it does not."""
    attempt = description.raw_description.pending_workflow_task.attempt
    if attempt < 2:
        return None
    failures = list(_failures(await _latest_events(client, description)))
    if not failures:
        return None  # its worker died: that is no bug, and another one takes over
    last = failures[0].workflow_task_failed_event_attributes
    error = await error_of(last.failure, description.data_converter)
    return Stuck(
        since=failures[-1].event_time.ToDatetime(tzinfo=UTC),
        attempts=attempt - 1,
        cause=short_name(WorkflowTaskFailedCause, last.cause),
        error=error,
        worker=last.identity,
    )


async def _latest_events(client: Client, description: WorkflowExecutionDescription) -> list[HistoryEvent]:
    request = GetWorkflowExecutionHistoryReverseRequest(namespace=client.namespace, maximum_page_size=LOOKED_AT)
    request.execution.workflow_id, request.execution.run_id = description.id, description.run_id
    with temporal_errors(run_id=description.id):
        answer = await client.workflow_service.get_workflow_execution_history_reverse(request, timeout=RPC_TIMEOUT)
    return list(answer.history.events)


def _failures(latest_first: list[HistoryEvent]) -> Iterator[HistoryEvent]:
    """Return the failures of the task that is not done yet, the latest first."""
    for event in latest_first:
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
            return
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_TASK_FAILED:
            if event.workflow_task_failed_event_attributes.cause in _NO_BUG:
                return
            yield event
