"""Every error as a problem (RFC 9457): one table of statuses, the handlers, and what OpenAPI says of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import Field
from starlette.exceptions import HTTPException

from perdure.errors import (
    ApiKeyNotFoundError,
    ApprovalNotFoundError,
    AuditError,
    AuditNotConfiguredError,
    ConflictError,
    DecryptionError,
    DeliveryNotFoundError,
    FeedbackNotFoundError,
    GrantNotFoundError,
    InputTooLargeError,
    InvalidInputError,
    IssuerUnreachableError,
    NoWorkerError,
    PerdureError,
    PermissionDeniedError,
    RateLimitedError,
    RunNotFoundError,
    ScheduleNotFoundError,
    ServerUnreachableError,
    UnauthenticatedError,
    UnknownAgentError,
)
from perdure_api.schemas import Answer, DownDependency

log = structlog.get_logger(__name__)

MEDIA_TYPE: Final = "application/problem+json"

STATUSES: Final[dict[type[PerdureError], HTTPStatus]] = {
    UnauthenticatedError: HTTPStatus.UNAUTHORIZED,
    PermissionDeniedError: HTTPStatus.FORBIDDEN,
    RunNotFoundError: HTTPStatus.NOT_FOUND,
    ApiKeyNotFoundError: HTTPStatus.NOT_FOUND,
    ApprovalNotFoundError: HTTPStatus.NOT_FOUND,
    GrantNotFoundError: HTTPStatus.NOT_FOUND,
    FeedbackNotFoundError: HTTPStatus.NOT_FOUND,
    DeliveryNotFoundError: HTTPStatus.NOT_FOUND,
    ScheduleNotFoundError: HTTPStatus.NOT_FOUND,
    AuditNotConfiguredError: HTTPStatus.NOT_FOUND,
    ConflictError: HTTPStatus.CONFLICT,
    InputTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnknownAgentError: HTTPStatus.UNPROCESSABLE_ENTITY,
    InvalidInputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    RateLimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    ServerUnreachableError: HTTPStatus.SERVICE_UNAVAILABLE,
    IssuerUnreachableError: HTTPStatus.SERVICE_UNAVAILABLE,
    NoWorkerError: HTTPStatus.SERVICE_UNAVAILABLE,
    DecryptionError: HTTPStatus.BAD_GATEWAY,
    AuditError: HTTPStatus.SERVICE_UNAVAILABLE,
    PerdureError: HTTPStatus.BAD_GATEWAY,
}
"""A subclass has its parent's status unless it is named. What is left over is Temporal refusing what it should not."""


class FieldProblem(Answer):
    """One wrong value of a request."""

    field: str
    """Where it is, as in `body.limits.max_steps`."""
    message: str


class Problem(Answer):
    """Why a request was not carried out."""

    type: str = Field(examples=["urn:perdure:problem:run-not-found"])
    """Stable, for programs."""
    title: str = Field(examples=["No run has that id."])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["no run has the id 'run-7'"])
    """For people: what is wrong, which value, what would be right."""
    errors: tuple[FieldProblem, ...] = ()
    """The values that are wrong, for a request that does not fit its schema."""
    down: tuple[DownDependency, ...] = ()
    """Of `/readyz`: what does not answer, and since when."""


def problems(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses of these statuses."""
    return {status.value: {"model": Problem, "description": status.phrase} for status in statuses}


COMMON: Final = problems(
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
COMMON[HTTPStatus.TOO_MANY_REQUESTS.value]["headers"] = {
    "Retry-After": {"description": "Seconds until another request is accepted.", "schema": {"type": "integer"}}
}
"""What every route under /v1 may answer."""

WITH_BODY: Final = problems(HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
"""What a route that reads a body may answer besides."""


def install(api: FastAPI) -> None:
    """Have the application answer every error with a problem."""
    api.exception_handler(PerdureError)(_refused)
    api.exception_handler(RequestValidationError)(_invalid)
    api.exception_handler(HTTPException)(_http)
    api.exception_handler(Exception)(_unexpected)


def status_of(error: PerdureError) -> HTTPStatus:
    """Return the status that an error is answered with."""
    return STATUSES[_known(error)]


def _known(error: PerdureError) -> type[PerdureError]:
    return next(kind for kind in type(error).__mro__ if kind in STATUSES)


async def _refused(request: Request, error: PerdureError) -> Response:
    known, status = _known(error), status_of(error)
    if known is not NoWorkerError and status >= HTTPStatus.INTERNAL_SERVER_ERROR:  # a probe asks that every second
        log.warning("request_refused", path=request.url.path, error=str(error), cause=str(error.__cause__))
    name = re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__.removesuffix("Error")).lower()
    title = (type(error).__doc__ or "").strip()
    down = getattr(request.state, "down", ())
    return _response(
        Problem(type=f"urn:perdure:problem:{name}", title=title, status=status, detail=str(error), down=down),
        headers=_headers(error, status),
    )


def _headers(error: PerdureError, status: HTTPStatus) -> dict[str, str]:
    if isinstance(error, UnauthenticatedError):  # RFC 6750, section 3
        return {"WWW-Authenticate": 'Bearer error="invalid_token"' if error.credential else "Bearer"}
    if isinstance(error, RateLimitedError):
        return {"Retry-After": str(error.retry_after)}
    return {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}


async def _invalid(_: Request, error: RequestValidationError) -> Response:
    errors = tuple(
        FieldProblem(field=".".join(str(place) for place in problem["loc"]), message=_message(problem))
        for problem in error.errors()
    )
    return _response(
        Problem(
            type="urn:perdure:problem:invalid-request",
            title="The request does not fit its schema.",
            status=HTTPStatus.UNPROCESSABLE_ENTITY,
            detail="; ".join(f"{problem.field}: {problem.message}" for problem in errors),
            errors=errors,
        )
    )


def _message(problem: Mapping[str, Any]) -> str:
    if problem["type"] == "json_invalid":
        return f"is not JSON: {problem['ctx']['error']}"
    if problem["type"] == "model_attributes_type" and problem["loc"] == ("body",):
        return "must be a JSON object, sent with 'Content-Type: application/json'"
    message: str = problem["msg"]
    return message.removeprefix("Value error, ")


async def _http(request: Request, error: HTTPException) -> Response:
    phrase = HTTPStatus(error.status_code).phrase
    detail = error.detail if error.detail != phrase else f"{phrase}: {request.method} {request.url.path}"
    return _response(
        Problem(type="about:blank", title=phrase, status=error.status_code, detail=detail), headers=error.headers
    )


async def _unexpected(_: Request, __: Exception) -> Response:
    # Whoever serves the application logs the error: Starlette raises it again after this answer.
    return _response(
        Problem(
            type="about:blank",
            title="Internal Server Error",
            status=HTTPStatus.INTERNAL_SERVER_ERROR,
            detail="this is a mistake in the server; its log says more",
        )
    )


def _response(problem: Problem, *, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII, as a message may repeat half a surrogate pair out of the request.
    content = json.dumps(problem.model_dump(mode="json", exclude_defaults=True))
    return Response(content, status_code=problem.status, headers=headers, media_type=MEDIA_TYPE)
