"""`perdure runs feedback`: what people think of a run, given, listed, taken back."""

from __future__ import annotations

import getpass
from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from perdure.feedback import Feedback
from perdure_api.feedback_schemas import FeedbackRequest
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.typed import typed
from perdure_workers.plain_text import line, money


async def feedback(
    run_id: str, opinion: Mapping[str, Any], *, withdraw: bool, by: str | None, as_json: bool, address: str | None
) -> None:
    """Keep an opinion on a run, take it back, or print those that there are.

    Raises:
        PerdureError: There is no such run, or something was typed that cannot be.
    """
    name = by or getpass.getuser()
    given = any(value not in (None, "") for value in opinion.values())
    request = typed(FeedbackRequest, {**opinion, "by": name}) if given else None
    async with open_gateway(address=address) as gateway:
        if withdraw:
            await gateway.feedback.withdraw(run_id, by=name)
            console().print(f"forgot what {name} said about run {run_id}", soft_wrap=True, markup=False)
            return
        found = [await gateway.feedback.give(run_id, request)] if request else await gateway.feedback.list(run_id)
    if as_json:
        print_json(found[0] if request else list(found))
    elif found:
        print_feedback(found, console())
    else:
        console().print("nobody has given feedback on this run")


def print_feedback(found: Iterable[Feedback], out: Console) -> None:
    """Print one line for each opinion."""
    for each in found:
        score = "–" if each.score is None else f"{each.score:g}"
        cost = f" ({money(each.cost_usd)})" if each.cost_usd is not None else ""
        said = f": {line(each.comment)}" if each.comment else ""
        out.print(Text(f"{score} by {line(each.by)}{cost}{said}"), soft_wrap=True)
