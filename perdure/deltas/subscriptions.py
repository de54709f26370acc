"""What a process has of the pieces that reach it from others: which runs it listens to, and what it heard of them."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from typing import Final

from perdure.deltas.delta import Piece
from perdure.deltas.memory import MemoryBus

MAX_WAITING: Final = 1_000
"""Pieces that wait to be sent; the oldest are dropped, and with one of them the rest of its attempt."""


class Subscriptions:
    """The runs that somebody in this process listens to, each once, however many do."""

    def __init__(self, changed: Callable[[], None]) -> None:
        """Begin with none.

        Args:
            changed: Called when there is another run, or one fewer.
        """
        self._changed = changed
        self._heard = MemoryBus()
        self._listeners: Counter[str] = Counter()

    @property
    def runs(self) -> list[str]:
        """The runs."""
        return list(self._listeners)

    def hear(self, run_id: str, piece: Piece) -> None:
        """Take in a piece."""
        if run_id in self._listeners:
            self._heard.publish(run_id, piece)

    async def listen(self, run_id: str) -> AsyncGenerator[Piece]:
        """Iterate over what is heard of a run, without an end."""
        self._listeners[run_id] += 1
        if self._listeners[run_id] == 1:
            self._changed()
        try:
            async with aclosing(self._heard.listen(run_id)) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            self._listeners[run_id] -= 1
            if not self._listeners[run_id]:
                del self._listeners[run_id]
                self._heard.forget(run_id)
                self._changed()


class Outbox:
    """Pieces on their way out, never more than a bus that is away may hold up."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Piece]] = deque(maxlen=MAX_WAITING)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, run_id: str, piece: Piece) -> None:
        """Add a piece."""
        self._waiting.append((run_id, piece))

    def take(self, count: int) -> Iterator[tuple[str, Piece]]:
        """Remove that many, the oldest first, and iterate over them."""
        for _ in range(min(count, len(self._waiting))):
            yield self._waiting.popleft()
