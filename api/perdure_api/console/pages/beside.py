"""What no event of a run tells: calls that are tried again, what is thought of it, who has been told of it."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from perdure.principal import Scope
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.forms import done, filled, speaker
from perdure_api.console.rendering import page
from perdure_api.console.sessions import home
from perdure_api.dependencies import Caller, DeliveryId, Gateway, RunId
from perdure_api.feedback_schemas import FeedbackRequest
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/runs/{run_id}")


@router.get("/beside", openapi_extra=requires(Scope.RUNS_READ))
async def show(run_id: RunId, request: Request, gateway: Gateway, caller: Caller) -> HTMLResponse:
    """Show it, as a part of the run's page or as a page of its own."""
    calls, feedback, scorings, deliveries = await asyncio.gather(
        gateway.runs.calls(run_id),
        gateway.feedback.list(run_id),
        gateway.scorings.list(run_id),
        gateway.deliveries.list(run_id),
    )
    statuses = [*(scoring.status for scoring in scorings), *(delivery.status for delivery in deliveries)]
    return page(
        request,
        "run_beside.html" if "hx-request" in request.headers else "beside.html",
        run_id=run_id,
        calls=calls or (),
        feedback=feedback,
        scorings=scorings,
        deliveries=deliveries,
        own=speaker(request, caller),
        goes_on=calls is not None or "under_way" in statuses,
        once=secrets.token_hex(4),
    )


@router.post("/feedback", openapi_extra=requires(Scope.RUNS_WRITE))
async def give_feedback(run_id: RunId, request: Request, gateway: Gateway, caller: Caller) -> Response:
    """Keep what whoever sends the form thinks of the run."""
    form = await request.form()
    given: dict[str, Any] = {"comment": form.get("comment") or "", "by": speaker(request, caller, form.get("by"))}
    given |= {"score": form["score"]} if form.get("score") else {}
    await gateway.feedback.give(run_id, filled(FeedbackRequest, given))
    return done(request, _address(request, run_id), "Your word on this run is kept.")


@router.post("/feedback/withdraw", openapi_extra=requires(Scope.RUNS_WRITE))
async def withdraw_feedback(run_id: RunId, request: Request, gateway: Gateway, caller: Caller) -> Response:
    """Forget what whoever sends the form thought of the run."""
    await gateway.feedback.withdraw(run_id, by=speaker(request, caller))
    return done(request, _address(request, run_id), "Your word on this run is taken back.")


@router.post("/deliveries/{delivery_id}/redeliver", openapi_extra=requires(Scope.RUNS_WRITE))
async def redeliver(run_id: RunId, delivery_id: DeliveryId, request: Request, gateway: Gateway) -> Response:
    """Have a delivery that was given up tried again."""
    begun = await gateway.deliveries.redeliver(run_id, delivery_id)
    return done(request, _address(request, run_id), f"{begun.host} is told again.")


def _address(request: Request, run_id: str) -> str:
    return f"{home(request)}/runs/{run_id}#beside"
