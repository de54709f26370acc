"""`perdure replay`: a run's history against today's code, from a server or from a file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.text import Text
from temporalio.client import WorkflowHistory

from perdure.errors import HistoryFileError
from perdure.history import fetch_executions, load
from perdure.personal_data import load_redactor
from perdure.settings import load_settings
from perdure_workers import timeline
from perdure_workers.cli.actions.connection import connected
from perdure_workers.cli.actions.output import console
from perdure_workers.cli.ending import ExitCode
from perdure_workers.debugger import StepDebugger
from perdure_workers.replay import replay


async def replay_run(run: str, *, pdb_step: int | None, address: str | None) -> ExitCode:
    """Replay a run, print its steps and the verdict, and fail if the code departs.

    Raises:
        HistoryFileError: The file is no history of a run.
        RunNotFoundError: There is no such run, and no such file.
    """
    histories = await histories_of(run, address=address)
    debugger = StepDebugger(pdb_step) if pdb_step is not None else None
    report = await replay(histories, debugger=debugger, redactor=load_redactor(load_settings()))
    out = console()
    timeline.show(report.events, out, now=datetime.now(UTC))
    if debugger is not None and not report.stopped:
        out.print(f"the run never came to step {pdb_step}", style="yellow")
    style = "green" if report.deterministic else "bold red"
    out.print(Text.assemble("\n", (report.verdict, style)), soft_wrap=True)
    return ExitCode.OK if report.deterministic else ExitCode.FAILED


async def histories_of(run: str, *, address: str | None) -> list[WorkflowHistory]:
    """Return the histories of a run's executions, from a file of `runs export` or from the server.

    Raises:
        HistoryFileError: The file is no history of a run.
        RunNotFoundError: There is no such run, and no such file.
    """
    text = _read(Path(run))
    if text is not None:
        return load(text)
    async with connected(load_settings(), address=address) as client:
        return await fetch_executions(client, run)


def _read(file: Path) -> str | None:
    """Return the file's text; None if what was named is no file but must be a run's id."""
    if not file.is_file() and file.suffix != ".json" and len(file.parts) == 1:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise HistoryFileError(f"cannot read {str(file)!r}: {error}") from error
