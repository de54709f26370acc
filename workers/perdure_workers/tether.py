"""Run a program that dies with the process that started it, even when that one is killed outright.

A script of its own, run as `python -I -S tether.py PARENT_PID PROGRAM ARGUMENT…`: it asks the Linux kernel for the
signal SIGKILL at its parent's death and then becomes the program. This needs no code between fork and exec in the
parent, whose threads would make that unsafe. Other systems have no such request; there the program simply starts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Of `prctl(2)`; the setting survives `execve`."""


def main() -> None:
    """Tie this process to its parent and become the program."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise SystemExit(f"process {parent}, which started {program[0]!r}, has ended already")
    try:
        os.execv(program[0], program)  # noqa: S606  # becoming the program is the point; no shell is wanted
    except OSError as error:
        raise SystemExit(f"cannot start {program[0]!r}: {error}") from error


if __name__ == "__main__":
    main()
