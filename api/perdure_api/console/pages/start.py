"""The form that starts a run."""

from __future__ import annotations

import secrets
from http import HTTPStatus
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse
from starlette.responses import HTMLResponse, Response

from perdure.errors import InvalidInputError
from perdure.principal import Scope
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.forms import filled, note
from perdure_api.console.rendering import page
from perdure_api.console.sessions import home
from perdure_api.dependencies import Gateway
from perdure_api.schemas import NewRun
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/start")


@router.get("", openapi_extra=requires(Scope.RUNS_WRITE))
async def show(request: Request, gateway: Gateway) -> HTMLResponse:
    """Show the form."""
    return _page(request, gateway, {})


@router.post("", openapi_extra=requires(Scope.RUNS_WRITE))
async def start(request: Request, gateway: Gateway) -> Response:
    """Start the run, once however often the form is sent."""
    form = dict(await request.form())
    try:
        started = await gateway.runs.start(_read(form), idempotency_key=str(form.get("once") or "") or None)
    except InvalidInputError as error:
        note(request, str(error), failed=True)
        return _page(request, gateway, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return RedirectResponse(f"{home(request)}/runs/{started.run_id}", status_code=HTTPStatus.SEE_OTHER)


def _page(request: Request, gateway: Gateway, sent: dict[str, Any], *, status: int = HTTPStatus.OK) -> HTMLResponse:
    agents = gateway.agents.list()
    return page(request, "start.html", status=status, agents=agents, sent=sent, once=secrets.token_urlsafe(16))


def _read(form: dict[str, Any]) -> NewRun:
    agent, _, version = str(form.get("agent", "")).partition("@")
    given: dict[str, Any] = {"agent": agent, "input": form.get("input", "")}
    given |= {"version": version} if version else {}
    given |= {name: form[name] for name in ("user", "session_id", "org", "priority") if form.get(name)}
    limits = {name: form[name] for name in ("max_steps", "max_cost_usd") if form.get(name)}
    given |= {"limits": limits} if limits else {}
    return filled(NewRun, given)
