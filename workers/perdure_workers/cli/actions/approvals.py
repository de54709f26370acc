"""`perdure approvals list`, `approve` and `reject`."""

from __future__ import annotations

import getpass
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from perdure.app import App
from perdure.errors import InvalidInputError, PerdureError
from perdure.figures import span
from perdure.oversight import PendingApproval
from perdure_api.schemas import BatchItem, Decided, DecisionRequest, InboxFilter
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import confirm, console, print_json
from perdure_workers.cli.actions.typed import typed
from perdure_workers.cli.ending import ExitCode
from perdure_workers.loading import load_at_hand
from perdure_workers.plain_text import call, line

NOTHING_WAITS = "nothing waits for a human"


@dataclass(frozen=True)
class Inbox:
    """Which approvals are meant, as it was typed."""

    agent: str | None
    tool: str | None
    user: str | None
    org: str | None
    role: str | None

    @property
    def filter(self) -> InboxFilter:
        """The filter.

        Raises:
            InvalidInputError: It cannot be one.
        """
        return typed(InboxFilter, vars(self))


async def list_approvals(inbox: Inbox, *, as_json: bool, address: str | None) -> None:
    """Print what waits for a human, over all runs."""
    async with open_gateway(address=address) as gateway:
        waiting = await gateway.approvals.pending(inbox.filter)
    if as_json:
        print_json(waiting)
    elif waiting:
        print_pending([(approval.run_id, approval) for approval in waiting], console())
    else:
        console().print(NOTHING_WAITS if inbox.filter == InboxFilter() else "nothing that passes this filter waits")


async def decide_many(
    inbox: Inbox,
    decision: Literal["approve", "reject"],
    *,
    by: str | None,
    reason: str,
    yes: bool,
    address: str | None,
) -> ExitCode | None:
    """Decide on everything in the inbox, each by itself, and say what became of each.

    Questions about lost calls and about money are left out: each has an answer of its own.
    """
    wanted = inbox.filter.model_copy(update={"kind": "call"})
    out = console()
    async with open_gateway(address=address) as gateway:
        waiting = await gateway.approvals.pending(wanted)
        if not waiting:
            out.print(NOTHING_WAITS)
            return None
        print_pending([(approval.run_id, approval) for approval in waiting], out)
        if not yes and not confirm(f"{decision} these {len(waiting)}?"):
            raise InvalidInputError("nothing was decided; --yes decides without asking")
        name = by or getpass.getuser()
        request = {"decision": decision, "decided_by": name, "reason": reason}
        items = [
            typed(
                BatchItem,
                {**request, "run_id": one.run_id, "approval_id": one.approval_id, "digest": one.digest},
            )
            for one in waiting
        ]
        outcomes = await gateway.approvals.decide_many(items)
    refused = [outcome for outcome in outcomes if isinstance(outcome, PerdureError)]
    for item, outcome in zip(items, outcomes, strict=True):
        failed = f"{item.approval_id} of run {item.run_id}: {outcome}"
        said = failed if isinstance(outcome, PerdureError) else _done(outcome, name)
        out.print(said, soft_wrap=True, markup=False)
    return ExitCode.REFUSED if refused else None


async def approve(
    run_id: str,
    approval_id: str,
    *,
    by: str | None,
    reason: str,
    arguments: str | None,
    outcome: Literal["done", "retry"] | None,
    result: str | None,
    grant: str | None,
    amount: str | None,
    app: str | None,
    address: str | None,
) -> None:
    """Let a call run, say what became of a lost one, or allow more money.

    With the app at hand, edited arguments are checked first.

    Raises:
        InvalidInputError: `arguments` or `result` is not what it must be.
        PerdureError: There is no such run or approval, or it is decided.
    """
    await _decide(
        run_id,
        approval_id,
        {
            "decision": "approve",
            "decided_by": by,
            "reason": reason,
            "arguments": _json("--arguments", arguments),
            "outcome": outcome,
            "result": _json("--result", result),
            "grant": grant,
            "amount_usd": amount,
        },
        app=load_at_hand(app) if arguments is not None else None,
        address=address,
    )


async def reject(run_id: str, approval_id: str, *, by: str | None, reason: str, address: str | None) -> None:
    """Refuse a call, give up a lost one, or allow no more money.

    Raises:
        PerdureError: There is no such run or approval, or it is decided.
    """
    await _decide(
        run_id, approval_id, {"decision": "reject", "decided_by": by, "reason": reason}, app=None, address=address
    )


def print_pending(waiting: Sequence[tuple[str, PendingApproval]], out: Console) -> None:
    """Print questions to a human, each with the command that answers it."""
    now = datetime.now(UTC)
    for run_id, approval in waiting:
        out.print(Text("? ", style="bold yellow").append(_question(approval)), soft_wrap=True)
        details = [f"step {approval.step}, asked {span(now - approval.asked_at)} ago"]
        details += _requirement(approval, now)
        if approval.reason:
            details.append(line(approval.reason))
        out.print(Text(f"  {'; '.join(details)}", style="dim"), soft_wrap=True)
        decision = {"call": "", "outcome": " --outcome done|retry", "budget": " --amount USD"}[approval.kind]
        out.print(
            Text(f"  perdure approvals approve {run_id} {approval.approval_id}{decision}", style="cyan"),
            soft_wrap=True,
        )


async def _decide(
    run_id: str, approval_id: str, decision: dict[str, Any], *, app: App | None, address: str | None
) -> None:
    name = decision["decided_by"] or getpass.getuser()
    request = typed(DecisionRequest, {**decision, "decided_by": name})
    async with open_gateway(address=address, app=app) as gateway:
        decided = await gateway.approvals.decide(run_id, approval_id, request)
    console().print(_done(decided, name), soft_wrap=True, markup=False)


def _done(decided: Decided, by: str) -> str:
    done = "approved" if decided.decision == "approve" else "rejected"
    said = f"{done} {decided.approval_id} of run {decided.run_id} as {by}"
    if not decided.confirmed:
        return f"{said}; no worker has taken it yet, it is stored with the run"
    return f"{said}; {decided.missing} more must approve" if decided.missing else said


def _question(approval: PendingApproval) -> str:
    match approval.kind:
        case "call":
            return f"may it run: {call(approval.tool, approval.arguments)}"
        case "outcome":
            return f"what became of {call(approval.tool, approval.arguments)}"
        case "budget":
            return f"may it spend more than the budget {line(str(approval.arguments.get('budget')))!r} has?"


def _requirement(approval: PendingApproval, now: datetime) -> Iterator[str]:
    """Say who must decide, how many of them, and what happens if they do not."""
    requirement = approval.requirement
    if requirement.approvers:
        yield f"by {line(' or '.join(requirement.approvers))}"
    if requirement.quorum > 1:
        so_far = f", so far {line(', '.join(vote.by for vote in approval.votes))}" if approval.votes else ""
        yield f"{requirement.quorum} people{so_far}"
    if approval.not_from:
        yield f"not by {line(', '.join(approval.not_from))}"
    if approval.edited_by:
        yield f"arguments changed by {line(approval.edited_by)}"
    if approval.deadline:
        ends = {"reject": "rejected", "escalate": "escalates", "fail": "fails the run"}[requirement.on_deadline]
        yield f"{ends} in {span(approval.deadline - now)}"


def _json(option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{option} {text!r} is not JSON: {error}") from error
