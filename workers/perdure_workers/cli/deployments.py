"""Declares `deployments …`: builds of versioned workers, and which of them new runs go to."""

from __future__ import annotations

from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, JsonOption

deployments = typer.Typer(no_args_is_help=True, help="Builds of versioned workers, and which of them new runs go to.")

BuildArgument = Annotated[
    str, typer.Argument(metavar="BUILD", help="As its workers have it in PERDURE_BUILD_ID.", show_default=False)
]
DeploymentOption = Annotated[
    str | None,
    typer.Option(
        "--deployment", metavar="NAME", help="Default: PERDURE_DEPLOYMENT_NAME, else the only one.", show_default=False
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@deployments.command("list")
def list_deployments(as_json: JsonOption = False, address: AddressOption = None) -> None:
    """List deployments with their builds."""
    from perdure_workers.cli.actions.deployments import list_deployments

    execute(list_deployments(as_json=as_json, address=address))


@deployments.command()
def show(deployment: DeploymentOption = None, as_json: JsonOption = False, address: AddressOption = None) -> None:
    """Show a deployment: its builds, their part of new runs, and the open runs that are pinned to them."""
    from perdure_workers.cli.actions.deployments import show_deployment

    execute(show_deployment(deployment, as_json=as_json, address=address))


@deployments.command()
def current(
    build: BuildArgument,
    deployment: DeploymentOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Have all new runs go to a build, and a ramp end; open runs stay with theirs."""
    from perdure_workers.cli.actions.deployments import route

    execute(route(build, percent=None, deployment=deployment, yes=yes, as_json=as_json, address=address))


@deployments.command()
def ramp(
    build: BuildArgument,
    percent: Annotated[float, typer.Option(min=0, max=100, help="The part of new runs; 0 ends the ramp.")],
    deployment: DeploymentOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Have a part of new runs go to a build, and the others to the current one."""
    from perdure_workers.cli.actions.deployments import route

    execute(route(build, percent=percent, deployment=deployment, yes=yes, as_json=as_json, address=address))


@deployments.command()
def move(
    build: Annotated[str, typer.Option("--to", metavar="BUILD", help="Where they are to go on.", show_default=False)],
    query: Annotated[
        str,
        typer.Option(
            metavar="FILTER",
            help="Open runs that pass this list filter of Temporal's: \"TemporalWorkerDeploymentVersion = 'shop:v1'\".",
            show_default=False,
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show which ones.")] = False,
    deployment: DeploymentOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Have open runs go on with another build, as with one that mends what they are stuck on."""
    from perdure_workers.cli.actions.deployments import move_runs

    execute(move_runs(query, build, dry_run=dry_run, deployment=deployment, yes=yes, as_json=as_json, address=address))
