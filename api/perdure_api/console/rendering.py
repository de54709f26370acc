"""Pages and fragments out of templates: what is put into one is escaped, and a name that is not there is an error."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import structlog
from fastapi.exceptions import RequestValidationError
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from perdure.errors import PerdureError, RateLimitedError
from perdure.principal import Principal, Scope
from perdure_api.console import words
from perdure_api.console.sessions import Session, home
from perdure_api.problems import status_of

log = structlog.get_logger(__name__)

FOLDER: Final = Path(__file__).parent
STATIC: Final = FOLDER / "static"


@cache
def environment() -> Environment:
    """Return what templates are read with."""
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(words.FILTERS)
    made.globals.update(asset=_asset, past=False)
    return made


def page(request: Request, template: str, *, status: int = HTTPStatus.OK, **values: Any) -> HTMLResponse:
    """Return a page; the session's notice is on it, and is gone then."""
    content = environment().get_template(template).render(surroundings(request) | values)
    session: Session = request.state.session
    if session.notice:
        request.state.session = session.model_copy(update={"notice": "", "failed": False})
    return HTMLResponse(content, status_code=status)


def fragment(surrounding: Mapping[str, Any], template: str, **values: Any) -> str:
    """Return a part of a page."""
    return environment().get_template(template).render(surrounding, **values)


def surroundings(request: Request) -> dict[str, Any]:
    """Return what every template may speak of: who is logged in, where the console is, and the form's token."""
    principal: Principal | None = getattr(request.state, "principal", None)
    session: Session = request.state.session
    return {
        "home": home(request),
        "here": request.url.path.removeprefix(home(request)),
        "principal": principal,
        "may": {scope.value: principal is not None and principal.may(scope) for scope in Scope},
        "csrf": session.csrf,
        "notice": session.notice,
        "failed": session.failed,
        "name": session.name,
    }


def error_page(request: Request, error: Exception) -> Response:
    """Return an error as a page, or as a notice where a part of a page was asked for."""
    status, title, detail = _told(request, error)
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, RateLimitedError) else {}
    if "hx-request" in request.headers:
        content = fragment(surroundings(request), "notice.html", notice=detail, failed=True)
        return HTMLResponse(content, status_code=status, headers=headers)
    response = page(request, "error.html", status=status, title=title, detail=detail)
    response.headers.update(headers)
    return response


def _told(request: Request, error: Exception) -> tuple[int, str, str]:
    match error:
        case PerdureError():
            status = status_of(error)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                log.warning("page_refused", path=request.url.path, error=str(error), cause=str(error.__cause__))
            return status, (type(error).__doc__ or "").strip().partition("\n")[0], str(error)
        case HTTPException():
            phrase = HTTPStatus(error.status_code).phrase
            detail = "There is no such page." if error.status_code == HTTPStatus.NOT_FOUND else error.detail
            return error.status_code, phrase, detail
        case RequestValidationError():
            detail = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors())
            return HTTPStatus.UNPROCESSABLE_ENTITY, "The request does not fit.", detail
        case _:
            return HTTPStatus.INTERNAL_SERVER_ERROR, "Internal error", "A mistake in the server; its log says more."


@cache
def _asset(name: str) -> str:
    """Return a static file's address below the console's, which changes with its content."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"
