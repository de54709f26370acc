"""Declares `grants …`: standing grants, and taking them back."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, ByOption, JsonOption

grants = typer.Typer(no_args_is_help=True, help="See what may run without asking again, and take it back.")


@grants.command("list")
def list_grants(
    agent: Annotated[str | None, typer.Option(help="Only for this agent.", show_default=False)] = None,
    tool: Annotated[str | None, typer.Option(help="Only for this tool.", show_default=False)] = None,
    user: Annotated[str | None, typer.Option(help="Only for runs of this user.", show_default=False)] = None,
    org: Annotated[str | None, typer.Option(help="Only of this organisation.", show_default=False)] = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """List the standing grants; those that hold for one run are in `runs show`."""
    from perdure_workers.cli.actions.grants import list_grants

    execute(list_grants(agent=agent, tool=tool, user=user, org=org, as_json=as_json, address=address))


@grants.command()
def revoke(
    grant_id: Annotated[str, typer.Argument(metavar="GRANT", help="The grant's id, as listed.", show_default=False)],
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="One that holds for this run only.", show_default=False)
    ] = None,
    by: ByOption = None,
    reason: Annotated[str, typer.Option(help="Kept with the grant.", show_default=False)] = "",
    address: AddressOption = None,
) -> None:
    """End a grant; from now on its calls are asked about again."""
    from perdure_workers.cli.actions.grants import revoke_grant

    execute(revoke_grant(grant_id, run_id=run_id, by=by, reason=reason, address=address))
