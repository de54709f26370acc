"""Routes of the console: who is logged in, whether a form is one of ours, and errors as pages."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlsplit

from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import PerdureError, PermissionDeniedError, UnauthenticatedError
from perdure.principal import Principal, Scope
from perdure.settings import Settings
from perdure_api.access import Access, OpenAccess, permit
from perdure_api.console.rendering import error_page
from perdure_api.console.sessions import Session, Sessions, home
from perdure_api.scoped_route import ScopedRoute

SAFE: Final = ("GET", "HEAD")
FIELD: Final = "csrf"
"""The field of a form that brings the session's token back."""


class ConsoleRoute(ScopedRoute):
    """A page or an action for whoever is logged in and has its scope."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler, between reading the session and writing it."""
        return with_session(super().get_route_handler())

    async def admit(self, request: Request, scope: Scope, *, all_orgs: bool) -> Principal:
        """Return who is logged in, if they may do this and mean to.

        Raises:
            UnauthenticatedError: Nobody is, or no longer.
            PermissionDeniedError: They lack the scope, or the form is none of ours.
        """
        principal = await logged_in(request)
        request.state.principal = principal  # the page that says what is missing names them too
        permit(principal, scope, all_orgs=all_orgs)
        if request.method not in SAFE:
            await require_own_form(request)
        return principal


def with_session(
    handle: Callable[[Request], Coroutine[Any, Any, Response]],
) -> Callable[[Request], Coroutine[Any, Any, Response]]:
    """Return the handler with a session to read and change in `request.state.session`, and with errors as pages."""

    async def served(request: Request) -> Response:
        sessions: Sessions = request.app.state.sessions
        found = sessions.read(request)
        request.state.session = found or Session()
        try:
            response = await handle(request)
        except UnauthenticatedError as error:
            response = _to_login(request, error)
        except (PerdureError, RequestValidationError, HTTPException) as error:
            response = error_page(request, error)
        if request.state.session != found:
            sessions.write(response, request, request.state.session)
        return response

    return served


async def logged_in(request: Request) -> Principal:
    """Return who is logged in, by a key or token that counts now.

    Raises:
        UnauthenticatedError: Nobody is, or what they logged in with does not count any more.
        PermissionDeniedError: Nobody has to log in, but the request is not of this machine.
    """
    access: Access = request.app.state.access
    if isinstance(access, OpenAccess):
        return await access.principal(request)
    session: Session = request.state.session
    if not session.bearer:
        raise UnauthenticatedError("log in first")
    return await access.holder_of(session.bearer, request)


async def require_own_form(request: Request) -> None:
    """Refuse what another site may have sent in the name of whoever is logged in.

    Raises:
        PermissionDeniedError: The request comes from another site, or lacks the session's token.
    """
    origin = request.headers.get("origin")
    if origin is not None and not _is_ours(origin, request):
        raise PermissionDeniedError(f"the console takes no forms of {origin!r}")
    session: Session = request.state.session
    sent = (await request.form()).get(FIELD)
    if not isinstance(sent, str) or not hmac.compare_digest(sent.encode(), session.csrf.encode()):
        raise PermissionDeniedError("this page is out of date: load it again, then repeat what you did")


def _is_ours(origin: str, request: Request) -> bool:
    settings: Settings = request.app.state.settings
    page = urlsplit(origin)
    if settings.public_url is not None:
        public = urlsplit(settings.public_url)
        if (page.scheme, page.netloc) == (public.scheme, public.netloc):
            return True
    return page.netloc == request.headers.get("host")


def _to_login(request: Request, error: UnauthenticatedError) -> Response:
    """Send the browser to the login, and have it forget what does not count."""
    session: Session = request.state.session
    if session.bearer:
        request.state.session = Session(notice=f"You were logged out: {error}", failed=True)
    wanted = request.url.path if request.method in SAFE else home(request)
    if request.method in SAFE and request.url.query:
        wanted += f"?{request.url.query}"
    address = f"{home(request)}/login?next={quote(wanted, safe='/')}"
    if "hx-request" in request.headers:  # a fragment's place is no place for a login page
        return Response(status_code=HTTPStatus.UNAUTHORIZED, headers={"HX-Redirect": f"{home(request)}/login"})
    return RedirectResponse(address, status_code=HTTPStatus.SEE_OTHER)
