"""`perdure agents compare`: an agent's versions side by side."""

from __future__ import annotations

from typing import Any, Final

from rich.console import Console

from perdure_api.comparison_schemas import ComparisonFilter, Scores, VersionComparison, VersionRecord
from perdure_workers.cli.actions.connection import open_gateway
from perdure_workers.cli.actions.output import console, print_json
from perdure_workers.cli.actions.table import percent, print_table, seconds
from perdure_workers.cli.actions.typed import typed
from perdure_workers.loading import load_at_hand
from perdure_workers.plain_text import line, money

_HEAD: Final = ("version", "runs", "success", "95 % interval", "p50", "p95", "tools failed", "cost a run", "feedback")


async def compare_versions(
    name: str, wanted: dict[str, Any], *, as_json: bool, app: str | None, address: str | None
) -> None:
    """Print how an agent's versions did.

    Raises:
        PerdureError: Something was typed that cannot be, nobody knows the agent, or no server answers.
    """
    filters = typed(ComparisonFilter, wanted)
    async with open_gateway(address=address, app=load_at_hand(app)) as gateway:
        found = await gateway.comparisons.of(name, filters)
    if as_json:
        print_json(found)
    else:
        print_comparison(found, console())


def print_comparison(found: VersionComparison, out: Console) -> None:
    """Print a line for each version, and whether one does better."""
    scorers = sorted({name for version in found.versions for name in version.scorers})
    print_table(
        (*_HEAD, *map(line, scorers)),
        [(*_row(version), *(_scores(version.scorers.get(name)) for name in scorers)) for version in found.versions],
        out,
    )
    out.print(line(found.verdict), soft_wrap=True, markup=False)
    for version in found.versions:
        if version.ended > version.statistics.runs:
            said = f"{version.ended:,} runs of {line(version.version)} ended; {version.statistics.runs:,} are compared"
            out.print(said, style="yellow", soft_wrap=True, markup=False)


def _row(version: VersionRecord) -> tuple[str, ...]:
    of, success = version.statistics, version.success
    tools = f"{percent(of.tool_failure_rate)} of {of.tool_calls:,}" if of.tool_calls else "–"
    cost = "–" if not of.runs else money(version.cost_mean_usd)
    return (
        line(version.version),
        f"{of.runs:,}",
        percent(of.success_rate),
        "–" if success is None else f"{percent(success.low)} to {percent(success.high)}",
        seconds(of.duration_p50_seconds),
        seconds(of.duration_p95_seconds),
        tools,
        cost,
        _scores(version.feedback),
    )


def _scores(scores: Scores | None) -> str:
    return "–" if scores is None else f"{scores.mean:.2f} of {scores.count:,}"
