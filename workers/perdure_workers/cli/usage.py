"""Declares `usage`."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, JsonOption

using = typer.Typer()


@using.command(rich_help_panel="Look and decide")
def usage(
    first: Annotated[
        str | None,
        typer.Option("--from", metavar="DAY", help="The first day. Default: thirty days ago.", show_default=False),
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", metavar="DAY", help="The last day. Default: today.", show_default=False)
    ] = None,
    by: Annotated[
        str, typer.Option(metavar="NAMES", help="Sum up by these of org, user, agent, model and day.")
    ] = "day,model",
    org: Annotated[str | None, typer.Option(help="Only of this organisation.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="Only of runs for this user.", show_default=False)] = None,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.", show_default=False)] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.", show_default=False)] = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Show what was used and what it cost, and how budgets stand."""
    from perdure_workers.cli.actions.usage import show_usage

    wanted = {"from": first, "to": last, "group_by": by, "org": org, "user": user, "agent": agent, "model": model}
    execute(show_usage(wanted, csv=csv, as_json=as_json, address=address))
