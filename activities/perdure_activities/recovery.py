"""The activity `reset_run`: have a run go on from before the step that failed.

Idempotent: it looks first whether the execution that failed is the run's latest still. The server itself would take a
second request for another reset, and terminate what the first one has begun.
"""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Final

import structlog
from google.protobuf.field_mask_pb2 import FieldMask
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import ResetReapplyExcludeType, TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflow.v1 import PostResetOperation, VersioningOverride, WorkflowExecutionOptions
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.exceptions import ApplicationError

from perdure.encryption import seal
from perdure.errors import NotRetriableError
from perdure.history import fetch_execution
from perdure.recovery import NOT_RETRIABLE, ResetNote, RetryOrder, RetryOutcome
from perdure.reset_point import ResetPoint, reset_point
from perdure_activities.heartbeat import heartbeats

RPC_TIMEOUT: Final = timedelta(seconds=10)
log = structlog.get_logger(__name__)


@activity.defn
async def reset_run(order: RetryOrder) -> RetryOutcome:
    """Have a run go on from before the step that failed."""
    client = activity.client()
    with heartbeats():
        latest = await client.get_workflow_handle(order.run_id).describe(rpc_timeout=RPC_TIMEOUT)
        if latest.run_id != order.execution_id:  # an earlier attempt at this has done it
            return RetryOutcome(execution_id=latest.run_id)
        if latest.status is WorkflowExecutionStatus.RUNNING:
            raise ApplicationError("it goes on", type=NOT_RETRIABLE, non_retryable=True)
        history = await fetch_execution(client, order.run_id, order.execution_id)
        try:
            point = await asyncio.to_thread(reset_point, history.events)
        except NotRetriableError as error:
            raise ApplicationError(str(error), type=NOT_RETRIABLE, non_retryable=True) from None
        execution_id = await _reset(client, order, point, task_queue=latest.task_queue)
    log.info("run_retried", retried_run_id=order.run_id, step=point.step, by=order.by)
    return RetryOutcome(execution_id=execution_id, step=point.step)


async def _reset(client: Client, order: RetryOrder, point: ResetPoint, *, task_queue: str) -> str:
    note = ResetNote(by=order.by, reason=order.reason, resets=point.resets)
    answer = await client.workflow_service.reset_workflow_execution(
        ResetWorkflowExecutionRequest(
            namespace=client.namespace,
            workflow_execution=WorkflowExecution(workflow_id=order.run_id, run_id=order.execution_id),
            reason=await seal(note.model_dump_json(), client.data_converter),
            workflow_task_finish_event_id=point.event_id,
            request_id=str(uuid.uuid5(uuid.NAMESPACE_OID, order.execution_id)),
            # To retry is to go on: a cancellation that came too late for the run that failed does not end this one.
            reset_reapply_exclude_types=[ResetReapplyExcludeType.RESET_REAPPLY_EXCLUDE_TYPE_CANCEL_REQUEST],
            post_reset_operations=await _onto_current_build(client, task_queue),
            identity=client.identity,
        ),
        timeout=RPC_TIMEOUT,
    )
    return answer.run_id


async def _onto_current_build(client: Client, task_queue: str) -> list[PostResetOperation]:
    """Where workers are versioned, have the run go on with the current build, as new ones do.

    Left to itself it stays with the build that it failed on, which may lack what was mended, or have no worker left.
    """
    described = await client.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(
            namespace=client.namespace,
            task_queue=TaskQueue(name=task_queue),
            task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
        ),
        timeout=RPC_TIMEOUT,
    )
    current = described.versioning_info.current_deployment_version
    if not current.build_id:
        return []
    once = VersioningOverride.OneTimeOverride(target_deployment_version=current)
    options = WorkflowExecutionOptions(versioning_override=VersioningOverride(one_time=once))
    update = PostResetOperation.UpdateWorkflowOptions(
        workflow_execution_options=options, update_mask=FieldMask(paths=["versioning_override"])
    )
    return [PostResetOperation(update_workflow_options=update)]
