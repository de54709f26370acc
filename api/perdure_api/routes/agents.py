"""The agents that runs can be started with."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from perdure.principal import Scope
from perdure_api.dependencies import Gateway
from perdure_api.health_schemas import AgentHealth, HealthFilter
from perdure_api.schemas import AgentSummary, Answer, Name
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, tags=["agents"])


class Agents(Answer):
    """The app's agents, in order of registration."""

    items: tuple[AgentSummary, ...]


@router.get("/agents", operation_id="listAgents", openapi_extra=requires(Scope.RUNS_READ), summary="List agents")
async def list_agents(gateway: Gateway) -> Agents:
    """List the agents that runs can be started with, with their tools."""
    return Agents(items=tuple(gateway.agents.list()))


@router.get(
    "/agents/{name}/health",
    operation_id="getAgentHealth",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="How do an agent's runs go?",
)
async def agent_health(
    name: Annotated[Name, Path(description="The agent's name.")],
    query: Annotated[HealthFilter, Query()],
    gateway: Gateway,
) -> AgentHealth:
    """Tell how the agent's runs went that ended within the window, in all and by version; it takes no worker."""
    return await gateway.health.of(name, query)
