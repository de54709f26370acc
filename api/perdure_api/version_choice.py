"""Which version of its agent a run starts with, and why that one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from perdure.rollout import VersionSource, drawn_version
from perdure.search_attributes import ORG, VERSION
from perdure_api import visibility
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import NewRun

LOOKED_AT: Final = 20
"""Runs of a session, of which the latest to start counts: visibility lists open ones before those that ended later."""


@dataclass(frozen=True)
class VersionChoice:
    """A version, and what it was chosen by."""

    version: str
    source: VersionSource


async def chosen_version(reach: Reach, new: NewRun, *, run_id: str) -> VersionChoice:
    """Return the version that a run starts with.

    The one that the request names; while there is a rollout, that of the session's latest run, else the one that the
    user draws, or without a user the session, or the run by itself; else the one registered last. A version that the
    app does not have any more is none of these.

    Raises:
        UnknownAgentError: The app has no such agent.
        ServerUnreachableError: Temporal does not answer.
    """
    if new.version is not None:
        return VersionChoice(new.version, VersionSource.EXPLICIT)
    newest = VersionChoice(reach.app.agent(new.agent).version, VersionSource.NEWEST)
    versions = reach.app.versions(new.agent)
    rollout = await reach.rollouts.holding(new.agent, org=new.org) if len(versions) > 1 else None
    if rollout is None:
        return newest
    if new.session_id is not None:
        version = await _session_version(reach, new.agent, new.session_id, org=new.org)
        if version in versions:
            return VersionChoice(version, VersionSource.SESSION)
    weights = {version: weight for version, weight in rollout.weights.items() if version in versions}
    key = new.user or new.session_id or run_id
    drawn = drawn_version(weights, agent=new.agent, org=new.org, key=key)
    return newest if drawn is None else VersionChoice(drawn, VersionSource.ROLLOUT)


async def _session_version(reach: Reach, agent: str, session_id: str, *, org: str | None) -> str:
    query = visibility.session_query(agent, session_id, org=org)
    rows = reach.client.list_workflows(query, page_size=LOOKED_AT, limit=LOOKED_AT, rpc_timeout=RPC_TIMEOUT)
    with temporal_errors():
        # The query asks for the organisation, but some databases compare texts as if a and A were the same.
        owned = [row async for row in rows if row.typed_search_attributes.get(ORG) == org]
    latest = max(owned, key=lambda row: row.start_time, default=None)
    return "" if latest is None else latest.typed_search_attributes.get(VERSION) or ""
