"""Standing grants on the server: one is recorded, or looked up by its name. A look-up sees a revocation at once.

Recording is idempotent: another attempt replaces the grant by the same one.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
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

from perdure.errors import DecryptionError
from perdure.grant import GRANT_WORKFLOW, Grant
from perdure.search_attributes import AGENT, MEMO_GRANT, ORG

RPC_TIMEOUT: Final = timedelta(seconds=5)
log = structlog.get_logger(__name__)


class GrantActivities:
    """What a worker process does with standing grants."""

    @activity.defn
    async def record_grant(self, grant: Grant) -> None:
        """Let a standing grant begin; an older one of the same name ends."""
        remaining = (grant.expires_at or datetime.now(UTC)) - datetime.now(UTC)
        if remaining <= timedelta(0):
            return
        attributes = [SearchAttributePair(AGENT, grant.agent)]
        if grant.org is not None:
            attributes.append(SearchAttributePair(ORG, grant.org))
        await activity.client().start_workflow(
            GRANT_WORKFLOW,
            grant,
            id=grant.grant_id,
            task_queue=activity.info().task_queue,
            execution_timeout=remaining,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
            memo={MEMO_GRANT: grant},
            search_attributes=TypedSearchAttributes(attributes),
            static_summary=f"{grant.tool} on {grant.resource or 'anything'}, granted by {', '.join(grant.granted_by)}",
            rpc_timeout=RPC_TIMEOUT,
        )


async def find_grant(client: Client, grant_id: str) -> Grant | None:
    """Return the standing grant of that name, if it stands; one whose key is gone does not, and a human is asked."""
    try:
        description = await client.get_workflow_handle(grant_id).describe(rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return None
        raise
    if description.status is not WorkflowExecutionStatus.RUNNING or description.workflow_type != GRANT_WORKFLOW:
        return None
    try:
        return await description.memo_value(MEMO_GRANT, None, type_hint=Grant)
    except DecryptionError as error:
        log.warning("grant_unreadable", grant_id=grant_id, error=str(error))
        return None
