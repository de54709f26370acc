"""The health of an agent: how its latest runs went, by version."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from perdure.contracts import RunStatus
from perdure.errors import UnknownAgentError
from perdure_api import visibility
from perdure_api.health_schemas import AgentHealth, HealthFilter
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.run_statistics import by_version, ended_runs, statistics
from perdure_api.schemas import RunFilter

AHEAD: Final = timedelta(minutes=1)
"""By so much the clock of the server, which dates rows, may be before ours."""


class Health:
    """The health of agents, by the runs that a principal may see."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def of(self, agent: str, wanted: HealthFilter) -> AgentHealth:
        """Return how an agent's runs went that ended within a window.

        Raises:
            UnknownAgentError: The app has no such agent, and there never was a run of it.
        """
        until = datetime.now(UTC)
        since = until - wanted.window
        runs = RunFilter(agent=agent, version=wanted.version, org=wanted.org)
        sample = await ended_runs(self._reach, runs, since=since, until=until + AHEAD)
        going_on = await counted(self._reach, visibility.open_query(runs, orgs=self._reach.orgs(wanted.org)))
        if not sample.ended and not going_on:
            await check_known(self._reach, agent)
        waiting = runs.model_copy(update={"status": RunStatus.WAITING})
        return AgentHealth(
            agent=agent,
            since=since,
            until=until,
            open=going_on,
            waiting=await counted(self._reach, visibility.run_query(waiting, orgs=self._reach.orgs(wanted.org))),
            ended=sample.ended,
            truncated=sample.truncated,
            statistics=statistics(sample.runs),
            versions=by_version(sample.runs),
        )


async def check_known(reach: Reach, agent: str) -> None:
    """Refuse an agent that the app does not have, and of which the principal can see no run.

    Raises:
        UnknownAgentError: It is such a one.
    """
    known = {known.name for known in reach.app.agents()}
    if agent in known:
        return
    # Of any time, but of the principal's own organisation: what others run is not to be found out.
    if not await counted(reach, visibility.run_query(RunFilter(agent=agent), orgs=reach.orgs(None))):
        names = ", ".join(sorted(known)) or "none"
        raise UnknownAgentError(f"there is no agent {agent!r}, and never was a run of one; known are: {names}")


async def counted(reach: Reach, query: str) -> int:
    """Return how many workflows pass a query."""
    with temporal_errors():
        return (await reach.client.count_workflows(query, rpc_timeout=RPC_TIMEOUT)).count
