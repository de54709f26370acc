"""Logging in with an API key, and out."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.responses import HTMLResponse, Response

from perdure.errors import UnauthenticatedError
from perdure.settings import Settings
from perdure_api.access import Access, OpenAccess
from perdure_api.console.console_route import require_own_form, with_session
from perdure_api.console.rendering import page
from perdure_api.console.sessions import Session, home


class LoginRoute(APIRoute):
    """A page for whoever is not logged in yet."""

    def get_route_handler(self):  # type: ignore[no-untyped-def]  # as its parent's
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


@router.post("/logout")
async def logout(request: Request) -> Response:
    """Have the browser forget the key."""
    await require_own_form(request)
    request.state.session = Session(notice="You are logged out.")
    return RedirectResponse(f"{home(request)}/login", status_code=HTTPStatus.SEE_OTHER)


def _page(request: Request, address: str, *, status: int = HTTPStatus.OK) -> HTMLResponse:
    settings: Settings = request.app.state.settings
    return page(request, "login.html", status=status, next=address, off=settings.console_secret is None)


def _own_address(request: Request, wanted: str) -> str:
    """Return where to go after the login: nowhere but into the console."""
    inside = wanted.startswith(f"{home(request)}/") and "\\" not in wanted and "//" not in wanted
    return wanted if inside else f"{home(request)}/runs"
