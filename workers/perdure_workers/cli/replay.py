"""Declares `replay`."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption

replaying = typer.Typer()


@replaying.command(rich_help_panel="Look and decide")
def replay(
    run: Annotated[
        str, typer.Argument(metavar="RUN|FILE", help="A run's id, or a file of `runs export`.", show_default=False)
    ],
    pdb: Annotated[
        int | None,
        typer.Option(metavar="STEP", min=1, help="Stop in the workflow's code at this step.", show_default=False),
    ] = None,
    address: AddressOption = None,
) -> None:
    """Run the workflow's own code against a run's history, here, and say where they depart."""
    from perdure_workers.cli.actions.replay import replay_run

    execute(replay_run(run, pdb_step=pdb, address=address))
