"""`perdure schedules …`: made, listed, held, started by hand, deleted."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from perdure.duration import written
from perdure.figures import span
from perdure.schedule import Timing, schedule_id
from perdure.settings import load_settings
from perdure_api.gateway import Gateway
from perdure_api.schedule_schemas import (
    BackfillRequest,
    NewSchedule,
    Schedule,
    ScheduledOutcome,
    ScheduleFilter,
    TriggerRequest,
)
from perdure_api.schemas import HoldRequest
from perdure_workers.cli.actions.connection import connected, open_gateway, operator
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.start import Order, new_run
from perdure_workers.cli.actions.typed import typed
from perdure_workers.loading import load_here
from perdure_workers.plain_text import line, money


async def create_schedule(
    name: str,
    *,
    when: Mapping[str, Any],
    policy: Mapping[str, Any],
    run: Mapping[str, Any],
    as_json: bool,
    app: str | None,
    address: str | None,
) -> None:
    """Make a schedule, and print when it starts runs.

    Raises:
        PerdureError: Something was typed that cannot be, the run could not be started now, or the name is taken.
    """
    order = Order(
        agent=run["agent"],
        input=run["input"],
        key=None,
        session=None,
        user=run["user"],
        org=run["org"],
        roles=None,
        priority="normal",
        limits=run["limits"],
        metadata=(),
    )
    new = typed(NewSchedule, {"name": name, "run": new_run(order), "when": when, **policy})
    settings = load_settings(app=app)
    loaded = load_here(settings)
    async with connected(settings, address=address) as client:
        made = await Gateway(client, loaded, settings, principal=operator()).schedules.create(new)
    if as_json:
        print_json(made)
    else:
        print_schedules([made], console())


async def list_schedules(*, agent: str | None, org: str | None, as_json: bool, address: str | None) -> None:
    """Print schedules by name.

    Raises:
        InvalidInputError: A filter cannot be one.
    """
    wanted = typed(ScheduleFilter, {"agent": agent, "org": org})
    async with open_gateway(address=address) as gateway:
        found = await gateway.schedules.list(wanted)
    if as_json:
        print_json(found)
    elif found:
        print_schedules(found, console())
    else:
        console().print("no schedules")


async def show_schedule(schedule: str, *, org: str | None, as_json: bool, address: str | None) -> None:
    """Print a schedule, its next times and its last runs.

    Raises:
        ScheduleNotFoundError: There is none.
    """
    async with open_gateway(address=address) as gateway:
        found = await gateway.schedules.get(_key(schedule, org))
    if as_json:
        print_json(found)
        return
    out = console()
    print_schedules([found], out, last=False)
    _print_facts(found, out)


async def hold_schedule(
    schedule: str, *, pause: bool, org: str | None, by: str | None, reason: str, address: str | None
) -> None:
    """Pause or resume a schedule; raises as `show_schedule`."""
    request = typed(HoldRequest, {"by": by or getpass.getuser(), "reason": reason})
    async with open_gateway(address=address) as gateway:
        change = gateway.schedules.pause if pause else gateway.schedules.resume
        await change(_key(schedule, org), request)
    console().print(f"{'paused' if pause else 'resumed'} {schedule}", soft_wrap=True, markup=False)


async def trigger_schedule(schedule: str, *, overlap: str | None, org: str | None, address: str | None) -> None:
    """Start a run now; raises as `show_schedule`."""
    request = typed(TriggerRequest, {"overlap": overlap})
    async with open_gateway(address=address) as gateway:
        await gateway.schedules.trigger(_key(schedule, org), request)
    console().print(f"asked {schedule} for a run now", soft_wrap=True, markup=False)


async def backfill_schedule(
    schedule: str, *, since: str, until: str, overlap: str | None, org: str | None, address: str | None
) -> None:
    """Start the runs of a period; raises as `show_schedule`."""
    given = {"from": since, "to": until, **({"overlap": overlap} if overlap else {})}
    request = typed(BackfillRequest, given)
    async with open_gateway(address=address) as gateway:
        await gateway.schedules.backfill(_key(schedule, org), request)
    console().print(f"asked {schedule} for the runs of that time", soft_wrap=True, markup=False)


async def delete_schedule(schedule: str, *, org: str | None, address: str | None) -> None:
    """Forget a schedule; raises as `show_schedule`."""
    async with open_gateway(address=address) as gateway:
        await gateway.schedules.delete(_key(schedule, org))
    console().print(f"deleted {schedule}", soft_wrap=True, markup=False)


def print_schedules(found: Iterable[Schedule], out: Console, *, last: bool = True) -> None:
    """Print schedules: what, when, and how the last run of each went."""
    now = datetime.now(UTC)
    for each in found:
        whose = f" of {line(each.org)}" if each.org else ""
        version = f"@{each.version}" if each.version else ""
        text = Text(line(each.name), style="bold").append(
            f"{whose}: {line(each.agent)}{version}, {line(_times(each.when))}", style="not bold"
        )
        out.print(text, soft_wrap=True)
        if each.paused:
            out.print(Text(f"  {line(each.note) or 'paused'}", style="yellow"), soft_wrap=True)
        elif each.next_at:
            out.print(Text(f"  next in {span(each.next_at[0] - now)}, {_at(each.next_at[0])}"), soft_wrap=True)
        else:
            out.print("  no time is left", style="dim")
        if last and each.last:
            out.print(Text("  last ").append_text(_outcome(each.last[0])), soft_wrap=True)


def _print_facts(found: Schedule, out: Console) -> None:
    for moment in found.next_at[1:]:
        out.print(f"  then {_at(moment)}")
    policy = f"overlap {found.overlap}, catch up {written(found.catch_up)}"
    stops = ", pauses on failure" if found.pause_on_failure else ""
    out.print(Text(f"  {policy}{stops}; as {line(found.user) or 'nobody'}", style="dim"), soft_wrap=True)
    counts = f"started {found.started}, left out {found.skipped}, missed {found.missed}"
    out.print(Text(f"  {counts}; {found.schedule_id}", style="dim"), soft_wrap=True)
    for outcome in found.last:
        out.print(Text("  ").append_text(_outcome(outcome)), soft_wrap=True)


def _outcome(outcome: ScheduledOutcome) -> Text:
    if outcome.error is not None:
        return Text(f"{_at(outcome.at)}  not started: {line(outcome.error.message)}", style="red")
    return Text(f"{_at(outcome.at)}  {outcome.status}  {outcome.run_id}  {money(outcome.cost_usd)}")


def _times(when: Timing) -> str:
    cron = [f"{expression} {when.time_zone}" for expression in when.cron]
    offset = f" + {written(when.offset)}" if when.offset else ""
    return "; ".join([*cron, *([f"every {written(when.every)}{offset}"] if when.every else [])])


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _key(schedule: str, org: str | None) -> str:
    """Return the id of the schedule that was named; the command line is of no organisation itself."""
    return schedule if org is None else schedule_id(schedule, org=org)
