"""Waiting, in a test, for something that happens elsewhere: bounded, and without a fixed sleep."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar, overload

T = TypeVar("T")

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 0.25


@overload
async def eventually(look: Callable[[], Awaitable[T]], *, within: timedelta = ..., what: str = ...) -> T: ...
@overload
async def eventually(look: Callable[[], T], *, within: timedelta = ..., what: str = ...) -> T: ...
async def eventually(
    look: Callable[[], T | Awaitable[T]], *, within: timedelta = timedelta(seconds=10), what: str = "it"
) -> T:
    """Look again and again, less and less often, until what is seen is true; return it.

        run = await eventually(lambda: find_run("r1"), within=timedelta(seconds=5))

    An `AssertionError` that `look` raises means not yet; any other exception is let through.

    Args:
        look: A function or coroutine function without parameters.
        within: How long to wait; there is one more look at the end.
        what: Names what is awaited in the error.

    Raises:
        AssertionError: It did not happen in time; says what was seen last.
    """
    end = time.monotonic() + within.total_seconds()
    pause = FIRST_PAUSE
    while True:
        cause: AssertionError | None = None
        seen: object = None
        try:
            found = look()
            value: T = await found if inspect.isawaitable(found) else found
            if value:
                return value
            seen = value
        except AssertionError as error:
            cause, seen = error, error
        left = end - time.monotonic()
        if left <= 0:
            raise AssertionError(f"{what} did not happen within {within}; last seen: {seen!r}") from cause
        await asyncio.sleep(min(pause, left))
        pause = min(pause * 1.5, LONGEST_PAUSE)
