"""Declares `run`, which starts a run, and `runs …`, which look at runs and steer them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, AppOption, ByOption, JsonOption, RunArgument

starting = typer.Typer()
ReasonOption = Annotated[str, typer.Option(help="Kept in the run's history.", show_default=False)]
runs = typer.Typer(no_args_is_help=True, help="Look at runs and steer them.")


@starting.command(rich_help_panel="Start")
def run(
    agent: Annotated[
        str, typer.Argument(metavar="AGENT", help="The agent's name, or NAME@VERSION.", show_default=False)
    ],
    text: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="What it is to do; '-' reads it from standard input.", show_default=False),
    ],
    key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key", metavar="KEY", help="The same key again starts nothing new.", show_default=False
        ),
    ] = None,
    session: Annotated[str | None, typer.Option(help="The session it belongs to.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="On whose behalf.", show_default=False)] = None,
    org: Annotated[str | None, typer.Option(help="Whose organisation.", show_default=False)] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE", help="A role that the policy goes by. Repeatable. Default: all.", show_default=False
        ),
    ] = None,
    priority: Annotated[
        str, typer.Option(metavar="LEVEL", help="Which runs go on first while workers are busy: high, normal or low.")
    ] = "normal",
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="Replace a limit of the agent, as in max_steps=5 or run_timeout=90 (seconds). Repeatable.",
            show_default=False,
        ),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Kept with the run. Repeatable.", show_default=False),
    ] = None,
    callback: Annotated[
        str | None,
        typer.Option(
            "--callback-url",
            metavar="URL",
            help="Told by a signed webhook when it needs a human, and when it ends.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress, then the result; exit by how it ended.")] = False,
    as_json: JsonOption = False,
    app: AppOption = None,
    address: AddressOption = None,
) -> None:
    """Start a run of an agent and print its id."""
    from perdure_workers.cli.actions.start import Order, start

    order = Order(
        agent=agent,
        input=text,
        key=key,
        session=session,
        user=user,
        org=org,
        roles=tuple(role) if role else None,
        priority=priority,
        limits=tuple(limit or ()),
        metadata=tuple(metadata or ()),
        callback_url=callback,
    )
    execute(start(order, wait=wait, as_json=as_json, app=app, address=address))


@runs.command("list")
def list_runs(
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.", show_default=False)] = None,
    status: Annotated[
        str | None,
        typer.Option(
            help="Only runs that are queued, running, waiting, paused, completed, failed, cancelled, timed_out, "
            "max_steps, rejected, out_of_budget or terminated.",
            show_default=False,
        ),
    ] = None,
    user: Annotated[str | None, typer.Option(help="Only runs of this user.", show_default=False)] = None,
    org: Annotated[str | None, typer.Option(help="Only runs of this organisation.", show_default=False)] = None,
    session: Annotated[str | None, typer.Option(help="Only runs of this session.", show_default=False)] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only runs whose workflow code breaks.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """List runs, the newest first."""
    from perdure_workers.cli.actions.runs import list_runs

    execute(
        list_runs(
            agent=agent,
            status=status,
            user=user,
            org=org,
            session=session,
            stuck=stuck,
            limit=limit,
            as_json=as_json,
            address=address,
        )
    )


@runs.command()
def show(run_id: RunArgument, as_json: JsonOption = False, address: AddressOption = None) -> None:
    """Show a run: its state, its steps, what it waits for, its result."""
    from perdure_workers.cli.actions.runs import show_run

    execute(show_run(run_id, as_json=as_json, address=address))


@runs.command()
def watch(run_id: RunArgument, as_json: JsonOption = False, address: AddressOption = None) -> None:
    """Follow a run's timeline until it ends; exit by how it ended."""
    from perdure_workers.cli.actions.following import watch_run

    execute(watch_run(run_id, as_json=as_json, address=address))


@runs.command()
def cancel(
    run_id: RunArgument,
    reason: ReasonOption = "",
    address: AddressOption = None,
) -> None:
    """Ask a run to end as cancelled."""
    from perdure_workers.cli.actions.runs import cancel_run

    execute(cancel_run(run_id, reason=reason, address=address))


@runs.command()
def message(
    run_id: RunArgument,
    text: Annotated[
        str,
        typer.Argument(metavar="TEXT", help="What to say; '-' reads it from standard input.", show_default=False),
    ],
    sender: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="Who says it. Default: the user of this machine."),
    ] = None,
    app: AppOption = None,
    address: AddressOption = None,
) -> None:
    """Say something to the model before it is called next."""
    from perdure_workers.cli.actions.steering import send_message

    execute(send_message(run_id, text, sender=sender, app=app, address=address))


@runs.command()
def pause(run_id: RunArgument, by: ByOption = None, reason: ReasonOption = "", address: AddressOption = None) -> None:
    """Start no further step of a run; what is running ends."""
    from perdure_workers.cli.actions.steering import pause_run

    execute(pause_run(run_id, by=by, reason=reason, address=address))


