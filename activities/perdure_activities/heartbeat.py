"""The heartbeat of every model and tool call: how the server learns of a dead worker, and the worker of a cancel."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta

from temporalio import activity

INTERVAL = timedelta(seconds=1)


class Pulse:
    """Beats while a call runs, with the latest progress as details."""

    def __init__(self) -> None:
        self._details: tuple[object, ...] = ()

    def note(self, *details: object) -> None:
        """Have the next beats carry these details; the Web UI shows them."""
        self._details = details

    async def beat(self) -> None:
        """Beat until cancelled. A call shorter than the interval costs no beat at all."""
        while True:
            await asyncio.sleep(INTERVAL.total_seconds())
            activity.heartbeat(*self._details)


@contextlib.asynccontextmanager
async def heartbeats() -> AsyncIterator[Pulse]:
    """Beat once a second for as long as the block runs."""
    pulse = Pulse()
    task = asyncio.create_task(pulse.beat())
    try:
        yield pulse
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
