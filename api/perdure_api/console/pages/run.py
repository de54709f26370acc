"""One run: its timeline, what it used, and the ways to steer it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request
from starlette.responses import HTMLResponse, Response

from perdure.principal import Scope
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.feed import run_feed
from perdure_api.console.forms import done, speaker
from perdure_api.console.rendering import page
from perdure_api.console.sessions import home
from perdure_api.console.story import Story, withdrawn
from perdure_api.dependencies import Caller, Gateway, RunId, SharedFeeds
from perdure_api.recovery_schemas import RetryRequest
from perdure_api.schemas import HoldRequest, MessageRequest
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/runs/{run_id}")

Words = Annotated[str, Form(max_length=64 * 1024)]
Key = Annotated[str, Query(max_length=64)]
"""Of an entry, or of an event."""
ExecutionId = Annotated[str, Path(pattern=r"^[0-9a-f-]{36}$")]


@router.get("", openapi_extra=requires(Scope.RUNS_READ))
async def show(run_id: RunId, request: Request, gateway: Gateway, before: Key = "") -> HTMLResponse:
    """Show a run as it is now, with its latest entries or those before one; what happens then comes by its feed."""
    detail = await gateway.runs.get(run_id)
    story = Story(await gateway.runs.events(run_id))
    return page(request, "run.html", run=detail, story=story, window=story.window(before=before), before=before)


@router.get("/earlier", openapi_extra=requires(Scope.RUNS_READ))
async def earlier(run_id: RunId, request: Request, gateway: Gateway, before: Key) -> HTMLResponse:
    """Return the entries before one, as a part of the run's page."""
    story = Story(await gateway.runs.events(run_id))
    run = {"run_id": run_id}
    return page(request, "run_entries.html", run=run, story=story, window=story.window(before=before))


@router.get("/withdrawn/{execution_id}", openapi_extra=requires(Scope.RUNS_READ))
async def show_withdrawn(
    run_id: RunId, execution_id: ExecutionId, reset: Key, request: Request, gateway: Gateway
) -> HTMLResponse:
    """Show what a retry has left behind, as a part of the run's page or as a page of its own."""
    story, entries = withdrawn(*await gateway.runs.withdrawn(run_id, execution_id, reset=reset))
    return page(
        request,
        "run_withdrawn.html" if "hx-request" in request.headers else "withdrawn.html",
        run={"run_id": run_id},
        ended=story.ended,
        entries=[(f"past-{execution_id[-12:]}-{key}", entry) for key, entry in entries],
    )


@router.get("/feed", openapi_extra=requires(Scope.RUNS_READ))
async def feed(run_id: RunId, request: Request, gateway: Gateway, feeds: SharedFeeds, after: str = "") -> Response:
    """Stream what changes on the run's page, from behind the event that it has last."""
    return await run_feed(request, gateway, feeds, run_id, after=request.headers.get("last-event-id") or after or None)


@router.post("/message", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="sendMessage")
async def message(run_id: RunId, request: Request, gateway: Gateway, caller: Caller, text: Words = "") -> Response:
    """Say something to the model."""
    sender = speaker(request, caller)
    await gateway.runs.message(run_id, MessageRequest.model_validate({"text": text, "from": sender}))
    return done(request, _address(request, run_id), "The model hears it when it is called next.")


@router.post("/pause", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="pauseRun")
async def pause(run_id: RunId, request: Request, gateway: Gateway, caller: Caller, reason: Words = "") -> Response:
    """Have the run start no further step."""
    await gateway.runs.pause(run_id, HoldRequest(by=speaker(request, caller), reason=reason))
    return done(request, _address(request, run_id), "No further step starts; what is running ends.")


@router.post("/resume", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="resumeRun")
async def resume(run_id: RunId, request: Request, gateway: Gateway, caller: Caller, reason: Words = "") -> Response:
    """Let the run go on."""
    await gateway.runs.resume(run_id, HoldRequest(by=speaker(request, caller), reason=reason))
    return done(request, _address(request, run_id), "The run goes on.")


@router.post("/cancel", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="cancelRun")
async def cancel(run_id: RunId, request: Request, gateway: Gateway, reason: Words = "") -> Response:
    """Ask the run to end."""
    await gateway.runs.cancel(run_id, reason=reason)
    return done(request, _address(request, run_id), "The run was asked to end.")


@router.post("/retry", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="retryRun")
async def retry(run_id: RunId, request: Request, gateway: Gateway, caller: Caller, reason: Words = "") -> Response:
    """Have a run that ended badly go on from the step that failed."""
    await gateway.recovery.retry(run_id, RetryRequest(by=speaker(request, caller), reason=reason))
    return done(request, _address(request, run_id), "The run goes on from the step that failed.")


def _address(request: Request, run_id: str) -> str:
    return f"{home(request)}/runs/{run_id}"
