"""The ledger's activities: the calendar, answers to runs, and what became of runs that are not heard of.

All are idempotent: a run takes an answer once, whatever comes again, and reading changes nothing.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Final

import structlog
from temporalio import activity
from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.service import RPCError, RPCStatusCode

from perdure.history import fetch_execution
from perdure.ledger.calendar import calendar_at
from perdure.ledger.contracts import (
    ANSWER_SIGNAL,
    LEDGER_NAME,
    AddressedAnswer,
    Answers,
    AnswersReport,
    Calendar,
    CalendarRequest,
    HolderReference,
    HolderReport,
    Inspection,
    InspectionReport,
    OpenLedger,
    ledger_id,
)
from perdure.ledger.spending import used_by
from perdure.ledger.state import LedgerInput
from perdure.search_attributes import ORG
from perdure_activities.heartbeat import heartbeats

RPC_TIMEOUT: Final = timedelta(seconds=5)
DELIVERED_AT_ONCE: Final = 16
INSPECTED_AT_ONCE: Final = 4
log = structlog.get_logger(__name__)


@activity.defn
async def open_ledger(wanted: OpenLedger) -> None:
    """Start an organisation's ledger, unless it is open."""
    attributes = [] if wanted.org is None else [SearchAttributePair(ORG, wanted.org)]
    await activity.client().start_workflow(
        LEDGER_NAME,
        LedgerInput(org=wanted.org),
        id=ledger_id(wanted.org),
        task_queue=activity.info().task_queue,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        search_attributes=TypedSearchAttributes(attributes),
        static_summary=f"ledger of {wanted.org}" if wanted.org else "ledger",
        rpc_timeout=RPC_TIMEOUT,
    )


@activity.defn
async def read_calendar(request: CalendarRequest) -> Calendar:
    """Tell the day and the month of a moment."""
    return calendar_at(request.now, time_zone=request.time_zone)


@activity.defn
async def deliver_answers(batch: Answers) -> AnswersReport:
    """Signal answers to their runs."""
    client, turn = activity.client(), asyncio.Semaphore(DELIVERED_AT_ONCE)
    gone: list[str] = []
    failed: list[AddressedAnswer] = []

    async def deliver(addressed: AddressedAnswer) -> None:
        async with turn:
            handle = client.get_workflow_handle(addressed.run_id)
            try:
                await handle.signal(ANSWER_SIGNAL, addressed.answer, rpc_timeout=RPC_TIMEOUT)
            except RPCError as error:
                if error.status is RPCStatusCode.NOT_FOUND:
                    gone.append(addressed.holder)
                else:
                    log.warning("answer_not_delivered", run_id=addressed.run_id, error=error.message)
                    failed.append(addressed)

    with heartbeats():
        await asyncio.gather(*map(deliver, batch.answers))
    return AnswersReport(gone=tuple(gone), failed=tuple(failed))


@activity.defn
async def inspect_holders(inspection: Inspection) -> InspectionReport:
    """Tell what became of holders that are not heard of."""
    client, turn = activity.client(), asyncio.Semaphore(INSPECTED_AT_ONCE)

    async def inspect(holder: HolderReference) -> HolderReport:
        async with turn:
            return await _inspect(client, holder)

    with heartbeats():
        return InspectionReport(holders=tuple(await asyncio.gather(*map(inspect, inspection.holders))))


async def _inspect(client: Client, holder: HolderReference) -> HolderReport:
    execution_id = holder.execution_id
    while True:
        handle = client.get_workflow_handle(holder.run_id, run_id=execution_id)
        try:
            description = await handle.describe(rpc_timeout=RPC_TIMEOUT)
            if description.status is WorkflowExecutionStatus.RUNNING:
                return HolderReport(holder=holder.holder, open=True, execution_id=execution_id)
            history = await fetch_execution(client, holder.run_id, execution_id)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            return HolderReport(holder=holder.holder, open=False, execution_id=execution_id)
        last = history.events[-1]
        if not last.HasField("workflow_execution_continued_as_new_event_attributes"):
            used = used_by(history.events)
            log.info("dead_run_found", dead_run_id=holder.run_id, status=str(description.status))
            return HolderReport(holder=holder.holder, open=False, execution_id=execution_id, used=used)
        execution_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
