"""The strings and JSON values that callers may send: what Temporal, a terminal or a log cannot take is refused."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import AfterValidator, GetCoreSchemaHandler, GetJsonSchemaHandler, StringConstraints
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from perdure.messages import JsonObject

RUN_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"
APPROVAL_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$"

GRANT_ID_PATTERN = r"^perdure-grant:[0-9a-f]{32}$"
SCHEDULE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class _Pattern:
    """A pattern that the schema shows to programs, and whose refusal tells people in words what would be right."""

    def __init__(self, pattern: str, otherwise: str) -> None:
        self._pattern = re.compile(pattern)
        self._otherwise = otherwise

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "pattern": self._pattern.pattern}

    def _check(self, text: str) -> str:
        if not self._pattern.fullmatch(text):
            raise ValueError(self._otherwise)
        return text


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
    StringConstraints(min_length=1, max_length=255),
    _Pattern(r"^[^\x00-\x1f\x7f-\x9f]+$", "holds a line break or another control character; write one plain line"),
    AfterValidator(_encodable),
    AfterValidator(_not_blank),
]
"""One line without control characters, short enough for a search attribute."""

SearchKey = Annotated[
    str,
    StringConstraints(min_length=1, max_length=255),
    _Pattern(
        r"""^[^\x00-\x1f\x7f-\x9f"\\']([^\x00-\x1f\x7f-\x9f"\\]*[^\x00-\x1f\x7f-\x9f"\\'])?$""",
        "runs cannot be found by it; write one line without control characters, double quotes and backslashes, and "
        "without an apostrophe at either end",
    ),
    AfterValidator(_encodable),
    AfterValidator(_not_blank),
]
"""A line that runs are found by. Temporal's list filters cannot express a double quote, a backslash, or an apostrophe
at either end: they are refused, as such a filter would find nothing, or other runs."""

_PLAIN = _Pattern(
    r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*$",
    "holds a control character such as NUL; of these only tabs and line breaks are text",
)

Text = Annotated[str, _PLAIN, AfterValidator(_encodable)]
"""Text of several lines without other control characters."""

Input = Annotated[str, StringConstraints(min_length=1), _PLAIN, AfterValidator(_encodable), AfterValidator(_not_blank)]
"""What a user asks."""

Arguments = Annotated[JsonObject, AfterValidator(_plain_json)]
"""A call's arguments."""

JsonValue = Annotated[Any, AfterValidator(_plain_json)]
"""Any JSON."""
