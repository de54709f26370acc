"""Declares `encryption …`, which makes keys for payloads."""

from __future__ import annotations

from typing import Annotated

import typer

encryption = typer.Typer(no_args_is_help=True, help="Keys for encrypting what Temporal stores.")


@encryption.callback()
def _encryption() -> None:
    """Keep `new-key` a command of its group, though it is the only one."""


@encryption.command("new-key")
def new_key(
    key_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="What the key is called. Default: today's date.", show_default=False),
    ] = None,
) -> None:
    """Make a key and print it, once, as PERDURE_ENCRYPTION_KEYS takes it."""
    from perdure_workers.cli.actions.encryption import print_new_key

    print_new_key(key_id)
