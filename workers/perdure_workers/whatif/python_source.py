"""Values as Python source, laid out as formatters lay it out: on one line if it fits, else an item a line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

WIDTH: Final = 100
"""Columns that are used at most."""
_PIECE: Final = 72
"""Characters of one line of a long text."""


@dataclass(frozen=True)
class CallTo:
    """A call of a function."""

    name: str
    given: Sequence[Any] = ()
    named: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Name:
    """Source that stays as it is."""

    source: str


def source(value: object, *, margin: int = 0, before: int = 0) -> str:
    """Write a value.

    Args:
        value: JSON, tuples, calls and names.
        margin: Columns that its line is indented by.
        before: Columns that the line holds before it.
    """
    flat = _flat(value)
    if margin + before + len(flat) <= WIDTH and "\n" not in flat:
        return flat
    match value:
        case str():
            return _lines("(", [_text(value, margin + 4)], ")", margin)
        case CallTo():
            given = [_text(one, margin + 4) if isinstance(one, str) else _item("", one, margin) for one in value.given]
            named = [_item(f"{name}=", one, margin) for name, one in value.named.items()]
            comma = "" if len(given) == 1 and not named and isinstance(value.given[0], str) else ","
            return _lines(f"{value.name}(", [*given, *named], ")", margin, comma=comma)
        case list():
            return _lines("[", [_item("", one, margin) for one in value], "]", margin, comma=",")
        case tuple():
            return _lines("(", [_item("", one, margin) for one in value], ")", margin, comma=",")
        case dict():
            items = [_item(f"{_flat(key)}: ", one, margin) for key, one in value.items()]
            return _lines("{", items, "}", margin, comma=",")
    return flat


def _item(prefix: str, value: object, margin: int) -> str:
    return prefix + source(value, margin=margin + 4, before=len(prefix) + 1)


def _lines(begin: str, items: Sequence[str], end: str, margin: int, *, comma: str = "") -> str:
    if not items:
        return begin + end
    inner = " " * (margin + 4)
    return "\n".join([begin, *(f"{inner}{item}{comma}" for item in items), " " * margin + end])


def _flat(value: object) -> str:
    match value:
        case str():
            return _quoted(value)
        case Name():
            return value.source
        case CallTo():
            named = [f"{name}={_flat(one)}" for name, one in value.named.items()]
            return f"{value.name}({', '.join([*map(_flat, value.given), *named])})"
        case list():
            return f"[{', '.join(map(_flat, value))}]"
        case tuple():
            return f"({', '.join(map(_flat, value))}{',' if len(value) == 1 else ''})"
        case dict():
            return f"{{{', '.join(f'{_flat(key)}: {_flat(one)}' for key, one in value.items())}}}"
    return repr(value)


def _text(text: str, margin: int) -> str:
    """Write a long text as pieces that stand below one another."""
    pieces = [
        piece
        for line in text.splitlines(keepends=True)
        for piece in re.findall(rf".{{1,{_PIECE}}}(?:\s|$)|.{{1,{_PIECE}}}|\n", line, re.DOTALL)
    ]
    return (
        ("\n" + " " * margin).join(_quoted(piece) for piece in pieces) if len(_quoted(text)) > _PIECE else _quoted(text)
    )


def _quoted(text: str) -> str:
    # repr spells out what is not printable, which could show what is not there.
    written = repr(text)
    return f'"{written[1:-1]}"' if written[0] == "'" and '"' not in text else written
