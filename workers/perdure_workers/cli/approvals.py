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


AgentOption = Annotated[str | None, typer.Option(help="Only of this agent.", show_default=False)]
ToolOption = Annotated[str | None, typer.Option(help="Only calls of this tool.", show_default=False)]
UserOption = Annotated[str | None, typer.Option(help="Only of runs for this user.", show_default=False)]
OrgOption = Annotated[str | None, typer.Option(help="Only of this organisation.", show_default=False)]


@approvals.command("list")
def list_approvals(
    agent: AgentOption = None,
    tool: ToolOption = None,
    user: UserOption = None,
    org: OrgOption = None,
    role: Annotated[
        str | None, typer.Option(help="Only what holders of this role may decide.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
    address: AddressOption = None,
) -> None:
    """List the approvals that are pending, over all runs, the oldest first."""
    from perdure_workers.cli.actions.approvals import Inbox, list_approvals

    inbox = Inbox(agent=agent, tool=tool, user=user, org=org, role=role)
    execute(list_approvals(inbox, as_json=as_json, address=address))


@approvals.command("decide")
def decide_many(
    decision: Annotated[
        Literal["approve", "reject"], typer.Argument(help="What to do with all of them.", show_default=False)
    ],
    agent: AgentOption = None,
    tool: ToolOption = None,
    user: UserOption = None,
    org: OrgOption = None,
    by: ByOption = None,
    reason: ReasonOption = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether these are the right ones.")] = False,
    address: AddressOption = None,
) -> None:
    """Decide on all pending approvals that pass a filter, after showing them."""
    from perdure_workers.cli.actions.approvals import Inbox, decide_many

    inbox = Inbox(agent=agent, tool=tool, user=user, org=org, role=None)
    execute(decide_many(inbox, decision, by=by, reason=reason, yes=yes, address=address))


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
    grant: Annotated[
        str | None,
        typer.Option(
            metavar="TERM",
            help="Approve this tool on this resource for calls to come as well: 'run', or a time such as 1h.",
            show_default=False,
        ),
    ] = None,
    amount: Annotated[
        str | None,
        typer.Option(metavar="USD", help="For a budget: how much is added to it.", show_default=False),
    ] = None,
    app: AppOption = None,
    address: AddressOption = None,
) -> None:
    """Let a call run, say what became of a lost one, or allow more money."""
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
            grant=grant,
            amount=amount,
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
