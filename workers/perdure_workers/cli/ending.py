"""How every command ends: one table of exit codes, one place that runs it, one place that leaves the process."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Any, NoReturn

import typer

from perdure.errors import PerdureError, ProcessError


class ExitCode(IntEnum):
    """The exit codes of all commands; docs/cli.md explains them."""

    OK = 0
    FAILED = 1
    """A run failed, a process of ours died, a history departs from the code, or Perdure has a bug."""
    REFUSED = 2
    """Wrong arguments or settings, an unknown run, a server that does not answer: nothing was done."""
    CANCELLED = 3
    TIMED_OUT = 4
    MAX_STEPS = 5
    REJECTED = 6
    TERMINATED = 7
    OUT_OF_BUDGET = 8
    UNKNOWN_RESULT = 9
    """A what-if came to a call whose result the recorded run does not know."""
    INTERRUPTED = 130
    """Ctrl-C; a run that was being waited for goes on."""


def execute(command: Coroutine[Any, Any, ExitCode | None]) -> NoReturn:
    """Run a command's coroutine and end the command with its code.

    Raises:
        typer.Exit: Always, unless the coroutine raises.
    """
    raise typer.Exit(asyncio.run(command) or ExitCode.OK)


def leave(invoke: Callable[[], object]) -> NoReturn:
    """Invoke the command line, report what it raises in one line, and end the process with the right code."""
    code = _code_of(invoke)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or ExitCode.FAILED
    # Temporal's SDK has native threads that can abort an interpreter which takes itself apart; this one does not.
    os._exit(code)


def _code_of(invoke: Callable[[], object]) -> int:
    try:
        invoke()
    except SystemExit as ending:
        return _exit_code(ending)
    except ProcessError as error:
        _report(str(error))
        return ExitCode.FAILED
    except PerdureError as error:
        _report(str(error))
        return ExitCode.REFUSED
    except BrokenPipeError:
        return ExitCode.FAILED
    except Exception as error:
        _report(f"unexpected {type(error).__name__}: {error}; PERDURE_LOG_LEVEL=debug shows where")
        return ExitCode.FAILED
    return ExitCode.OK


def _exit_code(ending: SystemExit) -> int:
    if ending.code is None or isinstance(ending.code, int):
        return ending.code or ExitCode.OK
    _report(str(ending.code))
    return ExitCode.FAILED


def _report(message: str) -> None:
    if os.environ.get("PERDURE_LOG_LEVEL", "").lower() == "debug":
        traceback.print_exc()
    print(f"perdure: {message}", file=sys.stderr)  # noqa: T201  # the one line a failed command says