@runs.command()
def resume(run_id: RunArgument, by: ByOption = None, reason: ReasonOption = "", address: AddressOption = None) -> None:
    """Let a paused run go on."""
    from perdure_workers.cli.actions.steering import resume_run

    execute(resume_run(run_id, by=by, reason=reason, address=address))


@runs.command()
def retry(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id.", show_default=False)] = None,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="QUERY",
            help="In place of RUN, all of these: 'status=failed and error=model_timeout and agent=support'.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --query: only show which ones.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --query: do not ask.")] = False,
    rate: Annotated[
        str, typer.Option(metavar="RATE", help="With --query: at most so many, as in 5/s or 30/m.")
    ] = "5/s",
    by: ByOption = None,
    reason: ReasonOption = "",
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Have runs that ended badly go on from the step that failed."""
    from perdure_workers.cli.actions.retry import retry_many, retry_run

    if (run_id is None) == (query is None):
        raise typer.BadParameter("name a RUN, or several by --query", param_hint="RUN")
    if run_id is not None:
        execute(retry_run(run_id, by=by, reason=reason, as_json=as_json, address=address))
    else:
        many = retry_many(
            query or "", dry_run=dry_run, yes=yes, rate=rate, by=by, reason=reason, as_json=as_json, address=address
        )
        execute(many)


@runs.command()
def fork(
    run_id: RunArgument,
    step: Annotated[
        int | None,
        typer.Option(min=1, help="The first step that the fork makes itself. Default: the last model call."),
    ] = None,
    version: Annotated[
        str | None, typer.Option(help="Another version of the agent. Default: the run's.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="In place of the agent's: provider:model.", show_default=False)
    ] = None,
    instructions: Annotated[
        Path | None,
        typer.Option("--instructions-file", metavar="FILE", help="In place of the agent's.", show_default=False),
    ] = None,
    arguments: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="For a tool call: make it with these arguments.", show_default=False),
    ] = None,
    result: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="For a tool call: take it to have returned this; it is not made.", show_default=False
        ),
    ] = None,
    message: Annotated[
        str | None, typer.Option(help="Said by the user before the model is called next.", show_default=False)
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Replace a limit of the agent. Repeatable.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    app: AppOption = None,
    address: AddressOption = None,
) -> None:
    """Start a run that goes on from a step of another one, with something changed."""
    from perdure_workers.cli.actions.fork import ForkOrder, fork_run

    order = ForkOrder(
        step=step,
        version=version,
        model=model,
        instructions=instructions,
        arguments=arguments,
        result=result,
        message=message,
        limits=tuple(limit or ()),
    )
    execute(fork_run(run_id, order, as_json=as_json, app=app, address=address))


@runs.command()
def failures(
    agent: Annotated[str | None, typer.Option(help="Only runs of this agent.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="Only runs of this user.", show_default=False)] = None,
    org: Annotated[str | None, typer.Option(help="Only runs of this organisation.", show_default=False)] = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Count failed runs by their error."""
    from perdure_workers.cli.actions.retry import show_failures

    execute(show_failures(agent=agent, user=user, org=org, as_json=as_json, address=address))


@runs.command()
def feedback(
    run_id: RunArgument,
    score: Annotated[float | None, typer.Option(help="How good it was, from 0 to 1.", show_default=False)] = None,
    thumbs: Annotated[
        str | None, typer.Option(metavar="UP|DOWN", help="In place of a score: up or down.", show_default=False)
    ] = None,
    comment: Annotated[str, typer.Option(help="In words.", show_default=False)] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take back what you said.")] = False,
    by: ByOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Say how good a run was; without a score or comment, see what is thought of it."""
    from perdure_workers.cli.actions.feedback import feedback

    opinion = {"score": score, "thumbs": thumbs, "comment": comment}
    execute(feedback(run_id, opinion, withdraw=withdraw, by=by, as_json=as_json, address=address))


@runs.command()
def scorings(run_id: RunArgument, as_json: JsonOption = False, address: AddressOption = None) -> None:
    """See which scorers have judged a run, and which have failed."""
    from perdure_workers.cli.actions.scorings import list_scorings

    execute(list_scorings(run_id, as_json=as_json, address=address))


@runs.command()
def deliveries(run_id: RunArgument, as_json: JsonOption = False, address: AddressOption = None) -> None:
    """See whom a run has told what, and what became of it."""
    from perdure_workers.cli.actions.deliveries import list_deliveries

    execute(list_deliveries(run_id, as_json=as_json, address=address))


@runs.command()
def redeliver(
    run_id: RunArgument,
    delivery_id: Annotated[
        str, typer.Argument(metavar="DELIVERY", help="Its id, as runs deliveries lists it.", show_default=False)
    ],
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Send again what was given up."""
    from perdure_workers.cli.actions.deliveries import redeliver

    execute(redeliver(run_id, delivery_id, as_json=as_json, address=address))


@runs.command()
def export(
    run_id: RunArgument,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write here; default: standard output.", show_default=False),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Write a run's history as JSON, for `perdure replay` and as a test case."""
    from perdure_workers.cli.actions.following import export_run

    execute(export_run(run_id, output=output, address=address))
