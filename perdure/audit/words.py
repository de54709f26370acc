"""What people, models and tools wrote, as it may stand in an audit: one short line, and redacted."""

from __future__ import annotations

from typing import Final

MAX_WORDS: Final = 300
"""Characters of a text that a record keeps."""
MAX_NAME: Final = 255


def brief(text: str, limit: int = MAX_WORDS) -> str:
    """Return a text's beginning as one line: white space collapsed, control characters left out."""
    beginning = " ".join(text[: 4 * limit].split())
    shown = "".join(one for one in beginning if one.isprintable())
    return f"{shown[: limit - 1]}…" if len(shown) > limit or len(text) > 4 * limit else shown


def name(text: str) -> str:
    """Return what something or somebody is called, as it may stand in a record."""
    return brief(text, MAX_NAME)
