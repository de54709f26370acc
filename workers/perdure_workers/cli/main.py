"""The program `perdure`: its commands put together, and its way out."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer

from perdure_workers.cli.agents import agents
from perdure_workers.cli.approvals import approvals
from perdure_workers.cli.audit import audit
from perdure_workers.cli.deployments import deployments
from perdure_workers.cli.encryption import encryption
from perdure_workers.cli.ending import leave
from perdure_workers.cli.grants import grants
from perdure_workers.cli.keys import keys
from perdure_workers.cli.policy import policy
from perdure_workers.cli.replay import replaying
from perdure_workers.cli.runs import runs, starting
from perdure_workers.cli.schedules import schedules
from perdure_workers.cli.servers import servers
from perdure_workers.cli.usage import using

application = typer.Typer(
    name="perdure",
    help="LLM agents in production, on Temporal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
application.add_typer(starting)
application.add_typer(servers)
application.add_typer(runs, name="runs", rich_help_panel="Look and decide")
application.add_typer(approvals, name="approvals", rich_help_panel="Look and decide")
application.add_typer(grants, name="grants", rich_help_panel="Look and decide")
application.add_typer(schedules, name="schedules", rich_help_panel="Start")
application.add_typer(audit, name="audit", rich_help_panel="Look and decide")
application.add_typer(agents, name="agents", rich_help_panel="Look and decide")
application.add_typer(keys, name="keys", rich_help_panel="Govern")
application.add_typer(deployments, name="deployments", rich_help_panel="Set up")
application.add_typer(replaying)
application.add_typer(using)
application.add_typer(encryption, name="encryption", rich_help_panel="Set up")
application.add_typer(policy, name="policy", rich_help_panel="Look and decide")


def main() -> NoReturn:
    """Run the command line and end the process."""
    leave(lambda: application(prog_name="perdure"))


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"perdure {version('perdure')}")
        raise typer.Exit


@application.callback()
def _perdure(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and end.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    del version
