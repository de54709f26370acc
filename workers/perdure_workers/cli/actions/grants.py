"""`perdure grants list` and `revoke`."""

from __future__ import annotations

import getpass
from collections.abc import Iterable
from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from perdure.figures import span
from perdure.grant import Grant
from perdure_api.schemas import GrantFilter, RevokeRequest
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.typed import typed
from perdure_workers.plain_text import line


async def list_grants(
    *, agent: str | None, tool: str | None, user: str | None, org: str | None, as_json: bool, address: str | None
) -> None:
    """Print the standing grants that pass the filter.

    Raises:
        InvalidInputError: A filter cannot be one.
    """
    wanted = typed(GrantFilter, {"agent": agent, "tool": tool, "user": user, "org": org})
    async with open_gateway(address=address) as gateway:
        found = await gateway.grants.list(wanted)
    if as_json:
        print_json(found)
    elif found:
        print_grants(found, console())
    else:
        console().print("no grant stands")


async def revoke_grant(grant_id: str, *, run_id: str | None, by: str | None, reason: str, address: str | None) -> None:
    """End a grant.

    Raises:
        PerdureError: There is no such grant or run, or it has ended.
    """
    request = typed(RevokeRequest, {"by": by or getpass.getuser(), "reason": reason})
    async with open_gateway(address=address) as gateway:
        if run_id is None:
            await gateway.grants.revoke(grant_id, request)
        else:
            await gateway.grants.revoke_for_run(run_id, grant_id, request)
    done = f"asked run {run_id} to forget" if run_id else "revoked"
    console().print(f"{done} {grant_id}", soft_wrap=True, markup=False)


def print_grants(found: Iterable[Grant], out: Console) -> None:
    """Print grants, each with the command that revokes it."""
    now = datetime.now(UTC)
    for grant in found:
        what = f"{line(grant.tool)} on {line(grant.resource)}" if grant.resource else line(grant.tool)
        whose = f" for {line(grant.user)}" if grant.user else ""
        out.print(Text("✓ ", style="green").append(f"{what}, by agent {line(grant.agent)}{whose}"), soft_wrap=True)
        left = f"{span(grant.expires_at - now)} left" if grant.expires_at else f"for run {grant.run_id}"
        said = f": {line(grant.reason)}" if grant.reason else ""
        details = f"granted by {line(', '.join(grant.granted_by))}{said}; {left}"
        out.print(Text(f"  {details}", style="dim"), soft_wrap=True)
        run = f" --run {grant.run_id}" if grant.expires_at is None else ""
        out.print(Text(f"  perdure grants revoke {grant.grant_id}{run}", style="cyan"), soft_wrap=True)
