"""The agents that runs can be started with, how their latest runs went, and whether somebody serves them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from perdure.principal import Scope
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.rendering import page
from perdure_api.dependencies import Gateway
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/agents")
WINDOW = timedelta(days=1)


@router.get("", openapi_extra=requires(Scope.RUNS_READ))
async def list_agents(request: Request, gateway: Gateway) -> HTMLResponse:
    """Show agents by name, each with its versions and their tools."""
    by_name: dict[str, list[Any]] = {}
    for agent in gateway.agents.list():
        by_name.setdefault(agent.name, []).append(agent)
    return page(request, "agents.html", agents=by_name)
