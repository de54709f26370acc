"""The agents that runs can be started with."""

from __future__ import annotations

from fastapi import APIRouter

from perdure_api.dependencies import Gateway
from perdure_api.schemas import AgentSummary, Answer

router = APIRouter(tags=["agents"])


class Agents(Answer):
    """The app's agents, in order of registration."""

    items: tuple[AgentSummary, ...]


@router.get("/agents", operation_id="listAgents", summary="List agents")
async def list_agents(runs: Gateway) -> Agents:
    """List the agents that runs can be started with, with their tools."""
    return Agents(items=tuple(runs.agents()))
