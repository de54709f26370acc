"""`perdure approvals list`, `approve` and `reject`."""

from __future__ import annotations

import getpass
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from perdure.app import App
from perdure.contracts import PendingApproval
from perdure.errors import AppLoadError, InvalidInputError
from perdure.settings import load_settings
from perdure_api.schemas import DecisionRequest, InboxFilter
from perdure_workers.cli.actions.connection import gateway
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.loading import load_here
from perdure_workers.plain_text import call, line, span


async def list_approvals(*, as_json: bool, address: str | None) -> None:
    """Print what waits for a human, over all runs."""
    async with gateway(address=address) as runs:
        waiting = await runs.approvals(InboxFilter())
    if as_json:
        print_json(waiting)
    elif waiting:
        print_pending([(approval.run_id, approval) for approval in waiting], console())
    else:
        console().print("nothing waits for a human")


async def approve(
    run_id: str,
    approval_id: str,
    *,
    by: str | None,
    reason: str,
    arguments: str | None,
    outcome: Literal["done", "retry"] | None,
    result: str | None,
    app: str | None,
    address: str | None,
) -> None:
    """Let a call run, or say what became of a lost one. With the app at hand, edited arguments are checked first.

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
        },
        app=_app_at_hand(app) if arguments is not None else None,
        address=address,
    )


async def reject(run_id: str, approval_id: str, *, by: str | None, reason: str, address: str | None) -> None:
    """Refuse a call, or give up a lost one.

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
        question = "what became of" if approval.kind == "outcome" else "may it run:"
        out.print(
            Text("? ", style="bold yellow").append(f"{question} {call(approval.tool, approval.arguments)}"),
            soft_wrap=True,
        )
        details = [f"step {approval.step}, asked {span(now - approval.asked_at)} ago"]
        if approval.deadline:
            details.append(f"rejected in {span(approval.deadline - now)}")
        if approval.reason:
            details.append(line(approval.reason))
        out.print(Text(f"  {'; '.join(details)}", style="dim"), soft_wrap=True)
        decision = "--outcome done|retry " if approval.kind == "outcome" else ""
        out.print(
            Text(f"  perdure approvals approve {run_id} {approval.approval_id} {decision}".rstrip(), style="cyan"),
            soft_wrap=True,
        )


async def _decide(
    run_id: str, approval_id: str, decision: dict[str, Any], *, app: App | None, address: str | None
) -> None:
    try:
        request = DecisionRequest.model_validate(
            {**decision, "decided_by": decision["decided_by"] or getpass.getuser()}
        )
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InvalidInputError(f"{'.'.join(str(place) for place in problem['loc'])}: {problem['msg']}") from error
    async with gateway(address=address, app=app) as runs:
        decided = await runs.decide(run_id, approval_id, request)
    done = "approved" if decided.decision == "approve" else "rejected"
    stored = "" if decided.confirmed else "; no worker has taken it yet, it is stored with the run"
    console().print(
        f"{done} {approval_id} of run {run_id} as {request.decided_by}{stored}", soft_wrap=True, markup=False
    )


def _app_at_hand(reference: str | None) -> App | None:
    """Return the app; None if none was named and none is installed, as where only people work who decide."""
    settings = load_settings(app=reference)
    try:
        return load_here(settings)
    except AppLoadError:
        if settings.app:
            raise
        return None


def _json(option: str, text: str | None) -> Any:
    if text is None:
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"{option} {text!r} is not JSON: {error}") from error
