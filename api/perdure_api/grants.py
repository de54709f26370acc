"""Standing grants as the API sees them: each is a workflow of its own that runs as long as the grant stands."""

from __future__ import annotations

from typing import Final

import structlog
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus

from perdure.encryption import seal
from perdure.errors import ConflictError, DecryptionError, GrantNotFoundError, RunNotFoundError
from perdure.grant import GRANT_WORKFLOW, Grant
from perdure.search_attributes import MEMO_GRANT
from perdure_api import visibility
from perdure_api.executions import Executions
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import GrantFilter

log = structlog.get_logger(__name__)

PAGE: Final = 100
MAX_LISTED: Final = 1000


class Grants:
    """The standing grants that one organisation, or an operator, may see."""

    def __init__(self, client: Client, executions: Executions) -> None:
        self._client = client
        self._executions = executions

    async def list(self, wanted: GrantFilter, *, orgs: tuple[str, ...]) -> list[Grant]:
        """Return the grants that stand, the newest first; at most 1,000.

        Args:
            wanted: Which.
            orgs: Organisations all of which a grant must be of.
        """
        rows = self._client.list_workflows(
            visibility.grant_query(wanted, orgs=orgs), page_size=PAGE, limit=MAX_LISTED, rpc_timeout=RPC_TIMEOUT
        )
        found: list[Grant] = []
        with temporal_errors():
            async for row in rows:
                grant = await _grant_of(row) if self._executions.owns(row) else None
                if grant is not None and wanted.tool in (None, grant.tool) and wanted.user in (None, grant.user):
                    found.append(grant)
        return sorted(found, key=lambda grant: grant.at, reverse=True)

    async def revoke(self, grant_id: str, *, by: str, reason: str) -> None:
        """End a grant at once; the calls that it let run already are not undone.

        Raises:
            GrantNotFoundError: There is no such grant; those of another organisation are none.
            ConflictError: It has expired, or is revoked.
        """
        handle = self._client.get_workflow_handle(grant_id)
        why = f"revoked by {by}" + (f": {reason}" if reason else "")
        sealed = await seal(why, self._client.data_converter)
        try:
            with temporal_errors(run_id=grant_id):
                description = await handle.describe(rpc_timeout=RPC_TIMEOUT)
                if description.workflow_type != GRANT_WORKFLOW or not self._executions.owns(description):
                    raise GrantNotFoundError(f"no standing grant has the id {grant_id!r}")
                if description.status is not WorkflowExecutionStatus.RUNNING:
                    raise ConflictError(f"grant {grant_id!r} has expired, or is revoked")
                await handle.terminate(reason=sealed, rpc_timeout=RPC_TIMEOUT)
        except RunNotFoundError as error:
            raise GrantNotFoundError(f"no standing grant has the id {grant_id!r}") from error


async def _grant_of(row: WorkflowExecution) -> Grant | None:
    try:
        return await row.memo_value(MEMO_GRANT, None, type_hint=Grant)
    except DecryptionError as error:  # it must not keep the others from being listed
        log.warning("grant_unreadable", grant_id=row.id, error=str(error))
        return None
