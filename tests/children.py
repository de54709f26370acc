"""Looking at processes from outside: which are alive, and which descend from one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path


async def becomes(condition: Callable[[], bool], *, within: float = 15) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within):
        while True:
            if condition():
                return
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended and waits to be collected does not."""
    state = _stat(pid)
    return state is not None and state[0] != "Z"


def descendants(pid: int) -> set[int]:
    """Return the ids of the processes that a process has started, and those have, and so on."""
    parents = {
        int(entry.name): int(state[1])
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and (state := _stat(int(entry.name)))
    }
    found: set[int] = set()
    while new := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= new
    return found


def _stat(pid: int) -> list[str] | None:
    # See proc_pid_stat(5): after the program's name in parentheses come state and parent.
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
