"""Asking at the terminal. Unlike `input` in a thread, a question can be cancelled: Ctrl-C ends the demo there too."""

from __future__ import annotations

import asyncio
import sys


async def ask(question: str) -> str | None:
    """Print a question and return the line that is typed; None when the terminal is closed."""
    sys.stdout.write(question)
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    typed = asyncio.Event()
    loop.add_reader(sys.stdin, typed.set)
    try:
        await typed.wait()
    finally:
        loop.remove_reader(sys.stdin)
    # A terminal hands over whole lines, so this does not wait.
    return sys.stdin.readline() or None
