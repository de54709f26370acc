"""Schedules: which there are, what became of their runs, and making, holding, starting and deleting one."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, get_args

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, Response

from perdure.errors import ConflictError, InvalidInputError, UnknownAgentError
from perdure.principal import Principal, Scope
from perdure.schedule import Overlap
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.forms import done, filled, note, speaker
from perdure_api.console.rendering import page
from perdure_api.console.sessions import home
from perdure_api.dependencies import Caller, Gateway, ScheduleId
from perdure_api.schedule_schemas import BackfillRequest, NewSchedule, ScheduleFilter, TriggerRequest
from perdure_api.schemas import HoldRequest
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/schedules")

OVERLAPS: Final[tuple[Overlap, ...]] = get_args(Overlap)


@router.get("", openapi_extra=requires(Scope.RUNS_READ))
async def list_schedules(request: Request, gateway: Gateway) -> HTMLResponse:
    """Show all schedules with their next times and their last runs, and the form that makes one."""
    return await _list(request, gateway, {})


@router.post("", openapi_extra=requires(Scope.RUNS_WRITE))
async def create(request: Request, gateway: Gateway) -> Response:
    """Make a schedule, whose runs start as whoever sends the form."""
    form = await request.form()
    try:
        made = await gateway.schedules.create(filled(NewSchedule, _new(form)))
    except (InvalidInputError, ConflictError, UnknownAgentError) as error:
        note(request, str(error), failed=True)
        return await _list(request, gateway, form, status=HTTPStatus.UNPROCESSABLE_ENTITY)
    return done(request, _address(request, made.schedule_id), f"{made.name} is made.")


@router.get("/{schedule_id}", openapi_extra=requires(Scope.RUNS_READ))
async def show(schedule_id: ScheduleId, request: Request, gateway: Gateway) -> HTMLResponse:
    """Show one schedule with its last runs."""
    schedule = await gateway.schedules.get(schedule_id)
    return page(request, "schedule.html", schedule=schedule, overlaps=OVERLAPS)


@router.post("/{schedule_id}/pause", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="pauseSchedule")
async def pause(schedule_id: ScheduleId, request: Request, gateway: Gateway, caller: Caller) -> Response:
    """Have it start nothing until it is resumed."""
    await gateway.schedules.pause(schedule_id, await _hold(request, caller))
    return done(request, _address(request, schedule_id), "It starts nothing until it is resumed.")


@router.post("/{schedule_id}/resume", openapi_extra=requires(Scope.RUNS_WRITE))
async def resume(schedule_id: ScheduleId, request: Request, gateway: Gateway, caller: Caller) -> Response:
    """Let it go on."""
    await gateway.schedules.resume(schedule_id, await _hold(request, caller))
    return done(request, _address(request, schedule_id), "It goes on with its next time.")


@router.post("/{schedule_id}/trigger", openapi_extra=requires(Scope.RUNS_WRITE))
async def trigger(schedule_id: ScheduleId, request: Request, gateway: Gateway) -> Response:
    """Start a run now."""
    await gateway.schedules.trigger(schedule_id, TriggerRequest())
    return done(request, _address(request, schedule_id), "A run is started; it is listed in a moment.")


@router.post("/{schedule_id}/backfill", openapi_extra=requires(Scope.RUNS_WRITE))
async def backfill(schedule_id: ScheduleId, request: Request, gateway: Gateway) -> Response:
    """Start the runs of times that have passed."""
    form = await request.form()
    given = {"from": _moment(form, "from"), "to": _moment(form, "to"), "overlap": form.get("overlap")}
    await gateway.schedules.backfill(schedule_id, filled(BackfillRequest, given))
    return done(request, _address(request, schedule_id), "The runs of that time are started.")


@router.post("/{schedule_id}/delete", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="deleteSchedule")
async def delete(schedule_id: ScheduleId, request: Request, gateway: Gateway) -> Response:
    """Forget it; its runs are left to themselves."""
    await gateway.schedules.delete(schedule_id)
    return done(request, f"{home(request)}/schedules", "The schedule is deleted; its runs are left to themselves.")


async def _list(
    request: Request, gateway: Gateway, sent: Mapping[str, object], *, status: int = HTTPStatus.OK
) -> HTMLResponse:
    return page(
        request,
        "schedules.html",
        status=status,
        schedules=await gateway.schedules.list(ScheduleFilter()),
        agents=sorted({agent.name for agent in gateway.agents.list()}),
        overlaps=OVERLAPS,
        sent=sent,
    )


def _new(form: Mapping[str, object]) -> dict[str, Any]:
    when: dict[str, Any] = {name: form[name] for name in ("time_zone", "every") if form.get(name)}
    when["cron"] = [line.strip() for line in str(form.get("cron") or "").splitlines() if line.strip()]
    run = {name: form[name] for name in ("agent", "input", "user", "org") if form.get(name)}
    return {
        "name": form.get("name") or "",
        "run": {"input": "", **run},
        "when": when,
        "overlap": form.get("overlap") or "skip",
        "pause_on_failure": form.get("pause_on_failure") == "true",
        "paused": form.get("paused") == "true",
    }


async def _hold(request: Request, caller: Principal) -> HoldRequest:
    form = await request.form()
    by = speaker(request, caller)
    return filled(HoldRequest, {"reason": form.get("reason") or "", **({"by": by} if by else {})})


def _moment(form: Mapping[str, object], name: str) -> str:
    """Return a field of day and time, which a browser writes without a time zone, as UTC."""
    return f"{form.get(name) or ''}Z"


def _address(request: Request, schedule_id: str) -> str:
    return f"{home(request)}/schedules/{schedule_id}"
