"""What is to be done about a failed model call: one table from any exception to an `ApplicationError`.

| failure | type | retried | next model | opens the circuit |
|---|---|---|---|---|
| 400, 413, 422 and other 4xx | `model_request_rejected` | no | no | no |
| 400 because the conversation is too long | `context_window` | no | yes | no |
| 401, 403, no key | `model_authentication` | no | yes | no |
| 402, 429 for want of money | `model_quota_exhausted` | no | yes | no |
| 404 | `model_not_found` | no | yes | no |
| 408, timeouts | `model_timeout` | yes | yes | yes |
| 409, 5xx | `model_server_error` | yes | yes | yes |
| 429 | `model_rate_limited` | yes, after retry-after | yes | no |
| 503, 529 | `model_overloaded` | yes, after retry-after | yes | yes |
| variables no client can be made of, an address no request can be sent to | `model_configuration` | no | yes | no |
| no connection, or a lost one | `model_connection` | yes | yes | yes |
| a reply cut short or unreadable | `model_reply_broken` | yes | yes | yes |
| the model failed too often of late, and is left alone | `circuit_open` | yes, when it is tried again | yes | no |

The next model of the agent's chain is asked at once whenever it may know better: it has its own key, quota, capacity,
context window and network. A rejected request is the exception. The mistake is in the agent or in Perdure, it is there
each time, and an answer of the second model would hide it for good. What a model says in a reply, a refusal too, is an
answer and no failure: to ask another model until one agrees is not for us to decide.

A circuit opens by what tells that the model or the way to it is ill. A rate limit says when to come back, and the other
4xx are about us; they tell of a server that answers.

An error event inside a stream that began with 200 is treated as the status its name stands for. A provider's
`x-should-retry: false` is honoured, as it knows that the same request fails again (a request above the whole rate
limit, a spend limit); its `true` is not, as nothing that is final here gets better by itself.

Exceptions are told apart by shape, not by the SDKs' classes: importing an SDK for that would cost seconds of CPU. No
error is chained to its cause: Temporal would write the cause, with a gateway's whole error page, into the history.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final, Protocol, runtime_checkable

import httpx2
from temporalio.exceptions import ApplicationError

from perdure import outage
from perdure.messages import JsonObject
from perdure_activities.providers.encoding import clean_text

MAX_RETRY_DELAY: Final = timedelta(minutes=10)
"""The longest that a provider's retry-after is followed; some name hours, and capacity often returns before."""
MAX_MESSAGE: Final = 2_000
"""Characters of an error's message that go into history."""

MIN_SECRET: Final = 16
"""Characters of the shortest key that is hidden; shorter ones are stand-ins (`EMPTY`) for servers without keys."""


class BrokenReplyError(Exception):
    """A reply without its finish marker, or one that cannot be read."""


class StreamFailedError(Exception):
    """The provider ended a stream by an error event."""

    def __init__(self, body: JsonObject) -> None:
        super().__init__("the provider ended the stream by an error")
        self.body = body


@dataclass(frozen=True)
class Posture:
    """A row of the table."""

    type: str
    retried: bool
    next_model: bool = True
    opens_circuit: bool = False


REJECTED: Final = Posture(outage.REQUEST_REJECTED, retried=False, next_model=False)
CONTEXT_WINDOW: Final = Posture(outage.CONTEXT_WINDOW, retried=False)
AUTHENTICATION: Final = Posture("model_authentication", retried=False)
QUOTA: Final = Posture("model_quota_exhausted", retried=False)
NOT_FOUND: Final = Posture("model_not_found", retried=False)
TIMEOUT: Final = Posture("model_timeout", retried=True, opens_circuit=True)
SERVER_ERROR: Final = Posture("model_server_error", retried=True, opens_circuit=True)
RATE_LIMITED: Final = Posture("model_rate_limited", retried=True)
OVERLOADED: Final = Posture("model_overloaded", retried=True, opens_circuit=True)
CONFIGURATION: Final = Posture("model_configuration", retried=False)
CONNECTION: Final = Posture("model_connection", retried=True, opens_circuit=True)
BROKEN: Final = Posture("model_reply_broken", retried=True, opens_circuit=True)
CIRCUIT_OPEN: Final = Posture("circuit_open", retried=True)

