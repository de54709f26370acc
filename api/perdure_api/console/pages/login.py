"""Logging in, with an API key or at the issuer, and out."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, Response

from perdure.errors import UnauthenticatedError
from perdure.settings import Settings
from perdure_api.access import Access, OpenAccess
from perdure_api.console.console_route import require_own_form, with_session
from perdure_api.console.oidc_login import COOKIE, PATIENCE, Attempt, OidcLogin
from perdure_api.console.rendering import page
from perdure_api.console.sessions import Session, Sessions, home


class LoginRoute(APIRoute):
    """A page for whoever is not logged in yet."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, between reading the session and writing it."""
        return with_session(super().get_route_handler())


router = APIRouter(route_class=LoginRoute)


@router.get("/login")
async def show(request: Request, next: str = "") -> Response:  # noqa: A002  # as the address has it
    """Show how one logs in."""
    access: Access = request.app.state.access
    if isinstance(access, OpenAccess):
        return RedirectResponse(f"{home(request)}/runs", status_code=HTTPStatus.SEE_OTHER)
    return _page(request, next)


@router.post("/login")
async def login(
    request: Request,
    key: Annotated[str, Form(max_length=8192)] = "",
    next: Annotated[str, Form(max_length=2048)] = "",  # noqa: A002  # as the form has it
) -> Response:
    """Log in with an API key or a token."""
    await require_own_form(request)
    access: Access = request.app.state.access
    settings: Settings = request.app.state.settings
    if isinstance(access, OpenAccess) or settings.console_secret is None:
        return _page(request, next)
    try:
        await access.holder_of(key.strip(), request)
    except UnauthenticatedError as error:
        request.state.session = Session(notice=f"That did not work: {error}", failed=True)
        return _page(request, next, status=HTTPStatus.UNAUTHORIZED)
    request.state.session = Session(bearer=key.strip())  # with a new token for forms
    return RedirectResponse(_own_address(request, next), status_code=HTTPStatus.SEE_OTHER)


@router.get("/login/oidc")
async def to_issuer(request: Request, next: str = "") -> Response:  # noqa: A002  # as the address has it
    """Send the browser to the issuer. No form: a page's policy would keep a form from leading there."""
    issuer = _issuer(request)
    attempt = Attempt.new(next=next)
    response = RedirectResponse(await issuer.address(attempt, back=_back(request)), status_code=HTTPStatus.SEE_OTHER)
    sessions: Sessions = request.app.state.sessions
    sessions.set_cookie(response, request, COOKIE, sessions.seal(attempt.model_dump_json()), lifetime=PATIENCE)
    return response


@router.get("/login/callback")
async def from_issuer(request: Request, code: str = "", state: str = "", error: str = "") -> Response:
    """Take the issuer's answer to this browser's question."""
    sessions: Sessions = request.app.state.sessions
    kept = sessions.open(request.cookies.get(COOKIE, ""), lifetime=PATIENCE)
    attempt = Attempt.model_validate_json(kept) if kept else None
    if attempt is None or not secrets.compare_digest(state.encode(), attempt.state.encode()) or not code:
        request.state.session = Session(notice=f"The login did not work: {error or 'begin anew'}"[:200], failed=True)
        return _page(request, "", status=HTTPStatus.UNAUTHORIZED)
    access: Access = request.app.state.access
    assert not isinstance(access, OpenAccess)  # noqa: S101  # an open console has no login
    refusal = "the issuer gave no token"
    for token in await _issuer(request).tokens(code, attempt, back=_back(request)):
        try:
            await access.holder_of(token, request)
        except UnauthenticatedError as problem:
            refusal = str(problem)
            continue
        request.state.session = Session(bearer=token)
        response = RedirectResponse(_own_address(request, attempt.next), status_code=HTTPStatus.SEE_OTHER)
        response.delete_cookie(COOKIE, path=home(request))
        return response
    request.state.session = Session(notice=f"The login did not work: {refusal}", failed=True)
    return _page(request, attempt.next, status=HTTPStatus.UNAUTHORIZED)


@router.post("/logout")
async def logout(request: Request) -> Response:
    """Have the browser forget the key."""
    await require_own_form(request)
    request.state.session = Session(notice="You are logged out.")
    return RedirectResponse(f"{home(request)}/login", status_code=HTTPStatus.SEE_OTHER)


def _page(request: Request, address: str, *, status: int = HTTPStatus.OK) -> HTMLResponse:
    settings: Settings = request.app.state.settings
    return page(
        request,
        "login.html",
        status=status,
        next=address,
        off=settings.console_secret is None,
        issuer=request.app.state.login is not None,
    )


def _issuer(request: Request) -> OidcLogin:
    settings: Settings = request.app.state.settings
    issuer: OidcLogin | None = request.app.state.login
    if issuer is None or settings.console_secret is None or not settings.auth_required:
        raise UnauthenticatedError("one does not log in at an issuer here")
    return issuer


def _back(request: Request) -> str:
    """Return where the issuer sends the browser: what it has been told of this client."""
    settings: Settings = request.app.state.settings
    base = settings.public_url or f"{request.url.scheme}://{request.url.netloc}"
    return f"{base.rstrip('/')}{home(request) if settings.public_url is None else '/console'}/login/callback"


def _own_address(request: Request, wanted: str) -> str:
    """Return where to go after the login: nowhere but into the console."""
    inside = wanted.startswith(f"{home(request)}/") and "\\" not in wanted and "//" not in wanted
    return wanted if inside else f"{home(request)}/runs"
