"""`perdure usage`: what was used and what it cost, and how budgets stand."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from perdure.figures import span
from perdure_api.usage import as_csv
from perdure_api.usage_schemas import BudgetStanding, Dimension, UsageFilter, UsageReport, UsageTotal
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.typed import typed
from perdure_workers.plain_text import line, money

MAX_BUDGETS: Final = 20
_NUMBERS: Final = ("calls", "input", "cached", "output", "cost")
_NEARLY: Final = Decimal("0.9")
"""The part of a budget from which on it is shown as nearly used up."""


async def show_usage(wanted: dict[str, Any], *, csv: bool, as_json: bool, address: str | None) -> None:
    """Print a report."""
    filters = typed(UsageFilter, wanted)
    async with open_gateway(address=address) as gateway:
        report = await gateway.usage.report(filters)
    if as_json:
        print_json(report)
    elif csv:
        sys.stdout.write(as_csv(report))
    else:
        _print_report(report, console())
    if not report.complete and not as_json:
        orgs = ", ".join(repr(org) if org else "runs without an organisation" for org in report.silent_orgs)
        console(stderr=True).print(
            f"what was used today is missing, as no worker answers: {line(orgs)}", style="yellow", soft_wrap=True
        )


def _print_report(report: UsageReport, out: Console) -> None:
    if not report.items:
        out.print("nothing was used in this period")
    else:
        rows = [
            (*(_name(getattr(item, dimension), dimension) for dimension in report.group_by), *_numbers(item))
            for item in report.items
        ]
        blank = ("total", *("" for _ in report.group_by[1:]))
        _print_table((*report.group_by, *_NUMBERS), [*rows, (*blank, *_numbers(report.total))], out)
    if report.budgets:
        out.print()
        _print_budgets(report.budgets, out)


def _print_budgets(budgets: Sequence[BudgetStanding], out: Console) -> None:
    now = datetime.now(UTC)
    for standing in budgets[:MAX_BUDGETS]:
        whose = "" if standing.subject == "org" else f" of {line(standing.subject)}"
        org = f" ({line(standing.org)})" if standing.org else ""
        reserved = f", {money(standing.reserved_usd)} reserved" if standing.reserved_usd else ""
        said = (
            f"budget {line(standing.budget)}{whose}{org}, {standing.period}: {money(standing.spent_usd)} of "
            f"{money(standing.cap_usd)} spent{reserved}; begins anew in {span(standing.resets_at - now)}"
        )
        nearly = standing.spent_usd >= standing.cap_usd * _NEARLY
        out.print(Text(said, style="bold yellow" if nearly else ""), soft_wrap=True)
    if len(budgets) > MAX_BUDGETS:
        out.print(f"and {len(budgets) - MAX_BUDGETS} more, which --json prints", style="dim")
    out.print("runs that a budget stopped: perdure runs list --status out_of_budget", style="dim", soft_wrap=True)


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]], out: Console) -> None:
    lines = [head, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    names = len(head) - len(_NUMBERS)
    for place, cells in enumerate(lines):
        padded = [
            cell.ljust(width) if column < names else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        style = "dim" if place == 0 else "bold" if place == len(lines) - 1 else ""
        out.print(Text("  ".join(padded).rstrip(), style=style), no_wrap=True, soft_wrap=not out.is_terminal)


def _name(value: str | None, dimension: Dimension) -> str:
    return line(value) if value else f"(no {dimension})"


def _numbers(total: UsageTotal) -> tuple[str, ...]:
    cached = "" if total.cached_share is None else f"{100 * total.cached_share:.0f}%"
    unknown = total.unpriced_calls == total.calls
    cost = money(None) if unknown else money(total.cost_usd)
    at_least = "≥ " if total.unpriced_calls and not unknown else ""
    return (f"{total.calls:,}", f"{total.input_tokens:,}", cached, f"{total.output_tokens:,}", f"{at_least}{cost}")
