"""Declares `agents`."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, JsonOption

agents = typer.Typer(help="Look at agents.", no_args_is_help=True)


@agents.callback()
def _agents() -> None:
    """Look at agents."""


@agents.command()
def health(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The agent's name.", show_default=False)],
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
