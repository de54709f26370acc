"""JSON as it crosses the wire: bytes out that every server can decode, values in that every payload can carry.

A model may write half a surrogate pair, NaN or a thousand nested lists. Neither UTF-8 nor pydantic carries these, so
they are dealt with here, where they come in, and not by the run that would fail on them at its next step.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable
from typing import Any, Final

from perdure.messages import JsonObject

MAX_NESTING: Final = 64
"""Deeper arguments count as malformed; pydantic does not read 200 levels back, those around them included."""

_NOT_IN_NAMES: Final = re.compile(r"[^a-zA-Z0-9_-]")


def to_json(value: object) -> bytes:
    """Serialise compactly as UTF-8; what UTF-8 cannot carry becomes `?`."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8", "replace")


def joined(items: Iterable[object]) -> bytes:
    """Serialise items as `Provider.encode` returns them: joined by commas, without brackets."""
    return b",".join(to_json(item) for item in items)


def clean_text(text: str) -> str:
    """Join surrogate pairs that arrived as two halves, and replace lone halves by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def clean(value: Any) -> Any:
    """Return a JSON value with every text in it cleaned."""
    match value:
        case str():
            return clean_text(value)
        case dict():
            return {clean_text(name): clean(item) for name, item in value.items()}
        case list():
            return [clean(item) for item in value]
        case _:
            return value


def parse_arguments(raw: str) -> JsonObject | None:
    """Read a tool call's arguments; None when they are no JSON object that a payload could carry."""
    if not raw.strip():
        return {}
    try:
        value = json.loads(raw, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or _nesting(value, limit=MAX_NESTING) > MAX_NESTING:
        return None
    cleaned: JsonObject = clean(value)
    return cleaned


def plain(name: str) -> str:
    """Replace what providers take in no name: all but ASCII letters, digits, `_` and `-`."""
    return _NOT_IN_NAMES.sub("_", name)


def tool_name(name: str) -> str:
    """Return a name that a provider takes back; models make up ones that it refuses in the next request."""
    return plain(name)[:64] or "unknown"


def call_id(id_: str, *, limit: int) -> str:
    """Return the id of a call, or another in place of one that is longer than its reader takes.

    Args:
        id_: As the server that made the call wrote it.
        limit: The most characters of the server that reads it.
    """
    return id_ if len(id_) <= limit else hashlib.blake2b(id_.encode("utf-8", "replace"), digest_size=16).hexdigest()


def count(value: object) -> int:
    """Read a number of tokens; 0 for whatever is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def text_of(value: object) -> str:
    """Read a text; empty for whatever is none."""
    return value if isinstance(value, str) else ""


def object_of(value: object) -> JsonObject:
    """Read an object; empty for whatever is none."""
    return value if isinstance(value, dict) else {}


def objects_of(value: object) -> list[JsonObject]:
    """Read a list of objects; empty for whatever is none."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} is larger than a float")
    return number


def _nesting(value: object, *, limit: int) -> int:
    """Count levels of nesting, breadth first, and no further than one past the limit."""
    level, depth = [value], 0
    while level and depth <= limit:
        containers = [item for item in level if isinstance(item, dict | list)]
        level = [inner for item in containers for inner in (item.values() if isinstance(item, dict) else item)]
        depth += bool(containers)
    return depth
