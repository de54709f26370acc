"""A comparison as a table for people: a row a turn, the recorded run on the left, the what-if on the right."""

from __future__ import annotations

from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure_workers.plain_text import bill, block, call, line, money, tokens
from perdure_workers.whatif.comparison import ComparedRun, ComparedTurn, Comparison

MAX_TEXT = 200
MAX_ANSWER = 2_000
_SHOWN_INSTRUCTIONS = 60


def show(comparison: Comparison, console: Console) -> None:
    """Print both runs side by side, and where they parted."""
    before, after = comparison.recorded, comparison.what_if
    table = Table(show_lines=True, expand=True)
    table.add_column("turn", justify="right", no_wrap=True)
    table.add_column("recorded", ratio=1)
    table.add_column("what-if", ratio=1)
    table.add_row("model", line(before.model), line(after.model))
    if before.instructions != after.instructions:
        table.add_row("prompt", *(Text(line(run.instructions, _SHOWN_INSTRUCTIONS)) for run in (before, after)))
    parted = comparison.parted.turn if comparison.parted else 0
    for number, (left, right) in enumerate(zip_longest(before.turns, after.turns), 1):
        mark = Text(f"{number} ≠" if number == parted else str(number), style="bold yellow" if number == parted else "")
        table.add_row(mark, _turn(left), _turn(right))
    table.add_row("answer", *(_answer(run) for run in (before, after)))
    table.add_row("end", *(_end(run) for run in (before, after)))
    console.print(table)
    for remark, style in _remarks(comparison):
        console.print(Text(remark, style=style), soft_wrap=True)


def _turn(turn: ComparedTurn | None) -> Text:
    if turn is None:
        return Text("—", style="dim")
    lines = [Text(line(turn.text, MAX_TEXT))] if turn.text else []
    for made in turn.calls:
        lines.append(Text(call(made.tool, made.arguments), style="cyan"))
        result = f"  {made.status}" if made.result is None else f"  {line(made.result, MAX_TEXT)}"
        lines.append(Text(result, style="dim" if made.status == "completed" else "yellow"))
    lines.append(Text(f"{tokens(turn.usage)}  {money(turn.cost_usd)}", style="dim"))
    return Text("\n").join(lines)


def _answer(run: ComparedRun) -> Text:
    return Text("—", style="dim") if run.answer is None else Text(block(run.answer, max_characters=MAX_ANSWER))


def _end(run: ComparedRun) -> Text:
    totals = run.totals
    why = f"{run.error.type}: {run.error.message}" if run.error else run.reason
    steps = f"{totals.steps} steps: {totals.model_calls} model, {totals.tool_calls} tool"
    lines = [run.status, line(why, MAX_TEXT), steps, f"{tokens(totals.usage)}  {bill(totals)}"]
    return Text("\n".join(filter(None, lines)))


def _remarks(comparison: Comparison) -> list[tuple[str, str]]:
    remarks = []
    for unknown in comparison.unknown:
        recorded = ", ".join(call(unknown.tool, arguments) for arguments in unknown.recorded)
        known = f"; recorded: {recorded}" if recorded else ""
        remarks.append(
            (f"step {unknown.step}: {call(unknown.tool, unknown.arguments)}: {unknown.why}{known}", "bold yellow")
        )
    if comparison.unsaid:
        remarks.append((f"{comparison.unsaid} messages of people came later than the what-if ended", "yellow"))
    if comparison.parted:
        remarks.append((f"parted at turn {comparison.parted.turn}: {line(comparison.parted.why)}", "bold"))
    else:
        remarks.append(("the same calls in every turn", "green"))
    if comparison.recorded.answer is not None and comparison.what_if.answer is not None:
        remarks.append(("the same answer" if comparison.same_answer else "another answer", "bold"))
    return remarks
