"""Executions as Temporal lists and tells them, and the reading of one's history from where it was left off."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflow.v1 import WorkflowExecutionInfo
from temporalio.api.workflowservice.v1 import (
    DescribeNamespaceRequest,
    DescribeWorkflowExecutionRequest,
    ListWorkflowExecutionsRequest,
)
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.audit.projection import WORKFLOW_TYPES, Projection
from perdure.audit.record import AuditEntry, Place
from perdure.contracts import WORKFLOW_NAME
from perdure.errors import DecryptionError
from perdure.history import decode_event, is_readable
from perdure_activities.audit.pace import Pace

GONE: Final = Place(10**17)
"""The place of the record that says that there is no history to read any more: behind all others."""
PAGE: Final = 250
"""History events that are asked for at once."""
ROWS: Final = 1000
RPC_TIMEOUT: Final = timedelta(seconds=15)
SOONEST: Final = timedelta(seconds=2)
LATEST: Final = {WORKFLOW_NAME: timedelta(seconds=60)}
LATEST_OTHERS: Final = timedelta(minutes=10)
"""How seldom an execution is looked at in which nothing happens. Those that stand for a record just wait for an end,
which is listed."""
PATIENCE: Final = 4
"""An execution in which nothing has happened for so many times a while is looked at again after that while."""


@dataclass(frozen=True)
class Row:
    """One execution as visibility lists it."""

    run_id: str
    execution_id: str
    workflow_type: str
    started_at: datetime
    closed_at: datetime | None

    @classmethod
    def of(cls, info: WorkflowExecutionInfo) -> Row:
        """Read what the server says."""
        return cls(
            run_id=info.execution.workflow_id,
            execution_id=info.execution.run_id,
            workflow_type=info.type.name,
            started_at=info.start_time.ToDatetime(tzinfo=UTC),
            closed_at=info.close_time.ToDatetime(tzinfo=UTC) if info.HasField("close_time") else None,
        )


@dataclass
class Followed:
    """An execution and how far it has been read."""

    row: Row
    projection: Projection
    skip: int = 0
    """As many history events were read by an earlier auditor; until there are more, there is nothing to do."""
    due: float = field(default_factory=time.monotonic)
    """When it is looked at next, by the clock of `time.monotonic`."""
    token: bytes = b""

    @property
    def length(self) -> int:
        """How many history events have been looked at, by whichever auditor."""
        return max(self.skip, self.projection.events)

    def wait(self, *, moved: bool, now: datetime) -> None:
        """Choose when to look again: the later, the longer nothing has happened."""
        quiet = timedelta(0) if moved or self.projection.at is None else now - self.projection.at
        latest = LATEST.get(self.row.workflow_type, LATEST_OTHERS)
        self.due = time.monotonic() + min(max(quiet / PATIENCE, SOONEST), latest).total_seconds()


class Executions:
    """Temporal's side of the audit: reads, and nothing else."""

    def __init__(self, client: Client, pace: Pace) -> None:
        self._client = client
        self._pace = pace

    async def namespace_id(self) -> str:
        """Return the namespace's id, which no other server's namespace has; its name if we may not ask."""
        try:
            found = await self._client.workflow_service.describe_namespace(
                DescribeNamespaceRequest(namespace=self._client.namespace), retry=True, timeout=RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status is not RPCStatusCode.PERMISSION_DENIED:
                raise
            return self._client.namespace
        return found.namespace_info.id

    async def closed(self, *, since: datetime | None) -> list[Row]:
        """Return the executions that ended, by visibility, which may be late; the first to end come first."""
        when = f"CloseTime >= '{since.isoformat()}'" if since else "CloseTime IS NOT NULL"
        rows = [row async for row in self._rows(when)]
        return sorted((row for row in rows if row.closed_at), key=lambda row: row.closed_at or row.started_at)

    async def open(self, *, since: datetime | None) -> list[Row]:
        """Return the executions that go on, by visibility; with `since`, those that started later."""
        when = f" AND StartTime >= '{since.isoformat()}'" if since else ""
        return [row async for row in self._rows(f"CloseTime IS NULL{when}")]  # paused ones too, whatever that is called

    async def describe(self, row: Row) -> tuple[Row, int] | None:
        """Return an execution as it is now and the length of its history; None if it is deleted."""
        await self._pace.turn()
        request = DescribeWorkflowExecutionRequest(namespace=self._client.namespace, execution=_execution(row))
        try:
            found = await self._client.workflow_service.describe_workflow_execution(
                request, retry=True, timeout=RPC_TIMEOUT
            )
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return None
            raise
        info = found.workflow_execution_info
        return replace(row, closed_at=Row.of(info).closed_at), info.history_length

    async def read(self, followed: Followed, *, length: int | None) -> AsyncIterator[AuditEntry]:
        """Iterate over what an execution's history says beyond what was read of it.

        Args:
            followed: The execution; takes note of how far it was read.
            length: How many events the history has; None: it has ended, and is read to its end.

        Raises:
            DecryptionError: It is encrypted with a key that is not here.
            RPCError: NOT_FOUND if there is no history any more.
        """
        projection = followed.projection
        handle = self._client.get_workflow_handle(followed.row.run_id, run_id=followed.row.execution_id)
        # Asked to wait for more, the server hands out a token by which to go on later; it is never asked for what is
        # not there yet.
        pages = handle.fetch_history_events(
            page_size=PAGE, next_page_token=followed.token or None, wait_new_event=True, rpc_timeout=RPC_TIMEOUT
        )
        while length is None or projection.events < length:
            await self._pace.turn()
            await pages.fetch_next_page()
            for event in pages.current_page or ():
                if event.event_id > projection.events:
                    await decode_event(event, self._client.data_converter)
                    if not is_readable(event):
                        raise DecryptionError("the history is encrypted, and this worker has no key for it")
                    for entry in projection.feed(event):
                        yield entry
            followed.token = pages.next_page_token or b""
            if not followed.token or not pages.current_page:
                return

    async def _rows(self, when: str) -> AsyncIterator[Row]:
        types = ", ".join(f"'{name}'" for name in WORKFLOW_TYPES)
        token = b""
        while True:
            await self._pace.turn()
            # The client's own list fails on a status that it does not know, and with it on all others.
            page = await self._client.workflow_service.list_workflow_executions(
                ListWorkflowExecutionsRequest(
                    namespace=self._client.namespace,
                    query=f"WorkflowType IN ({types}) AND {when}",
                    page_size=ROWS,
                    next_page_token=token,
                ),
                retry=True,
                timeout=RPC_TIMEOUT,
            )
            for info in page.executions:
                yield Row.of(info)
            token = page.next_page_token
            if not token:
                return


def _execution(row: Row) -> WorkflowExecution:
    return WorkflowExecution(workflow_id=row.run_id, run_id=row.execution_id)
