"""How much the auditor does at once, and how often it asks Temporal for something, so that runs never wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


class Pace:
    """Lets so many turns pass in a second, evenly, with a second's worth at once after a pause."""

    def __init__(self, per_second: float) -> None:
        self._gap = 1 / per_second
        self._next = 0.0

    async def turn(self) -> None:
        """Wait until the next request may be made."""
        now = time.monotonic()
        self._next = max(self._next, now - 1) + self._gap
        if (wait := self._next - now) > 0:
            await asyncio.sleep(wait)


async def together(work: Sequence[Coroutine[Any, Any, T]], *, at_once: int) -> list[T]:
    """Do several things, some of them at once, all of them to their ends; then raise what the first to fail raised."""
    gate = asyncio.Semaphore(at_once)

    async def do(one: Coroutine[Any, Any, T]) -> T:
        async with gate:
            return await one

    done = await asyncio.gather(*(do(one) for one in work), return_exceptions=True)
    results: list[T] = []
    for result in done:
        if isinstance(result, BaseException):
            raise result
        results.append(result)
    return results
