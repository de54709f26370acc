"""Executions that a retry left behind: visibility lists them as failed for ever, and they are no runs any more."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from temporalio.client import Client, WorkflowExecution

from perdure.contracts import RunStatus
from perdure_api import visibility
from perdure_api.rpc import RPC_TIMEOUT

ASKED_AT_ONCE = 100
"""Ids in one query."""
_RETRIABLE = (RunStatus.FAILED, RunStatus.TIMED_OUT, RunStatus.OUT_OF_BUDGET, RunStatus.TERMINATED)


async def current(client: Client, rows: Sequence[WorkflowExecution]) -> list[WorkflowExecution]:
    """Return the rows of visibility that are the latest executions of their runs.

    Most lists cost nothing more: only runs that ended so that they can be retried are looked at.
    """
    # A reset begins a new execution of the run, and visibility has both.
    suspects = list(dict.fromkeys(row.id for row in rows if visibility.status(row) in _RETRIABLE))
    if not suspects:
        return list(rows)
    pages = await asyncio.gather(*(_latest(client, ids) for ids in _parts(suspects)))
    latest = {run_id: execution_id for page in pages for run_id, execution_id in page.items()}
    return [row for row in rows if latest.get(row.id, row.run_id) == row.run_id]


async def _latest(client: Client, run_ids: Sequence[str]) -> dict[str, str]:
    newest: dict[str, WorkflowExecution] = {}
    async for row in client.list_workflows(visibility.executions_query(run_ids), rpc_timeout=RPC_TIMEOUT):
        if row.id not in newest or row.start_time > newest[row.id].start_time:
            newest[row.id] = row
    return {run_id: row.run_id for run_id, row in newest.items()}


def _parts(run_ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (run_ids[start : start + ASKED_AT_ONCE] for start in range(0, len(run_ids), ASKED_AT_ONCE))
