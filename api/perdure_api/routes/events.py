"""A run's events: as a list, or as a stream, with what the model says meanwhile, that goes on until the run ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Final

import structlog
from fastapi import APIRouter, Header, Query, Request, Response
from sse_starlette import ServerSentEvent

from perdure.errors import PerdureError
from perdure.events import RunEvent
from perdure.principal import Scope
from perdure_api.access import authorise
from perdure_api.dependencies import Gateway, RunId, SharedFeeds
from perdure_api.feeds import Told
from perdure_api.live import event_source, until, until_over
from perdure_api.problems import problems
from perdure_api.runs import check_event_id
from perdure_api.schemas import Answer
from perdure_api.scoped_route import ScopedRoute, requires

router = APIRouter(route_class=ScopedRoute, prefix="/runs", tags=["runs"])
log = structlog.get_logger(__name__)

STREAM: Final = "text/event-stream"
RETRY_MILLISECONDS: Final = 1000
"""When a client whose stream broke is to come back."""


class Events(Answer):
    """Events of a run, in order."""

    items: tuple[RunEvent, ...]


@router.get(
    "/{run_id}/events",
    operation_id="listEvents",
    openapi_extra=requires(Scope.RUNS_READ),
    summary="Read or follow a run's events",
    response_model=Events,
    responses={
        **problems(HTTPStatus.NOT_FOUND),
        HTTPStatus.OK.value: {
            "description": "The events so far; for `Accept: text/event-stream`, also those to come until the run ends, "
            "each a message with the event's id, its kind as the event, and its JSON as data. Between them come, "
            "without an id, `delta` (what the model says in a step under way) and `attempt.reset` (what earlier "
            "attempts at a step said is withdrawn).",
            "content": {STREAM: {"schema": {"type": "string"}}},
        },
        HTTPStatus.NO_CONTENT.value: {"description": "The stream is over: the run has no event after that one."},
    },
)
async def read(
    run_id: RunId,
    request: Request,
    gateway: Gateway,
    feeds: SharedFeeds,
    after: Annotated[str | None, Query(description="An event's id; only later ones are returned.")] = None,
    deltas: Annotated[
        bool, Query(description="For a stream: whether it has text while the model says it, beside the events.")
    ] = True,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="As `after`, and before it.")
    ] = None,
) -> Events | Response:
    """Return a run's events so far, or stream them as they happen, also those before the client came."""
    seen = last_event_id or after
    if STREAM not in request.headers.get("accept", ""):
        return Events(items=tuple(await gateway.runs.events(run_id, after=seen)))
    # Asked before the stream starts, so that an unknown run or id is a problem with a status, not a broken stream.
    if await gateway.runs.ended(run_id) and not await gateway.runs.events(run_id, after=seen):
        return Response(status_code=HTTPStatus.NO_CONTENT)  # by which a browser knows that it need not come back
    check_event_id(seen)
    stopping = asyncio.Event()
    return event_source(
        _messages(feeds.follow(run_id, after=seen, deltas=deltas), request, run_id, stopping=stopping),
        stopping=stopping,
    )


async def _messages(
    events: AsyncGenerator[Told], request: Request, run_id: str, *, stopping: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(comment="the events of a run", retry=RETRY_MILLISECONDS)

    async def ask() -> None:
        await authorise(request.app.state.access, request, Scope.RUNS_READ)

    try:
        over = until_over(ask, stopping=stopping)
        async with aclosing(events), aclosing(until(over, events)) as ongoing:
            async for told in ongoing:
                yield ServerSentEvent(id=str(told.id) if told.id else None, event=told.kind, data=told.data)
    except PerdureError as error:
        # The client comes back with the last id it has, here or at another replica.
        log.warning("event_stream_broke", run_id=run_id, error=str(error))
