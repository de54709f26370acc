"""Forms: what they bring, as the requests that the gateway takes, and what a browser is answered when they are done."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from fastapi import Request
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, ValidationError
from starlette.responses import HTMLResponse, Response

from perdure.errors import InvalidInputError
from perdure.principal import Principal
from perdure_api.console.rendering import fragment, surroundings
from perdure_api.console.sessions import Session

MAX_NOTICE: Final = 1500
"""Characters; it travels in a cookie."""

Model = TypeVar("Model", bound=BaseModel)


def filled(model: type[Model], given: Mapping[str, Any]) -> Model:
    """Return a request made of what a form brings.

    Raises:
        InvalidInputError: It cannot be one; says which field is wrong.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise InvalidInputError(explained(error)) from error


def explained(error: ValidationError) -> str:
    """Say which fields are wrong, and why."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'form'}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors()
    )


def speaker(request: Request, caller: Principal, named: object = None) -> str | None:
    """Return in whose name somebody acts: who is logged in, or while nobody has to, who they say they are.

    Args:
        request: Of a browser, which remembers a name.
        caller: Who is logged in.
        named: The name in the form; default: the one given last.
    """
    if caller.authenticated:
        return caller.user
    session: Session = request.state.session
    name = str(named or "").strip() or session.name
    if name and name != session.name:
        request.state.session = session.model_copy(update={"name": name[:100]})
    return name or None


def done(request: Request, address: str, notice: str, *, failed: bool = False) -> Response:
    """Say what came of a form: on the page that sent it, or on the one that it leads to."""
    if "hx-request" in request.headers:
        return HTMLResponse(fragment(surroundings(request), "notice.html", notice=notice, failed=failed))
    note(request, notice, failed=failed)
    return RedirectResponse(address, status_code=HTTPStatus.SEE_OTHER)


def note(request: Request, notice: str, *, failed: bool = False) -> None:
    """Have the next page say something first."""
    request.state.session = request.state.session.model_copy(update={"notice": notice[:MAX_NOTICE], "failed": failed})
