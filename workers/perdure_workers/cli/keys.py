"""Declares `keys …`: API keys made, listed and revoked."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, JsonOption

keys = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")

ByOption = Annotated[
    str | None,
    typer.Option("--by", metavar="NAME", help="Who does it. Default: the user of this machine.", show_default=False),
]


@keys.command()
def create(
    name: Annotated[str, typer.Option(help="What lists call it.", show_default=False)],
    org: Annotated[str | None, typer.Option(help="Whose runs its holder sees and starts.", show_default=False)] = None,
    all_orgs: Annotated[
        bool, typer.Option("--all-orgs", help="In place of --org: its holder is an operator of all organisations.")
    ] = False,
    user: Annotated[
        str | None, typer.Option(help="Whom its holder acts as. Default: the key's name.", show_default=False)
    ] = None,
    role: Annotated[
        list[str] | None,
        typer.Option(help="A role that policies name; '*' is all. Repeatable.", show_default=False),
    ] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="What it may call: runs:read, runs:write, approvals:decide, agents:write, usage:read, "
            "audit:read or codec:decode. Repeatable. Default: runs:read and runs:write.",
            show_default=False,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="How long it works, as in 90d or 12h. Default: until revoked.", show_default=False
        ),
    ] = None,
    by: ByOption = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Make a key and print it; it is shown this once."""
    from perdure_workers.cli.actions.keys import WantedKey, create_key

    wanted = WantedKey(
        name=name,
        org=org,
        all_orgs=all_orgs,
        user=user,
        roles=tuple(role or ()),
        scopes=tuple(scope or ()),
        expires=expires,
    )
    execute(create_key(wanted, by=by, as_json=as_json, address=address))


@keys.command("list")
def list_keys(
    org: Annotated[str | None, typer.Option(help="Only keys of this organisation.", show_default=False)] = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """List keys, the newest first; ended ones as long as Temporal keeps them."""
    from perdure_workers.cli.actions.keys import list_keys

    execute(list_keys(org=org, as_json=as_json, address=address))


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, as listed.", show_default=False)],
    reason: Annotated[str, typer.Option(help="Kept with the key.", show_default=False)],
    by: ByOption = None,
    address: AddressOption = None,
) -> None:
    """End a key for good."""
    from perdure_workers.cli.actions.keys import revoke_key

    execute(revoke_key(key_id, by=by, reason=reason, address=address))
