"""What every stream of a run has in common: its timings, and when it is over before the run is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

import structlog
from sse_starlette import EventSourceResponse, ServerSentEvent

from perdure.errors import PerdureError, PermissionDeniedError, UnauthenticatedError

T = TypeVar("T")

log = structlog.get_logger(__name__)

PING_SECONDS: Final = 15
SEND_TIMEOUT_SECONDS: Final = 30
"""A client that takes nothing for so long has left."""
SHUTDOWN_GRACE_SECONDS: Final = 1
"""How long a stream may take to end when the server stops."""
AUTHORISED_SECONDS: Final = 15
"""How long a stream goes on before it is asked again whether its caller may follow the run."""


def event_source(messages: AsyncIterator[ServerSentEvent], *, stopping: asyncio.Event) -> EventSourceResponse:
    """Return the response that streams messages; the event is set when the server stops."""
    return EventSourceResponse(
        messages,
        ping=PING_SECONDS,
        send_timeout=SEND_TIMEOUT_SECONDS,
        shutdown_event=stopping,  # type: ignore[arg-type]  # it is set, and nothing else
        shutdown_grace_period=SHUTDOWN_GRACE_SECONDS,
    )


async def until(over: Coroutine[Any, Any, None], told: AsyncIterator[T]) -> AsyncGenerator[T]:
    """Iterate until it is over: an idle stream would hold a server up, and a cut one is an error to the client.

    What comes next is not asked for before it is wanted.
    """
    stop = asyncio.create_task(over)
    upcoming = asyncio.ensure_future(anext(told, None))
    try:
        while True:
            await asyncio.wait({stop, upcoming}, return_when=asyncio.FIRST_COMPLETED)
            if stop.done() or (found := upcoming.result()) is None:
                return
            yield found
            upcoming = asyncio.ensure_future(anext(told, None))
    finally:
        stop.cancel()
        upcoming.cancel()
        await asyncio.gather(stop, upcoming, return_exceptions=True)


async def until_over(ask: Callable[[], Awaitable[object]], *, stopping: asyncio.Event) -> None:
    """Return when the server stops, or when the caller may no longer follow: its key is revoked, its token expired.

    Args:
        ask: Asks again who calls, and raises if that is nobody who may follow.
        stopping: Set when the server stops.
    """
    while True:
        try:
            async with asyncio.timeout(AUTHORISED_SECONDS):
                await stopping.wait()
            return
        except TimeoutError:
            if not await _may_follow(ask):
                return


async def _may_follow(ask: Callable[[], Awaitable[object]]) -> bool:
    try:
        await ask()
    except (UnauthenticatedError, PermissionDeniedError):
        return False
    except PerdureError as error:  # whoever could follow a moment ago is not cut off for an outage
        log.warning("event_stream_unconfirmed", error=str(error))
    return True
