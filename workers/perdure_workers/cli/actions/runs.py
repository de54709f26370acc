"""`perdure runs list`, `show` and `cancel`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from perdure.contracts import RunError, RunStatus
from perdure.errors import InvalidInputError
from perdure.figures import span
from perdure.plan import PlanStatus
from perdure_api.runs import Runs
from perdure_api.schemas import PendingCall, RunDetail, RunFilter, RunSummary
from perdure_workers import timeline
from perdure_workers.cli.actions.approvals import print_pending
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.feedback import print_feedback
from perdure_workers.cli.actions.grants import print_grants
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.plain_text import line, money

PAGE = 100
PLANNED: Final = {PlanStatus.PENDING: "[ ]", PlanStatus.IN_PROGRESS: "[>]", PlanStatus.COMPLETED: "[x]"}
"""How a part of a plan is marked."""
_STATUS = 2
_RIGHT = (3, 4, 5)
"""Columns of the list: the status, and those that are numbers."""


async def list_runs(
    *,
    agent: str | None,
    status: str | None,
    user: str | None,
    org: str | None,
    session: str | None,
    limit: int,
    as_json: bool,
    address: str | None,
) -> None:
    """Print the newest runs that pass the filter."""
    try:
        wanted = RunFilter.model_validate(
            {"agent": agent, "status": status, "user": user, "org": org, "session_id": session}
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InvalidInputError(f"--{problem['loc'][0]} {problem['input']!r}: {problem['msg']}") from error
    async with open_gateway(address=address) as gateway:
        found = await newest(gateway.runs, wanted, limit=limit)
    if as_json:
        print_json(found)
    elif found:
        _print_table(found, console())
    elif wanted == RunFilter():
        console().print('no runs yet; start one with: perdure run AGENT "INPUT"')
    else:
        console().print("no run passes this filter")


async def show_run(run_id: str, *, as_json: bool, address: str | None) -> None:
    """Print a run as far as it went."""
    async with open_gateway(address=address) as gateway:
        detail = await gateway.runs.get(run_id)
        events = [] if as_json else await gateway.runs.events(run_id)
    if as_json:
        print_json(detail)
        return
    out = console()
    timeline.show(events, out, now=datetime.now(UTC))
    print_state(detail, out)


async def cancel_run(run_id: str, *, reason: str, address: str | None) -> None:
    """Ask a run to end as cancelled."""
    async with open_gateway(address=address) as gateway:
        await gateway.runs.cancel(run_id, reason=reason)
    console().print(f"asked run {run_id} to cancel", soft_wrap=True)


async def newest(runs: Runs, wanted: RunFilter, *, limit: int | None = None) -> list[RunSummary]:
    """Return the runs that pass the filter, the newest first; all of them without a limit."""
    found: list[RunSummary] = []
    token: str | None = None
    while True:
        left = PAGE if limit is None else limit - len(found)
        page = await runs.list(wanted, limit=min(left, PAGE), page_token=token)
        found += page.items
        token = page.next_page_token
        if token is None or (limit is not None and len(found) >= limit):
            return found


def _print_table(runs: list[RunSummary], out: Console) -> None:
    """Print one line for each run, on a terminal cut at its width, and whole elsewhere."""
    now = datetime.now(UTC)
    rows = [("run", "agent", "status", "steps", "cost", "age", "input")]
    rows += [
        (
            run.run_id,
            line(run.agent),
            run.status.value,
            str(run.steps),
            money(run.cost_usd),
            f"{span(now - run.started_at)}",
            line(run.input),
        )
        for run in runs
    ]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for place, row in enumerate(rows):
        text = Text(style="" if place else "dim")
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            padded = cell.rjust(width) if column in _RIGHT else cell.ljust(width)
            style = _style(runs[place - 1].status) if place and column == _STATUS else ""
            text.append(padded + "  ", style=style)
        text.rstrip()
        if out.is_terminal:
            out.print(text, no_wrap=True, overflow="ellipsis")
        else:
            out.print(text, soft_wrap=True)


def _style(status: RunStatus) -> str:
    match status:
        case RunStatus.COMPLETED:
            return "green"
        case RunStatus.RUNNING:
            return "cyan"
        case RunStatus.QUEUED | RunStatus.WAITING | RunStatus.PAUSED:
            return "bold yellow"
    return "red"


def print_state(detail: RunDetail, out: Console) -> None:
    """Print what the timeline does not say: what a run waits for, and where else to look."""
    if detail.status is RunStatus.QUEUED:
        out.print("\nqueued: as many runs are open as may be; it begins when others have ended", style="bold yellow")
    for call in detail.pending_calls:
        if call.last_failure:
            out.print(Text(f"\n{_again(call, call.last_failure)}", style="yellow"), soft_wrap=True)
    if detail.paused:
        out.print(f"\npaused; go on with: perdure runs resume {detail.run_id}", style="bold yellow", soft_wrap=True)
    if detail.plan:
        out.print()
        for planned in detail.plan:
            out.print(Text(f"{PLANNED[planned.status]} {line(planned.step)}"), soft_wrap=True)
    if detail.pending_approvals:
        out.print()
        print_pending([(detail.run_id, approval) for approval in detail.pending_approvals], out)
    if detail.feedback:
        out.print()
        print_feedback(detail.feedback, out)
    if detail.grants:
        out.print()
        print_grants(detail.grants, out)
    if not detail.status.ended and not detail.live:
        out.print("no worker answers; this is what Temporal has stored", style="yellow")
    if detail.trace_id:
        out.print(Text(f"\nTrace            {detail.trace_id}", style="dim"), soft_wrap=True)
    if detail.forked_from:
        out.print(f"\nforked from {detail.forked_from.run_id} at step {detail.forked_from.step}", soft_wrap=True)
    for fork in detail.forks:
        out.print(f"\nforked: {fork}", soft_wrap=True)
    if detail.ui_url:
        out.print(Text(f"\nTemporal Web UI  {detail.ui_url}", style="dim"), soft_wrap=True)


def _again(call: PendingCall, failure: RunError) -> str:
    """Say of a call how it has gone so far, and when it is tried again."""
    of = f" of {call.max_attempts}" if call.max_attempts else ""
    when = f" in {span(call.next_attempt_at - datetime.now(UTC))}" if call.next_attempt_at else " is under way"
    return (
        f"{line(call.activity)}: attempt {call.attempt}{of}{when}, after {line(f'{failure.type}: {failure.message}')}"
    )
