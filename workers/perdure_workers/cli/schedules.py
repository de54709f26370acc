"""Declares `schedules …`: runs at certain times."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, AppOption, JsonOption

schedules = typer.Typer(no_args_is_help=True, help="Start runs at certain times.")

ScheduleArgument = Annotated[
    str, typer.Argument(metavar="SCHEDULE", help="The schedule's id, or its name.", show_default=False)
]
OrgOption = Annotated[
    str | None, typer.Option(help="Whose it is, for one that is given by its name.", show_default=False)
]
OverlapOption = Annotated[
    str | None,
    typer.Option(
        help="While the run before goes on: skip, buffer_one, buffer_all, cancel_other, terminate_other or allow_all.",
        show_default=False,
    ),
]
ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who does it. Default: the user of this machine.", show_default=False),
]
ReasonOption = Annotated[str, typer.Option(help="Kept with the schedule.", show_default=False)]


@schedules.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the schedule.", show_default=False)],
    agent: Annotated[
        str, typer.Argument(metavar="AGENT", help="NAME or NAME@VERSION of the agent.", show_default=False)
    ],
    text: Annotated[
        str, typer.Argument(metavar="INPUT", help="What it is to do; '-' reads standard input.", show_default=False)
    ],
    cron: Annotated[
        list[str] | None, typer.Option(help="As in '0 9 * * MON-FRI'. Repeatable.", show_default=False)
    ] = None,
    time_zone: Annotated[str, typer.Option(help="Of --cron, as in Europe/Berlin.")] = "UTC",
    every: Annotated[str | None, typer.Option(metavar="TIME", help="As in 6h.", show_default=False)] = None,
    offset: Annotated[str, typer.Option(metavar="TIME", help="What --every is moved by.")] = "0s",
    jitter: Annotated[str, typer.Option(metavar="TIME", help="Start by chance up to so much later.")] = "0s",
    overlap: OverlapOption = None,
    catch_up: Annotated[
        str, typer.Option(metavar="TIME", help="Make up for times so long ago, after Temporal was down.")
    ] = "1h",
    pause_on_failure: Annotated[bool, typer.Option("--pause-on-failure", help="Pause when a run fails.")] = False,
    paused: Annotated[bool, typer.Option("--paused", help="Start nothing yet.")] = False,
    user: Annotated[str | None, typer.Option(help="On whose behalf.", show_default=False)] = None,
    org: Annotated[str | None, typer.Option(help="Whose organisation's.", show_default=False)] = None,
    limit: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of each run. Repeatable.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    app: AppOption = None,
    address: AddressOption = None,
) -> None:
    """Start runs of an agent at certain times from now on."""
    from perdure_workers.cli.actions.schedules import create_schedule

    when = {
        "cron": tuple(cron or ()),
        "time_zone": time_zone,
        "every": every,
        "offset": offset,
        "jitter": jitter,
    }
    policy = {"catch_up": catch_up, "pause_on_failure": pause_on_failure, "paused": paused}
    run = {"agent": agent, "input": text, "user": user, "org": org, "limits": tuple(limit or ())}
    execute(
        create_schedule(
            name,
            when=when,
            policy={**policy, **({"overlap": overlap} if overlap else {})},
            run=run,
            as_json=as_json,
            app=app,
            address=address,
        )
    )


@schedules.command("list")
def list_schedules(
    agent: Annotated[str | None, typer.Option(help="Only of this agent.", show_default=False)] = None,
    org: Annotated[str | None, typer.Option(help="Only of this organisation.", show_default=False)] = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """List schedules, when each starts next, and how its last run went."""
    from perdure_workers.cli.actions.schedules import list_schedules

    execute(list_schedules(agent=agent, org=org, as_json=as_json, address=address))


@schedules.command()
def show(
    schedule: ScheduleArgument, org: OrgOption = None, as_json: JsonOption = False, address: AddressOption = None
) -> None:
    """Show a schedule, its next times and its last runs."""
    from perdure_workers.cli.actions.schedules import show_schedule

    execute(show_schedule(schedule, org=org, as_json=as_json, address=address))


@schedules.command()
def pause(
    schedule: ScheduleArgument,
    org: OrgOption = None,
    by: ByOption = None,
    reason: ReasonOption = "",
    address: AddressOption = None,
) -> None:
    """Start nothing at its times until it is resumed."""
    from perdure_workers.cli.actions.schedules import hold_schedule

    execute(hold_schedule(schedule, pause=True, org=org, by=by, reason=reason, address=address))


@schedules.command()
def resume(
    schedule: ScheduleArgument,
    org: OrgOption = None,
    by: ByOption = None,
    reason: ReasonOption = "",
    address: AddressOption = None,
) -> None:
    """Go on with its next time."""
    from perdure_workers.cli.actions.schedules import hold_schedule

    execute(hold_schedule(schedule, pause=False, org=org, by=by, reason=reason, address=address))


@schedules.command()
def trigger(
    schedule: ScheduleArgument, overlap: OverlapOption = None, org: OrgOption = None, address: AddressOption = None
) -> None:
    """Start a run now."""
    from perdure_workers.cli.actions.schedules import trigger_schedule

    execute(trigger_schedule(schedule, overlap=overlap, org=org, address=address))


@schedules.command()
def backfill(
    schedule: ScheduleArgument,
    since: Annotated[str, typer.Option("--from", metavar="TIME", help="As in 2026-11-20T00:00Z.", show_default=False)],
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="As --from.", show_default=False)],
    overlap: OverlapOption = None,
    org: OrgOption = None,
    address: AddressOption = None,
) -> None:
    """Start the runs of times that have passed, one after the other."""
    from perdure_workers.cli.actions.schedules import backfill_schedule

    execute(backfill_schedule(schedule, since=since, until=until, overlap=overlap, org=org, address=address))


@schedules.command()
def delete(schedule: ScheduleArgument, org: OrgOption = None, address: AddressOption = None) -> None:
    """Forget a schedule; its runs are left to themselves."""
    from perdure_workers.cli.actions.schedules import delete_schedule

    execute(delete_schedule(schedule, org=org, address=address))
