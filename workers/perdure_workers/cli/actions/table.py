"""Tables of names and numbers, for a terminal or another program to cut up."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console
from rich.text import Text

from perdure.figures import span


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], out: Console, *, total: bool = False) -> None:
    """Print rows under their heads, the first column left and the others right; with `total`, the last row is bold."""
    lines = [head, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    for place, cells in enumerate(lines):
        padded = [
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        style = "dim" if place == 0 else "bold" if total and place == len(lines) - 1 else ""
        out.print(Text("  ".join(padded).rstrip(), style=style), no_wrap=True, soft_wrap=not out.is_terminal)


def seconds(number: float | None) -> str:
    """Return a duration as people read it, or that there is none."""
    return "–" if number is None else span(timedelta(seconds=number))


def percent(share: float | None) -> str:
    """Return a part of 1 as people read it, or that there is none."""
    return "–" if share is None else f"{100 * share:.1f}%"
