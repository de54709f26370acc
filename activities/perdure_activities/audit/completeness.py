"""Whether all that Temporal's histories tell is recorded: the audit derived once more, and compared."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.audit.facts import Digest
from perdure.audit.projection import Projection
from perdure.audit.reading import AuditFilter, search
from perdure.audit.store import AuditStore
from perdure.messages import Frozen
from perdure_activities.audit.executions import Executions, Followed
from perdure_activities.audit.pace import Pace

REQUESTS_PER_SECOND: Final = 100
LATE: Final = timedelta(minutes=2)
"""What happened since is left out: the auditor may not have come to it."""


class Unrecorded(Frozen):
    """A fact that no record tells of."""

    at: datetime
    org: str
    kind: str
    run_id: str
    source: str


async def unrecorded(client: Client, store: AuditStore, *, digest: Digest) -> list[Unrecorded]:
    """Return the facts of all histories that Temporal has which no chain tells of.

    Args:
        client: Of the namespace.
        store: Where the chains are.
        digest: How digests of arguments are recorded, which does not matter here.
    """
    until = datetime.now(UTC) - LATE
    executions = Executions(client, Pace(REQUESTS_PER_SECOND))
    rows = {row.execution_id: row for row in await executions.open(since=None)}
    rows |= {row.execution_id: row for row in await executions.closed(since=None)}
    facts: dict[str, Unrecorded] = {}
    for row in rows.values():
        projection = Projection(row.workflow_type, run_id=row.run_id, execution_id=row.execution_id, digest=digest)
        length = None
        if row.closed_at is None:
            described = await executions.describe(row)
            length = described[1] if described else 0
        try:
            async for entry in executions.read(Followed(row, projection), length=length):
                if entry.at < until:
                    facts[entry.source] = Unrecorded(
                        at=entry.at, org=entry.org, kind=entry.kind, run_id=entry.run_id, source=entry.source
                    )
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:  # its retention was over meanwhile
                raise
    for org in await store.chains():
        async for record in search(store, org, AuditFilter()):
            facts.pop(record.source, None)
    return sorted(facts.values(), key=lambda fact: fact.at)
