"""Following a run to its end: as a timeline, as one event a line, or as one line of progress and the answer."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from rich.text import Text
from temporalio.client import Client

from perdure.contracts import RunResult
from perdure.errors import PerdureError, RunNotFoundError
from perdure.events import RunEnded
from perdure.history import export as write_history
from perdure.history import fetch_executions
from perdure.personal_data import load_redactor
from perdure.redaction import Redactor
from perdure.settings import load_settings
from perdure_workers import timeline
from perdure_workers.cli.actions.connection import connected
from perdure_workers.cli.actions.output import ENDS, console, print_json, print_json_line
from perdure_workers.cli.ending import ExitCode
from perdure_workers.plain_text import block, line
from perdure_workers.watching import Progress, watch


async def watch_run(run_id: str, *, as_json: bool, address: str | None) -> ExitCode:
    """Show a run's events as they come, and return the exit code of its end."""
    settings = load_settings()
    redactor = load_redactor(settings)
    async with connected(settings, address=address) as client:
        events = watch(client, run_id, redactor=redactor)
        if not as_json:
            status = await timeline.watch(events, console())
        else:
            status = None
            async for event in events:
                print_json_line(event)
                status = event.status if isinstance(event, RunEnded) else None
    if status is None:
        raise RunNotFoundError(f"the history of run {run_id!r} stops before its end")
    return ENDS[status]


async def wait_for(client: Client, run_id: str, *, redactor: Redactor, as_json: bool) -> ExitCode:
    """Show a run's progress until it ends, print its answer or result, and return the exit code of its end."""
    progress = Progress()
    ended: RunEnded | None = None
    terminal = console(stderr=True)
    try:
        with terminal.status(Text(progress.line)) as status:
            async for event in watch(client, run_id, redactor=redactor):
                progress.add(event)
                status.update(Text(progress.line, no_wrap=True, overflow="ellipsis"))
                if isinstance(event, RunEnded):
                    ended = event
    except asyncio.CancelledError:
        terminal.print(f"run {run_id} goes on; follow it with: perdure runs watch {run_id}", soft_wrap=True)
        raise
    if ended is None:
        raise RunNotFoundError(f"the history of run {run_id!r} stops before its end")
    terminal.print(Text(progress.line), soft_wrap=True)
    _print_end(ended, as_json=as_json)
    return ENDS[ended.status]


async def export_run(run_id: str, *, output: Path | None, address: str | None) -> None:
    """Write a run's history where it is wanted."""
    async with connected(load_settings(), address=address) as client:
        text = write_history(await fetch_executions(client, run_id)) + "\n"
    _write(text, output)


def _write(text: str, output: Path | None) -> None:
    if output is None:
        sys.stdout.write(text)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PerdureError(f"cannot write {str(output)!r}: {error.strerror}") from error


def _print_end(ended: RunEnded, *, as_json: bool) -> None:
    if as_json:
        print_json(
            RunResult(
                status=ended.status,
                output=ended.output,
                error=ended.error,
                totals=ended.totals,
                reason=ended.reason,
                refusal=ended.refusal,
            )
        )
        return
    why = f"{ended.error.type}: {ended.error.message}" if ended.error else ended.reason
    if why:
        console(stderr=True).print(Text(line(why)), soft_wrap=True)
    if ended.output:
        console().print(Text(block(ended.output)), soft_wrap=True)
