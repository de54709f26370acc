"""The console as an application of its own, which the API mounts: pages, static files, headers, errors."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from fastapi import Depends, FastAPI, Request
from fastapi.responses import RedirectResponse
from starlette.datastructures import MutableHeaders, State
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure.settings import Settings
from perdure_api.console.console_route import with_session
from perdure_api.console.oidc_login import OidcLogin
from perdure_api.console.pages import agents, approvals, beside, fork, login, run, runs, schedules, start, usage
from perdure_api.console.rendering import STATIC, error_page
from perdure_api.console.sessions import Sessions, home
from perdure_api.rate_limits import limit
from perdure_api.request_log import FRAMEWORK_TELEMETRY

POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""Whatever gets into a page, nothing in it is a script or a style but the files beside this one."""
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # With no-referrer, browsers would send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def console_site(settings: Settings, state: State) -> FastAPI:
    """Return the console.

    Args:
        settings: Who may call, the secret of its cookies.
        state: The API's: gateway, feeds, access and limits are the same here.
    """
    site = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, telemetry=FRAMEWORK_TELEMETRY)
    site.state = state
    state.sessions = Sessions(settings)
    state.login = OidcLogin.of(settings)
    for noun in (runs, run, fork, beside, approvals, start, schedules, usage, agents, login):
        site.include_router(noun.router, dependencies=[Depends(limit)])
    site.add_api_route("/", _index, include_in_schema=False)
    site.mount("/static", StaticFiles(directory=STATIC))
    site.exception_handler(HTTPException)(_failed)
    site.exception_handler(Exception)(_failed)
    site.add_middleware(SafeHeaders)
    return site


async def _index(request: Request) -> Response:
    return RedirectResponse(f"{home(request)}/runs", status_code=HTTPStatus.SEE_OTHER)


async def _failed(request: Request, error: Exception) -> Response:
    async def page(_: Request) -> Response:
        return error_page(request, error)

    return await with_session(page)(request)


class SafeHeaders:
    """Sets the headers that keep pages from doing what they should not, and from being kept by others."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                # A static file's address changes with its content.
                kept = "/static/" in scope["path"] and message["status"] == HTTPStatus.OK
                headers["Cache-Control"] = "public, max-age=31536000, immutable" if kept else "no-store"
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
