"""The patterns of output guards: which are taken, and how they are compiled.

They are compiled by `regex`, which can give up after a time, lets other threads run meanwhile, and can tell whether a
text may still become a match. For that a match must depend on its own text alone, so lookaround, anchors and back
references are refused; of a repeat within a repeat, without an upper bound on either, nobody knows how long it takes.
"""

from __future__ import annotations

import re
import warnings
from functools import lru_cache
from typing import Final

import regex

_QUANTIFIER: Final = re.compile(r"[*+?]|\{(\d*)(,?)(\d*)\}")
_GROUP: Final = re.compile(r"\((\?(?:P<\w+>|[aimsu]*:|>|#[^)]*)|(?!\?))")
_FLAGS: Final = re.compile(r"\(\?[aimsu]+\)")
_CLASS: Final = re.compile(r"\[\^?\]?(?:[^\]\\]|\\.)*\]")
_BOUNDARY: Final = re.compile(rf"{_CLASS.pattern}|\\.")


@lru_cache(maxsize=512)
def compiled(pattern: str) -> regex.Pattern[str]:
    """Return a guard's pattern, compiled.

    Raises:
        ValueError: It cannot be used; the message says why.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            re.compile(pattern)
    except (re.error, Warning, OverflowError, RecursionError) as error:
        raise ValueError(f"it is no regular expression: {error}") from error
    _check_constructs(pattern)
    try:
        if unbound(pattern).fullmatch("") is not None:
            raise ValueError("it matches the empty text, and so everywhere")
        return regex.compile(pattern)
    except regex.error as error:
        raise ValueError(f"it is no regular expression: {error}") from error


@lru_cache(maxsize=512)
def unbound(pattern: str) -> regex.Pattern[str]:
    """Return a guard's pattern without its word boundaries; it matches wherever the pattern does or may yet do.

    `regex` regards the end of a text as known: there it decides on a boundary, whatever may follow.
    """
    return regex.compile(_BOUNDARY.sub(_without, pattern))


def _without(escape: re.Match[str]) -> str:
    return "(?:)" if escape[0] in (r"\b", r"\B") else escape[0]


def _check_constructs(pattern: str) -> None:
    unbounded = [False]  # for each open group: whether it holds a repeat without an upper bound
    atom = False  # whether the last item does
    place = 0
    while place < len(pattern):
        rest = pattern[place : place + 2]
        if rest[0] == "\\":
            _check_escape(rest)
            atom, step = False, 2
        elif rest[0] == "[":
            found = _CLASS.match(pattern, place)
            atom, step = False, found.end() - place if found else 1
        elif rest[0] == "(":
            step = _group_length(pattern, place)
            if not _FLAGS.match(pattern, place):
                unbounded.append(False)
        elif rest[0] == ")" and len(unbounded) > 1:
            atom, step = unbounded.pop(), 1
            unbounded[-1] |= atom
        elif rest[0] in "^$":
            raise ValueError(f"{rest[0]!r} depends on where the text begins or ends, and an answer comes in pieces")
        elif quantifier := _QUANTIFIER.match(pattern, place):
            step = len(quantifier[0])
            if quantifier[0] in "*+" or (quantifier[2] and not quantifier[3]):
                if atom:
                    raise ValueError(
                        "a repeat without an upper bound holds another one; give one of them a bound, {1,50}"
                    )
                unbounded[-1] = atom = True
                # `+?` and `++` say how, not how often.
                step += pattern[place + step : place + step + 1] in ("?", "+")
        else:
            atom, step = False, 1
        place += step


def _check_escape(escape: str) -> None:
    if escape[1] in "AZ":
        raise ValueError(f"{escape!r} depends on where the text begins or ends, and an answer comes in pieces")
    if escape[1] in "123456789":
        raise ValueError(f"the back reference {escape!r} depends on what came before")


def _group_length(pattern: str, place: int) -> int:
    if flags := _FLAGS.match(pattern, place):
        return len(flags[0])
    group = _GROUP.match(pattern, place)
    if group is None:
        raise ValueError(f"{pattern[place : place + 4]!r} is not taken: it looks at what is around the match")
    if group[0].startswith("(?#"):
        raise ValueError("comments are not taken")
    return len(group[0])
