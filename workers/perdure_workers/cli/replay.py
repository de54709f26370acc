"""Declares `replay`, for one run, and `verify-histories`, for many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, JsonOption

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
    model: Annotated[
        str | None,
        typer.Option(metavar="PROVIDER:MODEL", help="What if: another model had been asked.", show_default=False),
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What if: the agent had had these instructions.", show_default=False),
    ] = None,
    on_unknown: Annotated[
        Literal["stop", "error"] | None,
        typer.Option(
            help="At a call that the run did not make: stop (the default), or answer it with an error and go on.",
            show_default=False,
        ),
    ] = None,
    max_cost: Annotated[
        str | None,
        typer.Option(metavar="USD", help="What the what-if may cost. Default: 5.", show_default=False),
    ] = None,
    save_test: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the what-if as a test for pytest.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Run a run again, here: its own code against its history, or with another model or prompt on its tool results.

    Without --model and --prompt-file it says whether today's code still makes the decisions that the history holds.
    With one of them the agent is asked again, no tool is called, and the two runs are shown side by side.
    """
    if model is None and prompt_file is None:
        if on_unknown or max_cost or save_test or as_json:
            raise typer.BadParameter(
                "--on-unknown, --max-cost, --save-test and --json go with --model or --prompt-file"
            )
        from perdure_workers.cli.actions.replay import replay_run

        execute(replay_run(run, pdb_step=pdb, address=address))
    if pdb is not None:
        raise typer.BadParameter("--pdb is for a replay of what was, without --model and --prompt-file")
    from perdure_workers.cli.actions.whatif import Question, replay_what_if

    question = Question(
        model=model,
        prompt_file=prompt_file,
        on_unknown=on_unknown or "stop",
        max_cost=max_cost,
        save_test=save_test,
    )
    execute(replay_what_if(run, question, as_json=as_json, address=address))


@replaying.command("verify-histories", rich_help_panel="Look and decide")
def verify_histories(
    sample: Annotated[int, typer.Option(min=1, metavar="N", help="Replay so many.")] = 100,
    since: Annotated[str, typer.Option(metavar="TIME", help="Those that are open, or ended within this time.")] = "7d",
    query: Annotated[
        str,
        typer.Option(
            metavar="FILTER",
            help="Only those that pass this list filter of Temporal's: \"PerdureAgent = 'support'\".",
            show_default=False,
        ),
    ] = "",
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="DIR", help="Replay the files of this folder, without a server."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write the histories here, in plain text.", show_default=False),
    ] = None,
    require: Annotated[int, typer.Option(min=0, metavar="N", help="Fail if fewer were found.")] = 0,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """Replay a sample of production's histories with this code, before it is deployed; fail if it departs from one.

    The sample has some of each workflow, agent, version and state, and not only the newest.
    """
    from perdure_workers.cli.actions.verification import Sample, verify_histories

    chosen = Sample(count=sample, since=since, query=query, source=source)
    execute(verify_histories(chosen, out=out, require=require, as_json=as_json, address=address))
