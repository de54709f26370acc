"""The agents that runs can be started with."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Query

from perdure.principal import Scope
from perdure_api.comparison_schemas import ComparisonFilter, VersionComparison
from perdure_api.dependencies import Gateway
from perdure_api.health_schemas import AgentHealth, HealthFilter
from perdure_api.problems import WITH_BODY
from perdure_api.rollout_schemas import AgentRollout, NewRollout, RolloutEnd, RolloutFilter
from perdure_api.schemas import AgentSummary, Answer, Name
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, tags=["agents"])


AgentName = Annotated[Name, Path(description="The agent's name.")]
EXAMPLE = {"weights": {"1": 90, "2": 10}}


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
async def agent_health(name: AgentName, query: Annotated[HealthFilter, Query()], gateway: Gateway) -> AgentHealth:
    """Tell how the agent's runs went that ended within the window, in all and by version; it takes no worker."""
    return await gateway.health.of(name, query)


@router.get(
    "/agents/{name}/versions/compare",
    operation_id="compareVersions",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="Which of an agent's versions does better?",
)
async def compare_versions(
    name: AgentName, query: Annotated[ComparisonFilter, Query()], gateway: Gateway
) -> VersionComparison:
    """Set versions side by side: success, durations, cost, failed tool calls, and what people and scorers thought."""
    return await gateway.comparisons.of(name, query)


@router.get(
    "/agents/{name}/rollout",
    operation_id="getRollout",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="Which versions do an agent's runs start with?",
)
async def rollout(name: AgentName, query: Annotated[RolloutFilter, Query()], gateway: Gateway) -> AgentRollout:
    """Return the rollout that holds for the caller's organisation, and what part of new users each version gets."""
    return await gateway.rollouts.of(name, query)


@router.put(
    "/agents/{name}/rollout",
    operation_id="setRollout",
    openapi_extra=requires(Scope.AGENTS_WRITE),
    summary="Share runs out among an agent's versions",
    responses=WITH_BODY,
)
async def set_rollout(
    name: AgentName, new: Annotated[NewRollout, Body(examples=[EXAMPLE])], gateway: Gateway
) -> AgentRollout:
    """Start runs by these weights, in place of an earlier rollout; users keep their version while they allow it."""
    return await gateway.rollouts.set(name, new)


@router.delete(
    "/agents/{name}/rollout",
    operation_id="clearRollout",
    openapi_extra=requires(Scope.AGENTS_WRITE),
    summary="End a rollout",
)
async def clear_rollout(name: AgentName, query: Annotated[RolloutEnd, Query()], gateway: Gateway) -> AgentRollout:
    """Return to everybody's rollout, or without one to the version registered last; also if there is no rollout."""
    return await gateway.rollouts.clear(name, query)
