"""A sample of a namespace's histories: some of each type, agent, version and state, and not the newest alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from perdure.errors import HistoryFileError
from perdure.history import fetch_execution, load
from perdure.search_attributes import AGENT, VERSION
from perdure_api.rpc import RPC_TIMEOUT
from perdure_workers.history_check import TYPES

SCANNED: Final = 2000
"""Executions of a type that a sample is taken from; there may be millions."""


@dataclass(frozen=True)
class Execution:
    """One execution that may be taken."""

    workflow_id: str
    execution_id: str
    stratum: Hashable
    """What it is an example of."""


async def find_executions(client: Client, *, since: timedelta, query: str) -> list[Execution]:
    """Return executions of our workflows that are open, or ended within that time.

    Args:
        client: Of the namespace.
        since: How long ago.
        query: A list filter of Temporal's that they also pass; empty: all do.

    Raises:
        RPCError: Temporal does not understand the query, or does not answer.
    """
    begin = (datetime.now(UTC) - since).isoformat()
    found = []
    for kind in TYPES:
        wanted = f"WorkflowType = '{kind}' AND (ExecutionStatus = 'Running' OR CloseTime >= '{begin}')"
        rows = client.list_workflows(
            f"{wanted} AND ({query})" if query else wanted, limit=SCANNED, rpc_timeout=RPC_TIMEOUT
        )
        async for row in rows:
            attributes = row.typed_search_attributes
            stratum = (kind, row.status, attributes.get(AGENT), attributes.get(VERSION))
            found.append(Execution(row.id, row.run_id, stratum))
    return found


def spread(found: Iterable[Execution], count: int) -> list[Execution]:
    """Return so many of them: as many from each stratum as it has, up to an even share, and from all its time."""
    strata: dict[Hashable, list[Execution]] = defaultdict(list)
    for execution in found:
        strata[execution.stratum].append(execution)
    taken: list[Execution] = []
    for place, members in enumerate(sorted(strata.values(), key=len)):
        left = len(strata) - place
        share = min(len(members), -(-(count - len(taken)) // left))
        taken += [members[index * len(members) // share] for index in range(share)]
    return taken


async def fetch_histories(client: Client, executions: Iterable[Execution]) -> AsyncIterator[WorkflowHistory]:
    """Iterate over their histories, payloads decoded; those that were deleted meanwhile are left out.

    Raises:
        DecryptionError: The settings lack a key.
        RPCError: Temporal does not answer.
    """
    for one in executions:
        try:
            yield await fetch_execution(client, one.workflow_id, one.execution_id)
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise


def read_histories(folder: Path) -> Sequence[WorkflowHistory]:
    """Return the histories in a folder's JSON files.

    Raises:
        HistoryFileError: There is no such folder, or a file in it is no history.
    """
    if not folder.is_dir():
        raise HistoryFileError(f"there is no folder {str(folder)!r}")
    histories: list[WorkflowHistory] = []
    for file in sorted(folder.glob("*.json")):
        try:
            histories += load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, HistoryFileError) as error:
            raise HistoryFileError(f"{file}: {error}") from error
    return histories
