"""What people, models and tools wrote, as it may stand in an audit: one short line, without secrets.

Personal data is another stage, which an auditor applies if it is asked for.
"""

from __future__ import annotations

from typing import Final

from perdure.redaction import SECRETS

MAX_WORDS: Final = 300
"""Characters of a text that a record keeps."""
MAX_NAME: Final = 255
_READ: Final = 8
"""So many times as much of a text is looked at, so that no secret is cut in two before it is found."""


def brief(text: str, limit: int = MAX_WORDS) -> str:
    """Return a text's beginning as one line: secrets masked, white space collapsed, control characters left out."""
    return _line(SECRETS.redact(text[: _READ * limit]), limit, whole=len(text) <= _READ * limit)


def name(text: str) -> str:
    """Return what something or somebody is called, as it may stand in a record; names are taken as they are."""
    return _line(text[: _READ * MAX_NAME], MAX_NAME, whole=len(text) <= _READ * MAX_NAME)


def _line(text: str, limit: int, *, whole: bool) -> str:
    shown = "".join(one for one in " ".join(text.split()) if one.isprintable())
    return shown if whole and len(shown) <= limit else f"{shown[: limit - 1]}…"
