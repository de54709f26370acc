"""What commands print: JSON for programs, one place for how a run's end becomes an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydantic import BaseModel, TypeAdapter
from rich.console import Console
from rich.prompt import Confirm

from perdure.contracts import RunStatus
from perdure_workers.cli.ending import ExitCode

ENDS = {
    RunStatus.COMPLETED: ExitCode.OK,
    RunStatus.FAILED: ExitCode.FAILED,
    RunStatus.CANCELLED: ExitCode.CANCELLED,
    RunStatus.TIMED_OUT: ExitCode.TIMED_OUT,
    RunStatus.MAX_STEPS: ExitCode.MAX_STEPS,
    RunStatus.REJECTED: ExitCode.REJECTED,
    RunStatus.TERMINATED: ExitCode.TERMINATED,
    RunStatus.OUT_OF_BUDGET: ExitCode.OUT_OF_BUDGET,
}
"""The exit code of a command that waited for a run, by the run's end."""


def console(*, stderr: bool = False) -> Console:
    """Return a console that colours nothing by guesswork."""
    return Console(stderr=stderr, highlight=False)


def confirm(question: str) -> bool:
    """Ask on the terminal; without one the answer is no."""
    return sys.stdin.isatty() and Confirm.ask(question, console=console(stderr=True), default=False)


def print_json(value: BaseModel | Sequence[BaseModel]) -> None:
    """Print a value, or a list of them, as indented JSON."""
    adapter: TypeAdapter[object] = TypeAdapter(object)
    sys.stdout.write(adapter.dump_json(value, indent=2).decode() + "\n")


def print_json_line(value: BaseModel) -> None:
    """Print a value as one line of JSON, at once: a program may be reading along."""
    sys.stdout.write(value.model_dump_json() + "\n")
    sys.stdout.flush()