BY_TYPE: Final[Mapping[str | None, Posture]] = {
    posture.type: posture
    for posture in (
        REJECTED,
        CONTEXT_WINDOW,
        AUTHENTICATION,
        QUOTA,
        NOT_FOUND,
        TIMEOUT,
        SERVER_ERROR,
        RATE_LIMITED,
        OVERLOADED,
        CONFIGURATION,
        CONNECTION,
        BROKEN,
        CIRCUIT_OPEN,
    )
}
"""All rows, by the type that their errors have."""

BY_STATUS: Final[Mapping[int, Posture]] = {
    401: AUTHENTICATION,
    402: QUOTA,
    403: AUTHENTICATION,
    404: NOT_FOUND,
    408: TIMEOUT,
    409: SERVER_ERROR,
    429: RATE_LIMITED,
    503: OVERLOADED,
    529: OVERLOADED,
}
"""Other 5xx are server errors, other statuses rejections."""

STATUS_OF_NAME: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "conflict_error": 409,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "api_error": 500,
    "server_error": 500,
    "internal_server_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Names of error events, Anthropic's and OpenAI's; others are final, as OpenAI's are about the request."""

BY_EXCEPTION: Final[tuple[tuple[tuple[type[Exception], ...], Posture], ...]] = (
    (
        (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, UnicodeEncodeError),
        CONFIGURATION,
    ),
    ((httpx2.TimeoutException, TimeoutError), TIMEOUT),
    ((BrokenReplyError, json.JSONDecodeError, UnicodeDecodeError, httpx2.DecodingError), BROKEN),
    ((httpx2.HTTPError, httpx2.StreamError, OSError), CONNECTION),
)
"""The first row that fits. What fits none is a connection error when an SDK says so, else a broken reply."""

_NO_MONEY: Final = frozenset(
    {"insufficient_quota", "billing_error", "billing_not_active", "billing_hard_limit_reached"}
)
_TOO_LONG: Final = (
    "context_length_exceeded",
    "exceed_context_size",
    "prompt is too long",
    "exceed context limit",
    "maximum context length",
    "context window",
    "context size",
)
"""How Anthropic, OpenAI, vLLM and llama.cpp say that the conversation does not fit."""


@runtime_checkable
class _HasBody(Protocol):
    """What both SDKs' API errors have; the body is None when there was no response."""

    body: object


@runtime_checkable
class _HasResponse(Protocol):
    """What both SDKs' status errors have."""

    response: httpx2.Response


def failure(error: Exception, *, vendor: str, secrets: Iterable[str] = ()) -> ApplicationError:
    """Translate any failure of a model call; raise the result `from None`.

    Args:
        error: What the SDK, its HTTP client or the reading of the reply raised.
        vendor: Who is called, for the message.
        secrets: Texts that must not appear in the message.
    """
    if isinstance(error, ApplicationError):
        return error
    response = error.response if isinstance(error, _HasResponse) else None
    if isinstance(error, _HasBody) and error.body is not None:
        return _of_answer(error.body, response, vendor=vendor, secrets=secrets)
    if response is not None:
        return _of_answer(response.reason_phrase, response, vendor=vendor, secrets=secrets)
    cause = error.__cause__ if isinstance(error, _HasBody) and isinstance(error.__cause__, Exception) else error
    fallback = CONNECTION if isinstance(error, _HasBody) else BROKEN
    posture = next((row for types, row in BY_EXCEPTION if isinstance(cause, types)), fallback)
    # A header that HTTP cannot carry is quoted by the exception, in an escaped form: it may be the key's.
    words = "a header is not valid" if isinstance(cause, httpx2.LocalProtocolError) else str(cause)
    return _application_error(f"{_kind(posture, vendor)}: {type(cause).__name__}: {words}", posture, secrets=secrets)


def missing_key(vendor: str, variable: str) -> ApplicationError:
    """Return the error for a provider without a key."""
    return _application_error(f"there is no key for {vendor}: set {variable} where the worker runs", AUTHENTICATION)


def misconfigured(vendor: str, error: Exception) -> ApplicationError:
    """Return the error for a client that cannot even be made from the SDK's variables and files."""
    said = f"the client for {vendor} cannot be set up: {type(error).__name__}: {error}"
    return _application_error(said, CONFIGURATION)


def circuit_open(model: str, retry_after: timedelta | None, *, last: str = "") -> ApplicationError:
    """Return the error for a model that is left alone for now.

    Args:
        model: The model, as the agent names it.
        retry_after: When it will be tried again, as far as that is known.
        last: What its latest failure was, as far as that is known.
    """
    said = f"{model} failed too often of late and is left alone for now"
    return _application_error(f"{said}; the last time: {last}" if last else said, CIRCUIT_OPEN, delay=retry_after)


