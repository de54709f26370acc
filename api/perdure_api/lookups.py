"""Answers of a slow look-up: each question is asked once at a time, and its answer kept for a moment."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_KEPT: Final = 10_000


@dataclass(frozen=True)
class _Kept(Generic[V]):
    answer: V
    at: float


class Lookups(Generic[K, V]):
    """What was found lately, and what is being looked up now.

    However many callers ask the same thing at once, it is looked up once. What fails is not kept, and fails for all who
    have waited. The answers not asked for longest make room for new ones.
    """

    def __init__(self, look_up: Callable[[K], Awaitable[V]], *, kept_for: timedelta, max_kept: int = MAX_KEPT) -> None:
        self._look_up = look_up
        self._kept_for = kept_for.total_seconds()
        self._max_kept = max_kept
        self._kept: OrderedDict[K, _Kept[V]] = OrderedDict()
        self._running: dict[K, asyncio.Task[V]] = {}

    async def find(self, question: K, *, not_before: float | None = None) -> V:
        """Return the answer, looked up or kept; raises what the look-up raises.

        Args:
            question: What to look up.
            not_before: A time of `time.monotonic`; an answer from before it is looked up anew.
        """
        kept = self._kept.get(question)
        oldest = time.monotonic() - self._kept_for
        if kept is not None and kept.at > max(oldest, not_before or oldest):
            self._kept.move_to_end(question)
            return kept.answer
        running = self._running.get(question)
        if running is None:
            running = self._running[question] = asyncio.create_task(self._ask(question))
            running.add_done_callback(_retrieve)
        # A caller who leaves does not take the answer from the others.
        return await asyncio.shield(running)

    async def _ask(self, question: K) -> V:
        asked_at = time.monotonic()
        try:
            answer = await self._look_up(question)
        finally:
            del self._running[question]
        self._kept[question] = _Kept(answer, asked_at)
        self._kept.move_to_end(question)
        if len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        return answer


def _retrieve(task: asyncio.Task[V]) -> None:
    """Look at the exception of a look-up for which nobody waits any more, so that asyncio does not report it."""
    if not task.cancelled():
        task.exception()
