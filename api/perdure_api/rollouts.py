"""Rollouts as the API sees them: looked at, set, ended. Each is a workflow that runs for as long as it holds."""

from __future__ import annotations

from datetime import UTC, datetime

import structlog
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from perdure.encryption import seal
from perdure.errors import ConflictError, InvalidInputError, PermissionDeniedError, RunNotFoundError
from perdure.rollout import MEMO_ROLLOUT, Rollout, rollout_id, shares
from perdure.search_attributes import AGENT, ORG
from perdure_api.authority import required_speaker
from perdure_api.reach import Reach
from perdure_api.rollout_schemas import AgentRollout, NewRollout, RolloutEnd, RolloutFilter
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_workflows.rollout import KeptRollout

log = structlog.get_logger(__name__)


class Rollouts:
    """The rollouts that a principal may see and change: its organisation's, or an operator every one."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def of(self, agent: str, wanted: RolloutFilter) -> AgentRollout:
        """Return how runs of an agent get their versions now.

        Raises:
            UnknownAgentError: The app has no such agent.
            PermissionDeniedError: It is asked for another organisation.
        """
        newest = self._reach.app.agent(agent).version
        versions = self._reach.app.versions(agent)
        rollout = await self._reach.rollouts.holding(agent, org=self._org(wanted), anew=True)
        weights = {version: rollout.weights.get(version, 0) if rollout else 0 for version in versions}
        if not any(weights.values()):
            weights[newest] = 1
        return AgentRollout(agent=agent, newest=newest, shares=shares(weights), rollout=rollout)

    async def set(self, agent: str, new: NewRollout) -> AgentRollout:
        """Share runs out from now on, in the place of an earlier rollout; other processes know within five seconds.

        Raises:
            UnknownAgentError: The app has no such agent.
            InvalidInputError: It has no such version, or it is not said whose word this is.
            PermissionDeniedError: It is for another organisation.
        """
        org = self._org(new)
        by = required_speaker(self._reach.principal, new.by, field="by")
        self._check_versions(agent, new)
        rollout = Rollout(agent=agent, org=org, weights=new.weights, created_by=by, created_at=datetime.now(UTC))
        attributes = [SearchAttributePair(AGENT, agent), *([SearchAttributePair(ORG, org)] if org else [])]
        with temporal_errors():
            await self._reach.client.start_workflow(
                KeptRollout.run,
                rollout,
                id=rollout_id(agent, org=org),
                task_queue=self._reach.settings.task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                id_conflict_policy=WorkflowIDConflictPolicy.TERMINATE_EXISTING,
                search_attributes=TypedSearchAttributes(attributes),
                memo={MEMO_ROLLOUT: rollout},
                static_summary=f"rollout of {agent}",
                rpc_timeout=RPC_TIMEOUT,
            )
        log.info("rollout_set", agent=agent, org=org, weights=new.weights, by=by)
        return await self.of(agent, RolloutFilter(org=org))

    async def clear(self, agent: str, end: RolloutEnd) -> AgentRollout:
        """End a rollout, if there is one; an organisation without its own then goes by everybody's.

        Raises:
            UnknownAgentError: The app has no such agent.
            InvalidInputError: It is not said whose word this is.
            PermissionDeniedError: It is another organisation's.
        """
        org = self._org(end)
        by = required_speaker(self._reach.principal, end.by, field="by")
        self._reach.app.agent(agent)
        handle = self._reach.client.get_workflow_handle(rollout_id(agent, org=org))
        sealed = await seal(f"revoked by {by}", self._reach.client.data_converter)
        try:
            with temporal_errors(run_id=handle.id):
                await handle.terminate(reason=sealed, rpc_timeout=RPC_TIMEOUT)
        except (RunNotFoundError, ConflictError):
            pass  # there is none, or it was ended already
        else:
            log.info("rollout_cleared", agent=agent, org=org, by=by)
        return await self.of(agent, RolloutFilter(org=org))

    def _check_versions(self, agent: str, new: NewRollout) -> None:
        self._reach.app.agent(agent)
        versions = self._reach.app.versions(agent)
        if missing := [version for version in new.weights if version not in versions]:
            raise InvalidInputError(
                f"weights: agent {agent!r} has no version {missing[0]!r}; it has: {', '.join(versions)}"
            )

    def _org(self, wanted: RolloutFilter) -> str | None:
        own = self._reach.principal.org
        if own is not None and wanted.org not in (None, own):
            raise PermissionDeniedError(
                f"{self._reach.principal.user!r} is of {own!r} and has no part in rollouts of {wanted.org!r}"
            )
        return wanted.org if own is None else own
