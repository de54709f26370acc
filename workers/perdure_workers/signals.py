"""SIGINT, SIGTERM and SIGHUP as an event: the first asks a command to end well, the second ends it at once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

T = TypeVar("T")

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stop_signals(*, before_force: Callable[[], None] | None = None) -> Iterator[asyncio.Event]:
    """Yield an event that the first signal sets; it must be entered in a running event loop.

    Args:
        before_force: Called when a second signal comes, right before the process ends.
    """
    stop = asyncio.Event()

    def receive(number: signal.Signals) -> None:
        if stop.is_set():
            if before_force is not None:
                before_force()
            os._exit(128 + number)
        stop.set()

    loop = asyncio.get_running_loop()
    # nohup starts a command with the hang-up ignored; that is to stay so.
    hang_up_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    taken = [number for number in SIGNALS if number is not signal.SIGHUP or not hang_up_ignored]
    for number in taken:
        loop.add_signal_handler(number, receive, number)
    try:
        yield stop
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


async def unless_stopped(stop: asyncio.Event, work: Coroutine[None, None, T]) -> T | None:
    """Do the work, and return what it returns; if the event is set first, cancel it and return None."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return await working if working.done() else None
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
