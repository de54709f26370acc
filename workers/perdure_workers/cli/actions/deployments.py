"""`perdure deployments …`: shows builds, routes new runs to them, and moves open ones."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text
from temporalio.service import RPCError, RPCStatusCode

from perdure.errors import InvalidInputError
from perdure.figures import span
from perdure.settings import load_settings
from perdure_workers.cli.actions.connection import connected
from perdure_workers.cli.actions.output import confirm, console, print_json
from perdure_workers.cli.ending import ExitCode
from perdure_workers.deployments import Deployment, Deployments, PinnedRun
from perdure_workers.plain_text import line


async def list_deployments(*, as_json: bool, address: str | None) -> None:
    """Print all deployments.

    Raises:
        PerdureError: Temporal does not answer.
    """
    async with connected(load_settings(), address=address) as client:
        found = await Deployments(client).list()
    if as_json:
        print_json(found)
        return
    out = console()
    if not found:
        out.print("no worker has polled with PERDURE_DEPLOYMENT_NAME and PERDURE_BUILD_ID yet")
    for deployment in found:
        _print(deployment, out)


async def show_deployment(name: str | None, *, as_json: bool, address: str | None) -> None:
    """Print a deployment.

    Raises:
        PerdureError: There is none, or Temporal does not answer.
    """
    async with connected(load_settings(), address=address) as client:
        found = await _chosen(Deployments(client), name)
    if as_json:
        print_json(found)
    else:
        _print(found, console())


async def route(
    build_id: str, *, percent: float | None, deployment: str | None, yes: bool, as_json: bool, address: str | None
) -> ExitCode | None:
    """Have new runs go to a build, or that part of them, after saying what that changes.

    Raises:
        InvalidInputError: There is no such build.
        PerdureError: Temporal refuses, or does not answer.
    """
    terminal = console(stderr=True)
    async with connected(load_settings(), address=address) as client:
        deployments = Deployments(client)
        before = await _chosen(deployments, deployment)
        await deployments.wait_for(before.name, build_id)
        terminal.print(Text(_plan(before, build_id, percent)), soft_wrap=True)
        if not yes and not confirm("Go on?"):
            terminal.print("nothing was done; --yes does not ask")
            return ExitCode.REFUSED
        if percent is None:
            await deployments.set_current(before.name, build_id)
        else:
            await deployments.ramp(before.name, build_id, percent=percent)
        after = await deployments.get(before.name)
    if as_json:
        print_json(after)
    else:
        _print(after, console())
    return None


async def move_runs(
    query: str, build_id: str, *, dry_run: bool, deployment: str | None, yes: bool, as_json: bool, address: str | None
) -> ExitCode | None:
    """Have the open runs that a query finds go on with a build, after showing them.

    Raises:
        InvalidInputError: There is no such build, or Temporal does not take the query.
        PerdureError: Temporal refuses, or does not answer.
    """
    terminal = console(stderr=True)
    async with connected(load_settings(), address=address) as client:
        deployments = Deployments(client)
        name = (await _chosen(deployments, deployment)).name
        await deployments.wait_for(name, build_id)
        found = [run for run in await deployments.open_runs(query) if run.build_id != build_id]
        for build, count in Counter(run.build_id or "no build" for run in found).items():
            terminal.print(Text(f"{count:>6}  {line(build)} → {line(build_id)}"))
        if dry_run:
            terminal.print(f"{len(found)} would be moved; nothing was done")
            if as_json:
                print_json(found)
            return None
        if not found:
            terminal.print("no open run passes this filter that is not there already")
            return None
        if not yes and not confirm(f"Move {len(found)} runs?"):
            terminal.print("nothing was done; --yes does not ask")
            return ExitCode.REFUSED
        moved = await _move_each(deployments, found, name=name, build_id=build_id)
    if as_json:
        print_json(moved)
    terminal.print(f"{len(moved)} of {len(found)} runs go on with {build_id}; others have ended meanwhile")
    return None


async def _move_each(deployments: Deployments, runs: list[PinnedRun], *, name: str, build_id: str) -> list[PinnedRun]:
    moved = []
    columns = (TextColumn("moving"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        for run in progress.track(runs):
            try:
                await deployments.move(run.run_id, name=name, build_id=build_id)
                moved.append(run)
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
    return moved


async def _chosen(deployments: Deployments, name: str | None) -> Deployment:
    name = name or load_settings().deployment_name
    if name is not None:
        return await deployments.get(name)
    found = await deployments.list()
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise InvalidInputError(f"say which deployment by --deployment or PERDURE_DEPLOYMENT_NAME; there are: {names}")
    return found[0]


def _plan(before: Deployment, build_id: str, percent: float | None) -> str:
    now = before.current or "workers without a build"
    if percent is None:
        change = f"all new runs go to {build_id}; now they go to {now}"
    elif percent == 0:
        change = f"the ramp ends, all new runs go to {now}"
    else:
        change = f"{percent:g} % of new runs go to {build_id}, the others to {now}"
    return f"{before.name}: {change}. Open runs stay with their builds; all other workflows of theirs follow."


def _print(deployment: Deployment, out: Console) -> None:
    now = datetime.now(UTC)
    out.print(Text(line(deployment.name), style="bold"))
    table = Table("build", "state", "new runs", "open runs", "since", "first seen", box=None, pad_edge=False)
    for build in deployment.builds:
        since = f"{span(now - build.status_since)} ago" if build.status_since else "–"
        cells = (build.build_id, build.status, f"{build.percent:g} %", str(build.open_runs), since)
        table.add_row(*(Text(line(cell)) for cell in (*cells, f"{span(now - build.created_at)} ago")))
    out.print(table)
    if deployment.current is None:
        out.print("no build is current: make one so with 'perdure deployments current BUILD'", style="bold yellow")
