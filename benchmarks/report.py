"""What a benchmark found: figures, each with its goal and a verdict, as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One line of a table."""

    what: str
    value: float
    unit: str = ""
    """As in `ms` or `×`."""
    goal: float | None = None
    """The most that it may be; None for a figure that only informs."""

    @property
    def met(self) -> bool:
        """Whether the goal is met, if there is one."""
        return self.goal is None or self.value <= self.goal

    def cells(self) -> tuple[str, ...]:
        """Return what the table says of it."""
        verdict = "" if self.goal is None else "met" if self.met else "**missed**"
        return self.what, self._number(self.value), "" if self.goal is None else f"≤ {self._number(self.goal)}", verdict

    def _number(self, value: float) -> str:
        digits = 0 if value == int(value) or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
        separator = "" if self.unit in ("×", "") else " "
        return f"{value:,.{digits}f}{separator}{self.unit}"


@dataclass(frozen=True)
class Report:
    """What one benchmark found."""

    name: str
    method: str
    """What was run, in a sentence or two."""
    figures: Sequence[Figure]

    @property
    def met(self) -> bool:
        """Whether every goal is met."""
        return all(figure.met for figure in self.figures)

    def markdown(self) -> str:
        """Return it as a section."""
        rows = (figure.cells() for figure in self.figures)
        return f"## {self.name}\n\n{self.method}\n\n" + table(("figure", "value", "goal", "verdict"), rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; all columns but the first are numbers."""
    lines = [list(head), ["---", *("---:" for _ in head[1:])], *map(list, rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
