"""`perdure agents`: how agents do."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console

from perdure_api.health_schemas import AgentHealth, HealthFilter
from perdure_api.run_statistics import RunStatistics
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.table import percent, print_table, seconds
from perdure_workers.cli.actions.typed import typed
from perdure_workers.plain_text import line, money

_HEAD: Final = ("version", "runs", "success", "p50", "p95", "tools failed", "cost")


async def show_health(name: str, wanted: dict[str, Any], *, as_json: bool, address: str | None) -> None:
    """Print how an agent's latest runs went."""
    filters = typed(HealthFilter, wanted)
    async with open_gateway(address=address) as gateway:
        found = await gateway.health.of(name, filters)
    if as_json:
        print_json(found)
    else:
        _print_health(found, console())


def _print_health(found: AgentHealth, out: Console) -> None:
    if found.ended:
        rows = [_row(line(version), of) for version, of in found.versions.items()]
        print_table(_HEAD, [*rows, _row("all", found.statistics)], out, total=True)
        ends = ", ".join(f"{count} {status}" for status, count in found.statistics.statuses.items())
        out.print(f"ends: {ends}", style="dim", soft_wrap=True)
    else:
        out.print(f"no run of {line(found.agent)} ended in this time", soft_wrap=True)
    out.print(f"open now: {found.open}, of them waiting for a human: {found.waiting}", style="dim", soft_wrap=True)
    if found.truncated:
        out.print(f"{found.ended:,} runs ended; these are the latest {found.statistics.runs:,}", style="yellow")


def _row(name: str, of: RunStatistics) -> tuple[str, ...]:
    at_least = "≥ " if of.unpriced_runs else ""
    cost = money(None) if of.unpriced_runs == of.runs else f"{at_least}{money(of.cost_usd)}"
    tools = f"{percent(of.tool_failure_rate)} of {of.tool_calls:,}" if of.tool_calls else "–"
    durations = (seconds(of.duration_p50_seconds), seconds(of.duration_p95_seconds))
    return (name, f"{of.runs:,}", percent(of.success_rate), *durations, tools, cost)
