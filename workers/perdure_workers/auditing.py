"""Keeps the auditor going: each worker that knows where the audit is starts it, and looks now and then after it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError, RPCStatusCode

from perdure.audit.anchors import read_anchors
from perdure.audit.contracts import AUDITOR_ID, MEMO_ANCHORS, AuditorState
from perdure.audit.opening import open_store
from perdure.errors import PerdureError
from perdure.settings import Settings
from perdure_api.pollers import count_pollers
from perdure_workflows.auditor import Auditor

log = structlog.get_logger(__name__)

LOOK_EVERY: Final = timedelta(minutes=2)


async def check_audit(settings: Settings) -> None:
    """Try to write where the audit is to be kept, if it is.

    Raises:
        ConfigurationError: That does not work.
    """
    store = open_store(settings)
    if store is not None:
        await store.prepare()


@asynccontextmanager
async def auditing(client: Client, settings: Settings, *, task_queue: str) -> AsyncIterator[None]:
    """Keep the auditor going for the length of the block, if there is an audit.

    Raises:
        ConfigurationError: The audit's place cannot be one.
    """
    if open_store(settings) is None:
        yield
        return
    keeping = asyncio.create_task(_keep(client, task_queue))
    try:
        yield
    finally:
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping


async def ensure_auditor(client: Client, *, task_queue: str) -> None:
    """Start the auditor unless it runs; take it over if no worker polls its task queue any more.

    Raises:
        RPCError: Temporal refuses, or does not answer.
    """
    served_by = await _served_by(client)
    if served_by is None:
        await _start(client, task_queue)
        return
    if served_by == task_queue or (await count_pollers(client, served_by)).activity:
        return
    log.warning("auditor_taken_over", task_queue=task_queue, before=served_by)
    handle = client.get_workflow_handle(AUDITOR_ID)
    await handle.terminate(reason=f"no worker polls its task queue {served_by!r}; {task_queue!r} takes over")
    await _start(client, task_queue)


async def _served_by(client: Client) -> str | None:
    """Return the task queue of the auditor that runs; None if none does."""
    try:
        description = await client.get_workflow_handle(AUDITOR_ID).describe()
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    return description.task_queue if description.close_time is None else None


async def _start(client: Client, task_queue: str) -> None:
    anchors = await read_anchors(client)
    await client.start_workflow(
        Auditor.run,
        AuditorState(anchors=anchors),
        id=AUDITOR_ID,
        task_queue=task_queue,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        memo={MEMO_ANCHORS: anchors},
        static_summary="the audit",
    )


async def _keep(client: Client, task_queue: str) -> None:
    while True:
        try:
            await ensure_auditor(client, task_queue=task_queue)
        except (RPCError, PerdureError) as error:
            log.warning("auditor_not_started", error=str(error))
        await asyncio.sleep(LOOK_EVERY.total_seconds())
