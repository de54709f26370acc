"""What Temporal has noted of the chains' ends: in the auditor's memo, and in the heartbeats of its activity."""

from __future__ import annotations

from typing import Final

from temporalio.api.common.v1 import Payloads, WorkflowExecution
from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest
from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.service import RPCError, RPCStatusCode

from perdure.audit.contracts import AUDITOR_ID, MEMO_ANCHORS, Anchors, Stretch
from perdure.errors import DecryptionError

MAX_EXECUTIONS: Final = 20
"""Of the auditor, whose memos are looked at: it may have been terminated and started anew."""

LATEST_EVENTS: Final = 20


async def read_anchors(client: Client, *, store: str = "") -> Anchors:
    """Return the ends of the chains as far as Temporal has them.

    Args:
        client: Of the namespace.
        store: Only of the store with this id; default: of the one that was anchored last.

    Raises:
        RPCError: Temporal does not answer.
    """
    found: list[Anchors] = []
    async for execution in client.list_workflows(f"WorkflowId = '{AUDITOR_ID}'", limit=MAX_EXECUTIONS):
        memo = await execution.memo_value(MEMO_ANCHORS, Anchors(), type_hint=Anchors)
        found.append(memo)
    found.reverse()  # the latest first, as they are listed
    try:
        description = await client.get_workflow_handle(AUDITOR_ID).describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
    else:
        found.append(await description.memo_value(MEMO_ANCHORS, Anchors(), type_hint=Anchors))
        found += await _finished(client, description)
        found += await _beaten(client, description)
    anchors = Anchors()
    for one in found:
        if one.store and store in ("", one.store):
            anchors = _further(anchors, one)
    return anchors


async def _finished(client: Client, description: WorkflowExecutionDescription) -> list[Anchors]:
    """Return what an activity said at its end that the workflow, for want of a worker, has not taken in."""
    request = GetWorkflowExecutionHistoryReverseRequest(
        namespace=client.namespace,
        execution=WorkflowExecution(workflow_id=description.id, run_id=description.run_id),
        maximum_page_size=LATEST_EVENTS,
    )
    latest = await client.workflow_service.get_workflow_execution_history_reverse(request)
    return [
        anchors
        for event in latest.history.events
        for anchors in await _told(client, event.activity_task_completed_event_attributes.result)
    ]


async def _beaten(client: Client, description: WorkflowExecutionDescription) -> list[Anchors]:
    """Return what the activity last told in a heartbeat."""
    pending = description.raw_description.pending_activities
    return [anchors for one in pending for anchors in await _told(client, one.heartbeat_details)]


async def _told(client: Client, payloads: Payloads) -> list[Anchors]:
    if not payloads.payloads:
        return []
    try:
        stretches = await client.data_converter.decode(payloads.payloads, [Stretch])
    except (DecryptionError, ValueError, RuntimeError):  # of another version, or encrypted for others
        return []
    return [stretch.anchors for stretch in stretches]


def _further(one: Anchors, later: Anchors) -> Anchors:
    """Return the further end of each chain; of the store that was anchored later, if there are two."""
    if one.store != later.store:
        return later
    moved = {
        org: anchor for org, anchor in later.heads.items() if org not in one.heads or anchor.seq >= one.heads[org].seq
    }
    return one.moved(Anchors(store=later.store, heads=moved))