def retry_after(headers: Mapping[str, str], *, now: datetime, limit: timedelta = MAX_RETRY_DELAY) -> timedelta | None:
    """Read how long the provider wants to be left alone: milliseconds, seconds or a date; None if it says nothing."""
    delay = _seconds(headers.get("retry-after-ms", ""), unit=0.001)
    if delay is None:
        delay = _seconds(headers.get("retry-after", ""))
    if delay is None:
        delay = _seconds_until(headers.get("retry-after", ""), now)
    if delay is None or delay <= 0:
        return None
    return timedelta(seconds=min(delay, limit.total_seconds()))


def _of_answer(
    body: object, response: httpx2.Response | None, *, vendor: str, secrets: Iterable[str]
) -> ApplicationError:
    """Translate what the provider said, as a status or as an error event in a stream."""
    headers: Mapping[str, str] = {} if response is None else response.headers
    in_stream = response is None or response.status_code < 300
    status = _status_in(body) if in_stream or response is None else response.status_code
    posture = _posture_of(status, body)
    if headers.get("x-should-retry") == "false" and not in_stream:
        posture = Posture(posture.type, retried=False)
    where = "in its stream" if in_stream else f"with status {status}"
    request = headers.get("request-id") or headers.get("x-request-id")
    said = f"{vendor} answered {where}: {_message_in(body)}" + (f" (request {request})" if request else "")
    delay = retry_after(headers, now=datetime.now(UTC)) if posture.retried else None
    return _application_error(said, posture, delay=delay, secrets=secrets)


def _posture_of(status: int, body: object) -> Posture:
    names = _names_in(body)
    if status in (402, 429) and not names.isdisjoint(_NO_MONEY):
        return QUOTA
    if status in (400, 413, 422):
        said = " ".join([*names, _message_in(body)]).lower()
        return CONTEXT_WINDOW if any(phrase in said for phrase in _TOO_LONG) else REJECTED
    return BY_STATUS.get(status, SERVER_ERROR if status >= 500 else REJECTED)


def _status_in(body: object) -> int:
    """Find the status that an error event stands for; one that gives no name is the server's own trouble."""
    error = _error_in(body)
    code = error.get("code")
    if isinstance(code, int) and 400 <= code < 600:
        return code
    names = _names_in(body)
    known = [STATUS_OF_NAME[name] for name in names if name in STATUS_OF_NAME]
    return max(known, default=400 if names else 500)


def _error_in(body: object) -> Mapping[str, object]:
    """Return the object that describes the error: `{"error": {…}}` as sent, or what is within it."""
    if not isinstance(body, Mapping):
        return {}
    inner = body.get("error")
    return inner if isinstance(inner, Mapping) else body


def _names_in(body: object) -> frozenset[str]:
    error = _error_in(body)
    names = (error.get(key) for key in ("type", "code"))
    return frozenset(name for name in names if isinstance(name, str) and name not in ("", "error"))


def _message_in(body: object) -> str:
    """Find the provider's own words; compatible servers put them in one of several places."""
    error = _error_in(body)
    for key in ("message", "error", "detail"):
        text = error.get(key)
        if isinstance(text, str) and text.strip():
            return text
    return body if isinstance(body, str) and body.strip() else json.dumps(body, default=str)


def _kind(posture: Posture, vendor: str) -> str:
    match posture:
        case Posture(type=CONFIGURATION.type):
            return f"no request can be sent to {vendor}; its base URL or key is wrong"
        case Posture(type=TIMEOUT.type):
            return f"{vendor} took too long"
        case Posture(type=CONNECTION.type):
            return f"the connection to {vendor} failed"
        case _:
            return f"the reply of {vendor} is broken"


def _application_error(
    message: str, posture: Posture, *, delay: timedelta | None = None, secrets: Iterable[str] = ()
) -> ApplicationError:
    text = clean_text(message)
    for secret in secrets:
        if len(secret) >= MIN_SECRET:
            text = text.replace(secret, "[redacted]")
    if len(text) > MAX_MESSAGE:
        text = text[:MAX_MESSAGE] + " […]"
    return ApplicationError(text, type=posture.type, non_retryable=not posture.retried, next_retry_delay=delay)


def _seconds(text: str, *, unit: float = 1.0) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number * unit if math.isfinite(number) else None


def _seconds_until(text: str, now: datetime) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - now).total_seconds()
