"""Declares `policy …`: explain a decision of the policy, and hold it against a table of cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AppOption, JsonOption

policy = typer.Typer(no_args_is_help=True, help="Explain and test the policy.")

PolicyOption = Annotated[
    Path | None,
    typer.Option(
        "--policy",
        metavar="FILE",
        help="The policy. Default: PERDURE_POLICY, then the app's own.",
        show_default=False,
    ),
]


@policy.command()
def check(
    agent: Annotated[
        str,
        typer.Option(metavar="AGENT", help="Who would call: the agent's name, or NAME@VERSION.", show_default=False),
    ],
    tool: Annotated[str, typer.Option(metavar="TOOL", help="What would be called.", show_default=False)],
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE", help="A role of whoever starts the run. Repeatable.", show_default=False),
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="USER", help="On whose behalf the run is.", show_default=False)
    ] = None,
    arguments: Annotated[
        str, typer.Option("--args", metavar="JSON", help="The call's arguments.", show_default=False)
    ] = "{}",
    policy_file: PolicyOption = None,
    as_json: JsonOption = False,
    app: AppOption = None,
) -> None:
    """Explain what the policy says of a call, rule by rule. Nothing is called."""
    from perdure_workers.cli.actions.policy import Question, explain

    question = Question(agent=agent, tool=tool, roles=tuple(role or ()), user=user, arguments=arguments)
    execute(explain(question, policy=policy_file, as_json=as_json, app=app))


@policy.command("test")
def hold_against(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The cases, in YAML or TOML.", show_default=False)],
    policy_file: PolicyOption = None,
    as_json: JsonOption = False,
    app: AppOption = None,
) -> None:
    """Hold the policy against a table of cases; fail if one comes out otherwise."""
    from perdure_workers.cli.actions.policy import run_table

    execute(run_table(file, policy=policy_file, as_json=as_json, app=app))
