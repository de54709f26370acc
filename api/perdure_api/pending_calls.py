"""Calls under way, as Temporal tells of them: which attempt, why the one before failed, when the next one comes.

History has a call's attempts only when it ends, so this is where a model that does not answer shows.
"""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.failure.v1 import Failure
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowExecutionDescription
from temporalio.converter import DataConverter
from temporalio.exceptions import ApplicationError

from perdure.contracts import RunError
from perdure.errors import DecryptionError
from perdure.events.payloads import describe
from perdure_api.schemas import PendingCall


async def pending_calls(description: WorkflowExecutionDescription) -> tuple[PendingCall, ...]:
    """Return the calls under way of an execution, in the order in which they were dispatched."""
    converter = description.data_converter
    pending = sorted(description.raw_description.pending_activities, key=lambda each: each.scheduled_time.ToDatetime())
    return tuple([await _pending_call(activity, converter) for activity in pending])


async def _pending_call(activity: PendingActivityInfo, converter: DataConverter) -> PendingCall:
    running = activity.state != PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
    failed = activity.HasField("last_failure")
    return PendingCall(
        activity=activity.activity_type.name,
        running=running,
        attempt=activity.attempt,
        max_attempts=activity.maximum_attempts or None,
        next_attempt_at=None if running or not failed else _moment(activity.next_attempt_schedule_time),
        last_failure=await error_of(activity.last_failure, converter) if failed else None,
        worker=activity.last_worker_identity,
    )


async def error_of(failure: Failure, converter: DataConverter) -> RunError:
    """Return a failure's name and words, as far as they can be read."""
    try:
        error = await converter.decode_failure(failure)
    except DecryptionError as lost:  # when and how often it is tried is known all the same
        return RunError(type="", message=f"({lost})")
    if isinstance(error, ApplicationError):
        return RunError(type=error.type or "", message=error.message)
    message, kind = describe(failure)
    return RunError(type=kind, message=message)


def _moment(time: Timestamp) -> datetime | None:
    return time.ToDatetime(tzinfo=UTC) if time.seconds else None
