"""Whether this process lives, and whether a run started now would go on. Open to everyone."""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal

from fastapi import APIRouter, Request

from perdure.errors import NoWorkerError
from perdure_api.gateway import Gateway
from perdure_api.pollers import Pollers
from perdure_api.problems import problems
from perdure_api.schemas import Answer

router = APIRouter(tags=["health"])


class Health(Answer):
    """The process answers."""

    status: Literal["ok"] = "ok"


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
async def readiness(request: Request) -> Pollers:
    """Ask Temporal whether workers poll the task queue, and those of tools and providers that have a rate."""
    gateway: Gateway = request.app.state.gateway
    pollers = await gateway.agents.pollers()
    if not (pollers.workflow and pollers.activity):
        raise NoWorkerError("Temporal answers, but no worker polls the task queue; start one with 'perdure worker'")
    if unserved := [name for name, count in pollers.rated.items() if not count]:
        raise NoWorkerError(
            f"workers run, but none polls {', '.join(unserved)}: they lack rates that the app here declares, and calls "
            "would wait there for good; deploy the same app to both"
        )
    return pollers
