"""Looking at processes from outside: which are alive, and which descend from one."""

from __future__ import annotations

from pathlib import Path


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


def command(pid: int) -> str:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").replace("\0", " ")


def _stat(pid: int) -> list[str] | None:
    # See proc_pid_stat(5): after the program's name in parentheses come state and parent.
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
