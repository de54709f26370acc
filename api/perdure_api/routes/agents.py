"""The agents that runs can be started with."""

from __future__ import annotations

from fastapi import APIRouter

from perdure.principal import Scope
from perdure_api.dependencies import Gateway
from perdure_api.schemas import AgentSummary, Answer
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, tags=["agents"])


class Agents(Answer):
    """The app's agents, in order of registration."""

    items: tuple[AgentSummary, ...]


@router.get("/agents", operation_id="listAgents", openapi_extra=requires(Scope.RUNS_READ), summary="List agents")
async def list_agents(gateway: Gateway) -> Agents:
    """List the agents that runs can be started with, with their tools."""
    return Agents(items=tuple(gateway.agents.list()))
