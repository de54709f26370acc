"""One run: its timeline, what it used, and the ways to steer it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from starlette.responses import HTMLResponse, Response

from perdure.principal import Scope
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.feed import run_feed
from perdure_api.console.rendering import fragment, page, surroundings
from perdure_api.console.sessions import Session, home
from perdure_api.console.story import Story
from perdure_api.dependencies import Caller, Gateway, RunId, SharedFeeds
from perdure_api.recovery_schemas import RetryRequest
from perdure_api.schemas import HoldRequest, MessageRequest
from perdure_api.scoped_route import requires

router = APIRouter(route_class=ConsoleRoute, prefix="/runs/{run_id}")

Words = Annotated[str, Form(max_length=64 * 1024)]


@router.get("", openapi_extra=requires(Scope.RUNS_READ))
async def show(run_id: RunId, request: Request, gateway: Gateway) -> HTMLResponse:
    """Show a run as it is now; what happens after that comes by its feed."""
    detail = await gateway.runs.get(run_id)
    story = Story(await gateway.runs.events(run_id))
    return page(request, "run.html", run=detail, story=story)


@router.get("/feed", openapi_extra=requires(Scope.RUNS_READ))
async def feed(run_id: RunId, request: Request, gateway: Gateway, feeds: SharedFeeds, after: str = "") -> Response:
    """Stream what changes on the run's page, from behind the event that it has last."""
    return await run_feed(request, gateway, feeds, run_id, after=request.headers.get("last-event-id") or after or None)


@router.post("/message", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="sendMessage")
async def message(run_id: RunId, request: Request, gateway: Gateway, caller: Caller, text: Words = "") -> Response:
    """Say something to the model."""
    sender = _speaker(request, caller.user)
    await gateway.runs.message(run_id, MessageRequest.model_validate({"text": text, "from": sender}))
    return _done(request, run_id, "The model hears it when it is called next.")


@router.post("/pause", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="pauseRun")
async def pause(run_id: RunId, request: Request, gateway: Gateway, caller: Caller, reason: Words = "") -> Response:
    """Have the run start no further step."""
    await gateway.runs.pause(run_id, HoldRequest(by=_speaker(request, caller.user), reason=reason))
    return _done(request, run_id, "No further step starts; what is running ends.")


@router.post("/resume", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="resumeRun")
async def resume(run_id: RunId, request: Request, gateway: Gateway, caller: Caller, reason: Words = "") -> Response:
    """Let the run go on."""
    await gateway.runs.resume(run_id, HoldRequest(by=_speaker(request, caller.user), reason=reason))
    return _done(request, run_id, "The run goes on.")


@router.post("/cancel", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="cancelRun")
async def cancel(run_id: RunId, request: Request, gateway: Gateway, reason: Words = "") -> Response:
    """Ask the run to end."""
    await gateway.runs.cancel(run_id, reason=reason)
    return _done(request, run_id, "The run was asked to end.")


@router.post("/retry", openapi_extra=requires(Scope.RUNS_WRITE), operation_id="retryRun")
async def retry(run_id: RunId, request: Request, gateway: Gateway, caller: Caller, reason: Words = "") -> Response:
    """Have a run that ended badly go on from the step that failed."""
    await gateway.recovery.retry(run_id, RetryRequest(by=_speaker(request, caller.user), reason=reason))
    return _done(request, run_id, "The run goes on from the step that failed.")


def _speaker(request: Request, user: str) -> str | None:
    """Return in whose name the browser acts: the caller's, or while nobody logs in, the one given last."""
    session: Session = request.state.session
    return user or session.name or None


def _done(request: Request, run_id: str, notice: str) -> Response:
    """Say that it is done: on the page, whose feed shows the rest, or on the page loaded anew."""
    if "hx-request" in request.headers:
        return HTMLResponse(fragment(surroundings(request), "notice.html", notice=notice, failed=False))
    request.state.session = request.state.session.model_copy(update={"notice": notice})
    return RedirectResponse(f"{home(request)}/runs/{run_id}", status_code=HTTPStatus.SEE_OTHER)
