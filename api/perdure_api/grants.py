"""Standing grants as the API sees them: each is a workflow of its own that runs as long as the grant stands."""

from __future__ import annotations

from typing import Final

import structlog
from temporalio.client import WorkflowExecution, WorkflowExecutionStatus

from perdure.encryption import seal
from perdure.errors import ConflictError, DecryptionError, GrantNotFoundError, RunNotFoundError
from perdure.grant import GRANT_WORKFLOW, Grant
from perdure.oversight import Revocation
from perdure.redaction import redacted
from perdure.search_attributes import MEMO_GRANT
from perdure_api import visibility
from perdure_api.authority import speaker
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import GrantFilter, RevokeRequest

log = structlog.get_logger(__name__)

PAGE: Final = 100
MAX_LISTED: Final = 1000


class Grants:
    """The standing grants that a principal may see."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def list(self, wanted: GrantFilter) -> list[Grant]:
        """Return the grants that stand, the newest first; at most 1,000."""
        query = visibility.grant_query(wanted, orgs=self._reach.orgs(wanted.org))
        rows = self._reach.client.list_workflows(query, page_size=PAGE, limit=MAX_LISTED, rpc_timeout=RPC_TIMEOUT)
        found: list[Grant] = []
        with temporal_errors():
            async for row in rows:
                grant = await _grant_of(row) if self._reach.executions.owns(row) else None
                if grant is not None and wanted.tool in (None, grant.tool) and wanted.user in (None, grant.user):
                    found.append(grant)
        newest = sorted(found, key=lambda grant: grant.at, reverse=True)
        return [await redacted(grant, self._reach.redactor) for grant in newest]

    async def revoke(self, grant_id: str, request: RevokeRequest) -> None:
        """End a grant at once; the calls that it let run already are not undone.

        Raises:
            GrantNotFoundError: There is no such grant; those of another organisation are none.
            ConflictError: It has expired, or is revoked.
        """
        handle = self._reach.client.get_workflow_handle(grant_id)
        by = speaker(self._reach.principal, request.by, field="by") or "nobody named"
        why = f"revoked by {by}" + (f": {request.reason}" if request.reason else "")
        sealed = await seal(why, self._reach.client.data_converter)
        try:
            with temporal_errors(run_id=grant_id):
                description = await handle.describe(rpc_timeout=RPC_TIMEOUT)
                if description.workflow_type != GRANT_WORKFLOW or not self._reach.executions.owns(description):
                    raise GrantNotFoundError(f"no standing grant has the id {grant_id!r}")
                if description.status is not WorkflowExecutionStatus.RUNNING:
                    raise ConflictError(f"grant {grant_id!r} has expired, or is revoked")
                await handle.terminate(reason=sealed, rpc_timeout=RPC_TIMEOUT)
        except RunNotFoundError as error:
            raise GrantNotFoundError(f"no standing grant has the id {grant_id!r}") from error

    async def revoke_for_run(self, run_id: str, grant_id: str, request: RevokeRequest) -> None:
        """Ask a run to forget a grant that holds for it alone.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        await self._reach.executions.describe_open(run_id)
        by = speaker(self._reach.principal, request.by, field="by")
        revocation = Revocation(grant_id=grant_id, by=by or "", reason=request.reason)
        await self._reach.executions.signal(run_id, "revoke", revocation)


async def _grant_of(row: WorkflowExecution) -> Grant | None:
    try:
        return await row.memo_value(MEMO_GRANT, None, type_hint=Grant)
    except DecryptionError as error:  # it must not keep the others from being listed
        log.warning("grant_unreadable", grant_id=row.id, error=str(error))
        return None
