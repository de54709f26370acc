"""Declares `approvals …`: the inbox over all runs, and the decisions."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from perdure_workers.cli.ending import execute
from perdure_workers.cli.options import AddressOption, AppOption, ByOption, JsonOption, RunArgument

approvals = typer.Typer(no_args_is_help=True, help="See what waits for a human, and decide.")

ApprovalArgument = Annotated[
    str, typer.Argument(metavar="APPROVAL", help="The approval's id, as listed.", show_default=False)
]
ReasonOption = Annotated[str, typer.Option(help="Kept with the decision.", show_default=False)]


@approvals.command("list")
def list_approvals(as_json: JsonOption = False, address: AddressOption = None) -> None:
    """List the approvals that are pending, over all runs."""
    from perdure_workers.cli.actions.approvals import list_approvals

    execute(list_approvals(as_json=as_json, address=address))


@approvals.command()
def approve(
    run_id: RunArgument,
    approval_id: ApprovalArgument,
    by: ByOption = None,
    reason: ReasonOption = "",
    arguments: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Run the call with these arguments instead.", show_default=False),
    ] = None,
    outcome: Annotated[
        Literal["done", "retry"] | None,
        typer.Option(help="For a call whose outcome is unknown: it took effect, or try again.", show_default=False),
    ] = None,
    result: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="With --outcome done: what the tool returned.", show_default=False),
    ] = None,
    app: AppOption = None,
    address: AddressOption = None,
) -> None:
    """Let a call run, or say what became of a lost one."""
    from perdure_workers.cli.actions.approvals import approve

    execute(
        approve(
            run_id,
            approval_id,
            by=by,
            reason=reason,
            arguments=arguments,
            outcome=outcome,
            result=result,
            app=app,
            address=address,
        )
    )


@approvals.command()
def reject(
    run_id: RunArgument,
    approval_id: ApprovalArgument,
    by: ByOption = None,
    reason: Annotated[str, typer.Option(help="The model hears it.", show_default=False)] = "",
    address: AddressOption = None,
) -> None:
    """Refuse a call, or give up a lost one; the run goes on and the model hears why."""
    from perdure_workers.cli.actions.approvals import reject

    execute(reject(run_id, approval_id, by=by, reason=reason, address=address))
