"""Errands: workflows that have one thing done for a run. Where each is, and why it has not come to its end.

While it goes on the server tells of its attempts; when it is over its history does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

import structlog
from temporalio.api.common.v1 import Payloads
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import WorkflowExecutionDescription, WorkflowExecutionStatus

from perdure.contracts import RunError
from perdure.errors import DecryptionError, RunNotFoundError
from perdure.events.payloads import describe
from perdure.history import fetch_execution
from perdure_api import visibility
from perdure_api.pending_calls import pending_calls
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors

MAX_LISTED: Final = 200
"""Executions of errands that are looked for, and so the most that one list has."""
AT_A_TIME: Final = 8
"""Errands of one list that are read at once; each takes two calls."""

ErrandStatus = Literal["under_way", "done", "failed"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Errand:
    """One, as it stands."""

    description: WorkflowExecutionDescription
    input: Payloads
    result: Payloads
    """Empty until it is done."""
    status: ErrandStatus
    attempts: int
    """That were begun, in this execution; 0 also if nobody can tell any more."""
    error: RunError | None
    """Why the last attempt failed, or the whole."""
    next_attempt_at: datetime | None


async def errands_of(reach: Reach, run_id: str, *, workflow_type: str) -> list[Errand]:
    """Return the errands of a run that the principal is known to see, the first started first.

    One that cannot be read, as its key is gone, is left out with a warning.
    """
    query = visibility.errand_query(run_id, workflow_type=workflow_type)
    rows = reach.client.list_workflows(query, page_size=MAX_LISTED, limit=MAX_LISTED, rpc_timeout=RPC_TIMEOUT)
    with temporal_errors():
        ids = {row.id: None async for row in rows}  # one that was begun anew has several rows
    gate = asyncio.Semaphore(AT_A_TIME)

    async def readable(workflow_id: str) -> Errand | None:
        async with gate:
            try:
                return await read_errand(reach, workflow_id)
            except RunNotFoundError:  # deleted meanwhile
                return None
            except DecryptionError as error:
                log.warning("errand_unreadable", workflow_id=workflow_id, error=str(error))
                return None

    found = await asyncio.gather(*map(readable, ids))
    return sorted((errand for errand in found if errand), key=lambda errand: errand.description.start_time)


async def read_errand(reach: Reach, workflow_id: str) -> Errand:
    """Return how an errand stands, in its latest execution.

    Raises:
        RunNotFoundError: There is none of that id, or its history is deleted.
        DecryptionError: Its key is gone.
    """
    with temporal_errors(run_id=workflow_id):
        description = await reach.client.get_workflow_handle(workflow_id).describe(rpc_timeout=RPC_TIMEOUT)
        history = await fetch_execution(reach.client, workflow_id, description.run_id)
    first, last = history.events[0], history.events[-1]
    status = _status(description)
    pending = await pending_calls(description) if status == "under_way" else ()
    if pending:
        error = pending[0].last_failure
        # Between two attempts the server counts the one to come.
        attempts = pending[0].attempt - (0 if pending[0].running else 1)
    else:
        error = _end(last) if status == "failed" else None
        attempts = max(_attempts(history.events), default=0)
    return Errand(
        description=description,
        input=first.workflow_execution_started_event_attributes.input,
        result=last.workflow_execution_completed_event_attributes.result,
        status=status,
        attempts=attempts,
        error=error,
        next_attempt_at=pending[0].next_attempt_at if pending else None,
    )


def _status(description: WorkflowExecutionDescription) -> ErrandStatus:
    if visibility.is_open(description):
        return "under_way"
    return "done" if description.status is WorkflowExecutionStatus.COMPLETED else "failed"


def _attempts(events: Sequence[HistoryEvent]) -> Iterator[int]:
    return (event.activity_task_started_event_attributes.attempt for event in events)  # 0 of other events


def _end(event: HistoryEvent) -> RunError:
    """Say why an errand ended that did not do its thing."""
    match event.WhichOneof("attributes"):
        case "workflow_execution_failed_event_attributes":
            message, kind = describe(_innermost(event.workflow_execution_failed_event_attributes.failure))
            return RunError(type=kind, message=message)
        case "workflow_execution_timed_out_event_attributes":
            return RunError(type="timed_out", message="no worker took it up in time")
        case "workflow_execution_terminated_event_attributes":
            reason = event.workflow_execution_terminated_event_attributes.reason
            return RunError(type="terminated", message=reason or "somebody ended it")
        case _:
            return RunError(type="cancelled", message="somebody cancelled it")


def _innermost(failure: Failure) -> Failure:
    """Return what an activity failed of, in place of the news that it did."""
    while failure.HasField("activity_failure_info") and failure.HasField("cause"):
        failure = failure.cause
    return failure
