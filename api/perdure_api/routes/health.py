"""Whether this process lives, and whether a run started now would go on. Open to everyone."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request

from perdure.errors import PerdureError
from perdure_api.gateway import Gateway
from perdure_api.pollers import Pollers
from perdure_api.problems import problems
from perdure_api.readiness import Readiness
from perdure_api.schemas import Answer, DownDependency

router = APIRouter(tags=["health"])


class Health(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(Pollers):
    """A run that is started now goes on."""

    down: tuple[DownDependency, ...] = ()
    """What is not to be had now, and what runs can do without."""


@router.get("/healthz", operation_id="health", summary="Is the process alive?")
async def health() -> Health:
    """Answer without asking anyone else."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readiness",
    summary="Would a run go on?",
    responses=problems(HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE),
)
async def readiness(request: Request) -> Ready:
    """Ask Temporal whether workers poll the task queue, and those of tools and providers that have a rate.

    Whatever is down is named, and since when this process has known; 503 is for what no run would go on without.
    """
    gateway: Gateway = request.app.state.gateway
    looking: Readiness = request.app.state.readiness
    found, down = await looking.look(gateway.agents)
    if isinstance(found, PerdureError):
        request.state.down = down
        raise found
    return Ready(**dict(found), down=down)
