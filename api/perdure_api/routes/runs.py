"""Start runs, list them, look at one, steer it, cancel it."""

from __future__ import annotations

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Response
from pydantic import Field

from perdure.events import Step
from perdure.principal import Scope
from perdure_api.dependencies import Gateway, RunId
from perdure_api.problems import WITH_BODY, problems
from perdure_api.schemas import (
    Answer,
    HoldRequest,
    MessageRequest,
    NewRun,
    Request,
    RunDetail,
    RunFilter,
    RunPage,
    RunReference,
    StartedRun,
)
from perdure_api.scoped_route import ScopedRoute, requires
from perdure_api.text import Line, Text

router = APIRouter(route_class=ScopedRoute, prefix="/runs", tags=["runs"])

EXAMPLE = {
    "agent": "support",
    "input": "Refund order 1042, it arrived broken.",
    "user": "ann",
    "limits": {"max_steps": 20},
}

MESSAGE_EXAMPLE = {"text": "Offer a voucher instead of the refund.", "from": "ann"}


class ListQuery(RunFilter):
    """The query of a list of runs."""

    limit: int = Field(default=50, ge=1, le=1000)
    page_token: str | None = Field(default=None, max_length=4096)
    """`next_page_token` of the page before, with the same filters."""


class Cancellation(Request):
    """Why a run is cancelled."""

    reason: Annotated[Text, Field(max_length=1000)] = ""
    """Kept in the run's history."""


class Steps(Answer):
    """A run's steps."""

    items: tuple[Step, ...]


@router.post(
    "",
    operation_id="startRun",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Start a run",
    status_code=HTTPStatus.ACCEPTED,
    response_model=StartedRun,
    responses={
        **WITH_BODY,
        HTTPStatus.OK.value: {"model": RunDetail, "description": "With `wait`: the run has ended."},
        HTTPStatus.ACCEPTED.value: {
            "description": "The run is under way.",
            "headers": {"Location": {"description": "Where the run is.", "schema": {"type": "string"}}},
        },
    },
)
async def start(
    new: Annotated[NewRun, Body(examples=[EXAMPLE])],
    gateway: Gateway,
    response: Response,
    idempotency_key: Annotated[
        Line | None,
        Header(
            alias="Idempotency-Key",
            description="Chosen by the caller; with the same one, and the same request, nothing more is started.",
        ),
    ] = None,
    wait: Annotated[int, Query(ge=0, le=60, description="Seconds to wait for the run's end.")] = 0,
) -> StartedRun | Response:
    """Start a run of an agent; with `wait`, answer with its result if it ends in time."""
    started = await gateway.runs.start(new, idempotency_key=idempotency_key)
    location = f"/v1/runs/{started.run_id}"
    if wait and (detail := await gateway.runs.result(started.run_id, timeout=timedelta(seconds=wait))):
        return Response(detail.model_dump_json(), media_type="application/json", headers={"Location": location})
    response.headers["Location"] = location
    return started


@router.get("", operation_id="listRuns", openapi_extra=requires(Scope.RUNS_READ), summary="List runs")
async def list_runs(query: Annotated[ListQuery, Query()], gateway: Gateway) -> RunPage:
    """List runs, the newest first. This works while no worker is running."""
    return await gateway.runs.list(query, limit=query.limit, page_token=query.page_token)


@router.get(
    "/{run_id}",
    operation_id="getRun",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="Look at a run",
    responses=problems(HTTPStatus.NOT_FOUND),
)
async def get(run_id: RunId, gateway: Gateway) -> RunDetail:
    """Return a run as it is now, or how it ended."""
    return await gateway.runs.get(run_id)


@router.get(
    "/{run_id}/steps",
    operation_id="listSteps",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="List a run's steps",
    responses=problems(HTTPStatus.NOT_FOUND),
)
async def list_steps(run_id: RunId, gateway: Gateway) -> Steps:
    """Return a run's model calls and tool calls so far, with what became of each."""
    return Steps(items=tuple(await gateway.runs.steps(run_id)))


@router.get(
    "/{run_id}/history",
    operation_id="exportHistory",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="Export a run's history",
    response_class=Response,
    responses={
        **problems(HTTPStatus.NOT_FOUND),
        HTTPStatus.OK.value: {
            "description": "The run's Temporal history, payloads decoded.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
    },
)
async def export(run_id: RunId, gateway: Gateway) -> Response:
    """Return a run's history as JSON, for `perdure replay`."""
    return Response(await gateway.runs.export(run_id), media_type="application/json")


@router.post(
    "/{run_id}/cancel",
    operation_id="cancelRun",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Cancel a run",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def cancel(run_id: RunId, gateway: Gateway, cancellation: Cancellation | None = None) -> RunReference:
    """Ask a run to end as cancelled; a run that is being cancelled is left to it."""
    await gateway.runs.cancel(run_id, reason=cancellation.reason if cancellation else "")
    return RunReference(run_id=run_id)


@router.post(
    "/{run_id}/messages",
    operation_id="sendMessage",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Say something to a run",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def message(
    run_id: RunId, request: Annotated[MessageRequest, Body(examples=[MESSAGE_EXAMPLE])], gateway: Gateway
) -> RunReference:
    """Have a message join the conversation before the model is called next; a final answer that comes first waits."""
    await gateway.runs.message(run_id, request)
    return RunReference(run_id=run_id)


@router.post(
    "/{run_id}/pause",
    operation_id="pauseRun",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Pause a run",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def pause(run_id: RunId, gateway: Gateway, request: HoldRequest | None = None) -> RunReference:
    """Start no further step of the run; what is running ends. A paused run is left as it is."""
    await gateway.runs.pause(run_id, request or HoldRequest())
    return RunReference(run_id=run_id)


@router.post(
    "/{run_id}/resume",
    operation_id="resumeRun",
    openapi_extra=requires(Scope.RUNS_WRITE),
    summary="Resume a run",
    status_code=HTTPStatus.ACCEPTED,
    responses={**WITH_BODY, **problems(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT)},
)
async def resume(run_id: RunId, gateway: Gateway, request: HoldRequest | None = None) -> RunReference:
    """Let a paused run go on; one that is not paused is left as it is."""
    await gateway.runs.resume(run_id, request or HoldRequest())
    return RunReference(run_id=run_id)
