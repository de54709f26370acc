"""Patterns of policies, with `*`, `?` and `[…]`: over names, which are what they are, and over what a model wrote."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from functools import lru_cache
from typing import Final

from perdure.reading import MAX_COMPARED, Verdict, folded, same_text

ANYTHING: Final = "*"
_CLIMBS: Final = re.compile(r"(?:^|[/:]|%2f|%5c|%3a)(?:\.|%2e){1,2}(?:$|/|%2f|%5c)")
"""A path's step to where it is or to what holds it, as in `/data/../etc`."""


def is_pattern(text: str) -> bool:
    """Whether a text matches more than itself."""
    return any(one in text for one in "*?[")


def matches_name(pattern: str, name: str) -> bool:
    """Match the name of a role, an agent or a tool: no model decides how these are written."""
    return pattern in (ANYTHING, name) or (is_pattern(pattern) and _compiled(pattern).match(name) is not None)


def matches_any_name(patterns: Iterable[str], name: str) -> bool:
    """Whether one of the patterns matches a name."""
    return any(matches_name(pattern, name) for pattern in patterns)


def matches_text(pattern: str, text: str) -> Verdict:
    """Match what a model wrote; None if its tool may read it as a text that would be matched otherwise.

    That is so of a text that would match in another case or with other spaces, of one that climbs out of a path that a
    pattern names (`/data/../etc`), and of one too long to be looked into.
    """
    if pattern == ANYTHING:
        return True
    if not is_pattern(pattern):
        return same_text(text, pattern)
    if len(text) > MAX_COMPARED or _CLIMBS.search(folded(text)):
        return None
    if _compiled(pattern).match(text):
        return True
    return None if _compiled(folded(pattern)).match(folded(text)) else False


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))
