"""The heartbeat of every model and tool call: how the server learns of a dead worker, and the worker of a cancel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from datetime import timedelta

from temporalio import activity

INTERVAL = timedelta(seconds=1)


class Pulse:
    """Beats while a call runs, with the latest progress as details."""

    def __init__(self) -> None:
        self._details: tuple[object, ...] = ()
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(INTERVAL.total_seconds(), self._beat)

    def note(self, *details: object) -> None:
        """Have the next beats carry these details; the Web UI shows them."""
        self._details = details

    def end(self) -> None:
        """Beat no more."""
        self._next.cancel()

    def _beat(self) -> None:
        self._next = self._loop.call_later(INTERVAL.total_seconds(), self._beat)
        activity.heartbeat(*self._details)


@contextlib.contextmanager
def heartbeats() -> Iterator[Pulse]:
    """Beat once a second for as long as the block runs; one that is shorter costs no beat, and no task."""
    pulse = Pulse()
    try:
        yield pulse
    finally:
        pulse.end()
