"""The form by which a run is forked: at a step of it, with something changed."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from perdure.errors import ConflictError, InvalidInputError
from perdure.events import Step
from perdure.messages import JsonObject
from perdure.principal import Scope
from perdure_api.console.argument_form import fields, read
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.forms import done, filled, note
from perdure_api.console.rendering import page
from perdure_api.console.sessions import home
from perdure_api.dependencies import Gateway, RunId
from perdure_api.recovery_schemas import ForkRequest
from perdure_api.schemas import RunDetail
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/runs/{run_id}/fork")

Number = Annotated[int | None, Query(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class _Place:
    """Where a fork is to begin, and what the run has there."""

    run: RunDetail
    number: int
    step: Step | None
    """None: behind the last one."""
    schema: JsonObject | None
    instructions: str

    @property
    def is_call(self) -> bool:
        """Whether it is the call of a tool."""
        return self.step is not None and self.step.kind == "tool"


@router.get("", openapi_extra=requires(Scope.RUNS_WRITE))
async def show(run_id: RunId, request: Request, gateway: Gateway, step: Number = None) -> HTMLResponse:
    """Show the form for a step; without one, for what comes behind an answer, or for the last model call."""
    return _page(request, await _place(gateway, run_id, step), {})


@router.post("", openapi_extra=requires(Scope.RUNS_WRITE))
async def fork(run_id: RunId, request: Request, gateway: Gateway, step: Number = None) -> Response:
    """Start the fork, once however often the form is sent."""
    form = await request.form()
    place = await _place(gateway, run_id, step)
    try:
        wanted = filled(ForkRequest, _changes(form, place))
        started = await gateway.recovery.fork(run_id, wanted, idempotency_key=str(form.get("once") or "") or None)
    except (InvalidInputError, ConflictError) as error:
        note(request, str(error), failed=True)
        return _page(request, place, form, status=HTTPStatus.CONFLICT)
    return done(request, f"{home(request)}/runs/{started.run_id}", f"Forked from {run_id} at step {place.number}.")


async def _place(gateway: Gateway, run_id: str, number: int | None) -> _Place:
    run = await gateway.runs.get(run_id)
    steps = await gateway.runs.steps(run_id)
    if number is None:
        models = [step.number for step in steps if step.kind == "model"]
        answered = bool(run.ended_at and steps and steps[-1].kind == "model" and run.status == "completed")
        number = (models[-1] if models else 1) + (1 if answered else 0)
    step = next((one for one in steps if one.number == number), None)
    return _Place(
        run=run,
        number=number,
        step=step,
        schema=gateway.agents.argument_schema(step.name) if step is not None and step.kind == "tool" else None,
        instructions=gateway.agents.instructions(run.agent, run.version),
    )


def _changes(form: Mapping[str, object], place: _Place) -> dict[str, Any]:
    """Return what the form changes; what is left as it is, the fork has from the run."""
    given: dict[str, Any] = {"step": place.number}
    given |= {name: form[name] for name in ("model", "message", "result") if str(form.get(name) or "").strip()}
    instructions = str(form.get("instructions") or "").replace("\r\n", "\n")
    if instructions.strip() and instructions != place.instructions:
        given["instructions"] = instructions
    if place.step is not None and place.is_call and place.step.arguments is not None:
        arguments = read(form, place.step.arguments, place.schema)
        if arguments != place.step.arguments:
            given["arguments"] = arguments
    return given


def _page(request: Request, place: _Place, sent: Mapping[str, object], *, status: int = HTTPStatus.OK) -> HTMLResponse:
    arguments = place.step.arguments if place.step is not None and place.is_call else None
    return page(
        request,
        "fork.html",
        status=status,
        run=place.run,
        place=place,
        fields=[] if arguments is None else fields(arguments, place.schema),
        sent=sent,
        once=secrets.token_urlsafe(16),
    )
