"""Schedules: made, looked at, changed, held, started by hand, deleted."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Query, Response

from perdure.principal import Scope
from perdure_api.dependencies import Gateway, ScheduleId
from perdure_api.problems import WITH_BODY, problems
from perdure_api.schedule_schemas import (
    BackfillRequest,
    NewSchedule,
    Schedule,
    ScheduleChange,
    ScheduleFilter,
    ScheduleList,
    ScheduleReference,
    TriggerRequest,
)
from perdure_api.schemas import HoldRequest
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, prefix="/schedules", tags=["schedules"])

EXAMPLE = {
    "name": "morning-report",
    "run": {"agent": "support", "input": "Sum up what came in since yesterday."},
    "when": {"cron": "0 9 * * MON-FRI", "time_zone": "Europe/Berlin"},
}
CHANGE_EXAMPLE = {"pause_on_failure": True}
BACKFILL_EXAMPLE = {"from": "2026-11-20T00:00:00Z", "to": "2026-11-22T00:00:00Z"}
MISSING = problems(HTTPStatus.NOT_FOUND)


@router.post(
    "",
    operation_id="createSchedule",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Make a schedule",
    responses={**WITH_BODY, **problems(HTTPStatus.CONFLICT)},
)
async def create(new: Annotated[NewSchedule, Body(examples=[EXAMPLE])], gateway: Gateway) -> Schedule:
    """Start runs at these times from now on, as the caller."""
    return await gateway.schedules.create(new)


@router.get("", operation_id="listSchedules", openapi_extra=requires(Scope.RUNS_READ), summary="List schedules")
async def list_schedules(query: Annotated[ScheduleFilter, Query()], gateway: Gateway) -> ScheduleList:
    """List schedules by name, each with its next times and its last run."""
    return ScheduleList(items=tuple(await gateway.schedules.list(query)))


@router.get(
    "/{schedule_id}",
    operation_id="getSchedule",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="Look at a schedule",
    responses=MISSING,
)
async def get(schedule_id: ScheduleId, gateway: Gateway) -> Schedule:
    """Return a schedule with its next times and its last runs."""
    return await gateway.schedules.get(schedule_id)


@router.patch(
    "/{schedule_id}",
    operation_id="changeSchedule",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Change a schedule",
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def change(
    schedule_id: ScheduleId, request: Annotated[ScheduleChange, Body(examples=[CHANGE_EXAMPLE])], gateway: Gateway
) -> Schedule:
    """Change when a schedule starts runs, or what; whoever changes what, starts the runs from then on."""
    return await gateway.schedules.change(schedule_id, request)


@router.delete(
    "/{schedule_id}",
    operation_id="deleteSchedule",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Delete a schedule",
    status_code=HTTPStatus.NO_CONTENT,
    response_class=Response,
    responses=MISSING,
)
async def delete(schedule_id: ScheduleId, gateway: Gateway) -> None:
    """Forget a schedule; its runs are left to themselves."""
    await gateway.schedules.delete(schedule_id)


@router.post(
    "/{schedule_id}/pause",
    operation_id="pauseSchedule",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Pause a schedule",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **MISSING},
)
async def pause(schedule_id: ScheduleId, gateway: Gateway, request: HoldRequest | None = None) -> ScheduleReference:
    """Start nothing at its times until it is resumed."""
    await gateway.schedules.pause(schedule_id, request or HoldRequest())
    return ScheduleReference(schedule_id=schedule_id)


@router.post(
    "/{schedule_id}/resume",
    operation_id="resumeSchedule",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Resume a schedule",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **MISSING},
)
async def resume(schedule_id: ScheduleId, gateway: Gateway, request: HoldRequest | None = None) -> ScheduleReference:
    """Go on with its next time."""
    await gateway.schedules.resume(schedule_id, request or HoldRequest())
    return ScheduleReference(schedule_id=schedule_id)


@router.post(
    "/{schedule_id}/trigger",
    operation_id="triggerSchedule",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Start a run of a schedule now",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **MISSING},
)
async def trigger(
    schedule_id: ScheduleId, gateway: Gateway, request: TriggerRequest | None = None
) -> ScheduleReference:
    """Start a run now, also while the schedule is paused."""
    await gateway.schedules.trigger(schedule_id, request or TriggerRequest())
    return ScheduleReference(schedule_id=schedule_id)


@router.post(
    "/{schedule_id}/backfill",
    operation_id="backfillSchedule",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Make up for times that have passed",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **MISSING},
)
async def backfill(
    schedule_id: ScheduleId, request: Annotated[BackfillRequest, Body(examples=[BACKFILL_EXAMPLE])], gateway: Gateway
) -> ScheduleReference:
    """Start the runs of a period, one after the other unless `overlap` says otherwise."""
    await gateway.schedules.backfill(schedule_id, request)
    return ScheduleReference(schedule_id=schedule_id)
