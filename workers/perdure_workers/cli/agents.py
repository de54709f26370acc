"""Declares `agents …`: how they do, and which versions their runs start with."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, AppOption, JsonOption

agents = typer.Typer(help="Look at agents, and choose among their versions.", no_args_is_help=True)


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The agent's name.", show_default=False)]


@agents.command()
def health(
    name: NameArgument,
    window: Annotated[str, typer.Option(metavar="TIME", help="How far back: 15m, 1h, 7d.")] = "1h",
    version: Annotated[str | None, typer.Option(help="Only of this version.", show_default=False)] = None,
    org: Annotated[str | None, typer.Option(help="Only of this organisation.", show_default=False)] = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Show how an agent's latest runs went, in all and by version."""
    from perdure_workers.cli.actions.agents import show_health

    wanted = {"window": window, "version": version, "org": org}
    execute(show_health(name, wanted, as_json=as_json, address=address))


@agents.command()
def compare(
    name: NameArgument,
    window: Annotated[str, typer.Option(metavar="TIME", help="How far back: 24h, 7d, 30d.")] = "7d",
    org: Annotated[str | None, typer.Option(help="Only runs of this organisation.", show_default=False)] = None,
    as_json: JsonOption = False,
    app: AppOption = None,
    address: AddressOption = None,
) -> None:
    """Set an agent's versions side by side: success, durations, cost, and what people and scorers thought."""
    from perdure_workers.cli.actions.comparison import compare_versions

    execute(compare_versions(name, {"window": window, "org": org}, as_json=as_json, app=app, address=address))


@agents.command()
def rollout(
    name: NameArgument,
    weights: Annotated[
        list[str] | None,
        typer.Argument(metavar="VERSION=WEIGHT…", help="Share new runs out, as in 1.0=90 1.1=10.", show_default=False),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="End the rollout.")] = False,
    org: Annotated[
        str | None, typer.Option(help="That of this organisation. Default: everybody's.", show_default=False)
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who says so. Default: the user of this machine.")
    ] = None,
    as_json: JsonOption = False,
    app: AppOption = None,
    address: AddressOption = None,
) -> None:
    """Show which versions an agent's runs start with, or share them out by weights."""
    from perdure_workers.cli.actions.rollouts import roll_out

    execute(roll_out(name, weights or (), clear=clear, org=org, by=by, as_json=as_json, app=app, address=address))
