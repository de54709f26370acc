"""The agents that runs can be started with, and how their latest runs went."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Path, Request
from starlette.responses import HTMLResponse

from perdure.principal import Scope
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.rendering import page
from perdure_api.dependencies import Gateway
from perdure_api.health_schemas import HealthFilter
from perdure_api.schemas import Name
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/agents")

Window = Literal["1h", "1d", "7d"]
WINDOWS: Final[dict[Window, timedelta]] = {"1h": timedelta(hours=1), "1d": timedelta(days=1), "7d": timedelta(days=7)}


@router.get("", openapi_extra=requires(Scope.RUNS_READ))
async def list_agents(request: Request, gateway: Gateway, window: Window = "1d") -> HTMLResponse:
    """Show agents by name, each with its versions and their tools; their health comes by itself."""
    by_name: dict[str, list[Any]] = {}
    for agent in gateway.agents.list():
        by_name.setdefault(agent.name, []).append(agent)
    return page(request, "agents.html", agents=by_name, window=window, windows=WINDOWS)


@router.get("/{name}/health", openapi_extra=requires(Scope.RUNS_READ))
async def health(
    name: Annotated[Name, Path()], request: Request, gateway: Gateway, window: Window = "1d"
) -> HTMLResponse:
    """Show how an agent's runs went that ended within the window, as a part of the list or as a page of its own."""
    return page(
        request,
        "agent_health.html" if "hx-request" in request.headers else "health.html",
        name=name,
        window=window,
        windows=WINDOWS,
        health=await gateway.health.of(name, HealthFilter(window=WINDOWS[window])),
    )
