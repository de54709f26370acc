"""`perdure runs retry`, for one run or for all that a query finds, and `perdure runs failures`."""

from __future__ import annotations

import asyncio
import getpass
from collections import Counter
from datetime import UTC, datetime

from pydantic import TypeAdapter, ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from perdure.errors import InvalidInputError, NotRetriableError, RunNotFoundError
from perdure.figures import span
from perdure.rate import Rate
from perdure_api.recovery import Recovery
from perdure_api.recovery_schemas import FailureFilter, Retried, RetryRequest
from perdure_api.schemas import RunSummary
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import confirm, console, print_json
from perdure_workers.cli.actions.run_query import parse_run_query
from perdure_workers.cli.actions.runs import newest
from perdure_workers.cli.actions.typed import typed
from perdure_workers.cli.ending import ExitCode
from perdure_workers.plain_text import line


async def retry_run(run_id: str, *, by: str | None, reason: str, as_json: bool, address: str | None) -> None:
    """Have a run that ended badly go on from the step that failed.

    Raises:
        PerdureError: There is no such run, or it cannot be retried.
    """
    request = typed(RetryRequest, {"by": by or getpass.getuser(), "reason": reason})
    async with open_gateway(address=address) as gateway:
        retried = await gateway.recovery.retry(run_id, request)
    if as_json:
        print_json(retried)
        return
    at = f" from step {retried.step}" if retried.step else ""
    said = f"run {run_id} goes on{at}" if retried.confirmed else f"run {run_id} goes on as soon as a worker is there"
    again = "" if retried.created else " (somebody had asked for that already)"
    console().print(f"{said}{again}; follow it with: perdure runs watch {run_id}", soft_wrap=True, markup=False)


async def retry_many(
    query: str,
    *,
    dry_run: bool,
    yes: bool,
    rate: str,
    by: str | None,
    reason: str,
    as_json: bool,
    address: str | None,
) -> ExitCode | None:
    """Retry every run that a query finds, the oldest first, after showing them.

    Raises:
        InvalidInputError: The query or the rate is not understood.
        PerdureError: Temporal does not answer.
    """
    wanted = parse_run_query(query)
    interval = 1 / _rate(rate).per_second
    request = typed(RetryRequest, {"by": by or getpass.getuser(), "reason": reason})
    terminal = console(stderr=True)
    async with open_gateway(address=address) as gateway:
        found = await newest(gateway.runs, wanted)
        _show(found, terminal)
        if dry_run:
            terminal.print(f"{len(found)} would be retried; nothing was done")
            if as_json:
                print_json(found)
            return None
        if not found:
            return None
        if not yes and not confirm(f"Retry {len(found)} runs?"):
            terminal.print("nothing was done; --yes does not ask")
            return ExitCode.REFUSED
        done, refused = await _retry_each(gateway.recovery, found, request, interval=interval)
    if as_json:
        print_json(done)
    terminal.print(f"{len(done)} of {len(found)} runs go on")
    for why in refused:
        terminal.print(Text(f"  not: {line(why)}"), soft_wrap=True)
    return ExitCode.REFUSED if refused else None


async def show_failures(
    *, agent: str | None, user: str | None, org: str | None, as_json: bool, address: str | None
) -> None:
    """Print how many runs failed of what."""
    wanted = typed(FailureFilter, {"agent": agent, "user": user, "org": org})
    async with open_gateway(address=address) as gateway:
        failures = await gateway.recovery.failures(wanted)
    if as_json:
        print_json(failures)
        return
    out = console()
    if not failures.items:
        out.print("no run has failed")
        return
    now = datetime.now(UTC)
    table = Table("error", "runs", "agents", "latest", "as in", box=None, pad_edge=False)
    for group in failures.items:
        agents = ", ".join(f"{name} {count}" for name, count in group.agents.items())
        age = span(now - group.last_at) + " ago"
        table.add_row(
            *(Text(line(cell)) for cell in (group.error or "–", str(group.count), agents, age, group.latest[0]))
        )
    out.print(table)
    if not failures.complete:
        out.print(f"these are the latest {failures.total}; there are more")


async def _retry_each(
    recovery: Recovery, runs: list[RunSummary], request: RetryRequest, *, interval: float
) -> tuple[list[Retried], list[str]]:
    """Retry runs one by one, each as many seconds after the one before it, or later; return why some were not."""
    done: list[Retried] = []
    refused: list[str] = []
    columns = (TextColumn("retrying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        for run in progress.track(runs[::-1]):
            pause = asyncio.create_task(asyncio.sleep(interval))
            try:
                done.append(await recovery.retry(run.run_id, request))
            except (NotRetriableError, RunNotFoundError) as error:
                refused.append(str(error))
            finally:
                await pause
    return done, refused


def _show(found: list[RunSummary], terminal: Console) -> None:
    kinds = Counter((run.agent, run.version, run.status.value) for run in found)
    for (agent, version, status), count in kinds.most_common():
        terminal.print(Text(f"{count:>6}  {line(agent)}@{line(version)}  {status}"))


def _rate(text: str) -> Rate:
    try:
        return TypeAdapter(Rate).validate_python(text)
    except ValidationError as error:
        raise InvalidInputError(f"--rate: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from error
