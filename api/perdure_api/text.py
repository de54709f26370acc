"""The strings and JSON values that callers may send: what Temporal, a terminal or a log cannot take is refused."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, StringConstraints

from perdure.messages import JsonObject

RUN_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"
APPROVAL_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank; say something, or leave the field out")
    return text


def _encodable(text: str) -> str:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError("holds half a surrogate pair, which is no Unicode text") from error
    return text


def _plain_json(value: Any) -> Any:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half a surrogate pair, which is no Unicode text") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("is not plain JSON: NaN, infinite or nested too deep") from error
    return value


Line = Annotated[
    str,
    StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$"),
    AfterValidator(_encodable),
    AfterValidator(_not_blank),
]
"""One line without control characters, short enough for a search attribute."""

SearchKey = Annotated[
    str,
    StringConstraints(
        min_length=1,
        max_length=255,
        pattern=r"""^[^\x00-\x1f\x7f-\x9f"\\']([^\x00-\x1f\x7f-\x9f"\\]*[^\x00-\x1f\x7f-\x9f"\\'])?$""",
    ),
    AfterValidator(_encodable),
    AfterValidator(_not_blank),
]
"""A line that runs are found by. Temporal's list filters cannot express a double quote, a backslash, or an apostrophe
at either end: they are refused, as such a filter would find nothing, or other runs."""

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$"), AfterValidator(_encodable)]
"""Text of several lines without other control characters."""

Input = Annotated[Text, StringConstraints(min_length=1), AfterValidator(_not_blank)]
"""What a user asks."""

Arguments = Annotated[JsonObject, AfterValidator(_plain_json)]
"""A call's arguments."""

JsonValue = Annotated[Any, AfterValidator(_plain_json)]
"""Any JSON."""
