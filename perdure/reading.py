"""How a tool may read what a model wrote: as it stands, without its spaces and case, as a number.

Policies compare texts before the tool's own validation has seen them. Two texts that differ may then turn out to be the
same, so a comparison has three answers: yes, no, and that it cannot be told.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final

Verdict = bool | None
"""None: it cannot be told."""

MAX_COMPARED: Final = 8 * 1024
"""Characters of a text that is looked into: a run's own code must not take seconds over what a model wrote."""
_MAX_DIGITS: Final = 1000
_SLASHES: Final = re.compile(r"[/\\]+")


def every(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the conjunction: one False decides, and else what cannot be told leaves the whole untold."""
    found: Verdict = True
    for verdict in verdicts:
        if verdict is False:
            return False
        if verdict is None:
            found = None
    return found


def some(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the disjunction: one True decides, and else what cannot be told leaves the whole untold."""
    return negated(every(negated(verdict) for verdict in verdicts))


def negated(verdict: Verdict) -> Verdict:
    """Return the opposite; of what cannot be told, the opposite cannot be told either."""
    return None if verdict is None else not verdict


def same_text(text: str, wanted: str) -> Verdict:
    """Compare texts; those that differ in case, spaces, punctuation or a number's form alone cannot be told apart."""
    if text == wanted:
        return True
    if len(text) > MAX_COMPARED:
        return None
    alike = _letters(text) == _letters(wanted)
    return None if alike or _same_number(number_of(text), number_of(wanted)) else False


def number_of(value: Any) -> Decimal | None:
    """Read a number, or a text as one; None if it is none, or not finite."""
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        return None
    if isinstance(value, str) and len(value) > _MAX_DIGITS:
        return None
    try:
        number = Decimal(value) if isinstance(value, int) else Decimal(str(value).strip())
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def is_canonical_integer(text: str) -> bool:
    """Whether a text is an integer as one writes it: `42`, and not `042`, `+42`, `4_2` or `42.0`."""
    return re.fullmatch(r"0|-?[1-9][0-9]{0,99}", text) is not None


@lru_cache(maxsize=256)
def folded(text: str) -> str:
    """Return a text without what its tool may overlook: case, spaces, accents, invisible characters, lookalikes."""
    if text.isascii():
        shown = text.casefold() if text.isprintable() else "".join(one for one in text.casefold() if one.isprintable())
    else:
        # To upper case first: some letters have no case to fold, but share a capital, as the dotless i does with i.
        apart = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).upper().casefold())
        shown = "".join(one for one in apart if unicodedata.category(one)[0] not in "CM")
    return _SLASHES.sub("/", "".join(shown.split()))


@lru_cache(maxsize=256)
def _letters(text: str) -> str:
    return "".join(one for one in folded(text) if one.isalnum())


def _same_number(one: Decimal | None, other: Decimal | None) -> bool:
    return one is not None and one == other
