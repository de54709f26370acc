"""`perdure verify-histories`: a sample of stored histories against this code."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from temporalio.client import WorkflowHistory

from perdure.duration import Duration
from perdure.errors import InvalidInputError
from perdure.history import export
from perdure.settings import load_settings
from perdure_workers.cli.actions.connection import connected, silence
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.typed import typed
from perdure_workers.cli.ending import ExitCode
from perdure_workers.history_check import HistoryCheck, Replayed
from perdure_workers.history_sample import fetch_histories, find_executions, read_histories, spread
from perdure_workers.plain_text import line
from perdure_workers.replay import type_of


@dataclass(frozen=True)
class Sample:
    """Which histories, as it was typed."""

    count: int
    since: str
    query: str
    source: Path | None
    """A folder to read in place of the server."""


class DepartedHistory(BaseModel, frozen=True):
    """A history that this code does not go on with."""

    workflow_type: str
    workflow_id: str
    execution_id: str
    where: str


class Verdict(BaseModel, frozen=True):
    """What a check found."""

    verified: dict[str, int]
    """By type of workflow."""
    departed: tuple[DepartedHistory, ...]
    left_out: dict[str, int]
    """By why."""


class _Since(BaseModel, frozen=True):
    since: Duration = Field(gt=timedelta(0))


async def verify_histories(
    sample: Sample, *, out: Path | None, require: int, as_json: bool, address: str | None
) -> ExitCode:
    """Replay the sample and fail if this code departs from one of it, or if there are fewer than required.

    Raises:
        HistoryFileError: A file is no history.
        PerdureError: A key is missing, or Temporal does not answer.
    """
    check = HistoryCheck()
    replayed: list[Replayed] = []
    async with AsyncExitStack() as held:
        if sample.source is not None:
            silence()
            stored = read_histories(sample.source)
            total, histories = len(stored), _each(stored)
        else:
            since = typed(_Since, {"since": sample.since}).since
            client = await held.enter_async_context(connected(load_settings(), address=address))
            chosen = spread(await find_executions(client, since=since, query=sample.query), sample.count)
            total, histories = len(chosen), fetch_histories(client, chosen)
        if out is not None:
            histories = _kept(histories, _made(out))
        columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        progress = held.enter_context(Progress(*columns, console=console(stderr=True), transient=True))
        task = progress.add_task("replaying", total=total)
        async for one in check.replay(histories):
            replayed.append(one)
            progress.advance(task)
    if as_json:
        print_json(_verdict(replayed, check))
    else:
        _print(replayed, check)
    if any(one.departure for one in replayed):
        return ExitCode.FAILED
    if len(replayed) < require:
        console(stderr=True).print(f"{len(replayed)} histories were verified, and {require} are required", style="red")
        return ExitCode.FAILED
    return ExitCode.OK


async def _each(stored: Iterable[WorkflowHistory]) -> AsyncIterator[WorkflowHistory]:
    for history in stored:
        yield history


async def _kept(histories: AsyncIterator[WorkflowHistory], folder: Path) -> AsyncIterator[WorkflowHistory]:
    """Hand histories on, and write each into a file of the folder."""
    async for history in histories:
        (folder / f"{type_of(history)}-{history.run_id}.json").write_text(export([history]), encoding="utf-8")
        yield history


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInputError(f"--out {str(folder)!r}: {error}") from error
    return folder


def _verdict(replayed: Iterable[Replayed], check: HistoryCheck) -> Verdict:
    return Verdict(
        verified=Counter(one.workflow_type for one in replayed if one.departure is None),
        departed=tuple(
            DepartedHistory(
                workflow_type=one.workflow_type,
                workflow_id=one.workflow_id,
                execution_id=one.execution_id,
                where=str(one.departure),
            )
            for one in replayed
            if one.departure
        ),
        left_out=check.left_out,
    )


def _print(replayed: list[Replayed], check: HistoryCheck) -> None:
    out = console()
    departed = [one for one in replayed if one.departure]
    if replayed:
        table = Table("workflow", "verified", "departed", box=None, pad_edge=False)
        bad = Counter(one.workflow_type for one in departed)
        for kind, count in sorted(Counter(one.workflow_type for one in replayed).items()):
            table.add_row(kind, str(count - bad[kind]), str(bad[kind]))
        out.print(table)
    for why, count in check.left_out.items():
        out.print(Text(f"left out: {count} {line(why)}"), soft_wrap=True)
    sys.stdout.flush()
    for one in departed:
        out.print(Text(f"departs: {line(str(one))}", style="bold red"), soft_wrap=True)
    if not replayed:
        out.print("NOTHING TO VERIFY: no history was found, so this says nothing about the code", style="bold yellow")
    elif not departed:
        out.print(f"this code goes on with each of {len(replayed)}", style="green")
