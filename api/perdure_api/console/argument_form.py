"""Arguments of a call as a form: one field for each, after the tool's JSON schema, and back into arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from perdure.errors import InvalidInputError
from perdure.messages import JsonObject

PREFIX = "argument."
"""Of the fields' names in the form."""
LONG = 60
"""Characters from which on a text gets several lines."""


@dataclass(frozen=True)
class Field:
    """One argument to be looked at, and changed."""

    name: str
    kind: Literal["text", "long", "number", "flag", "choice", "json"]
    value: str
    choices: tuple[str, ...] = ()
    description: str = ""


def fields(arguments: JsonObject, schema: JsonObject | None) -> list[Field]:
    """Return the fields of a call's arguments, and of those that the tool knows besides.

    Args:
        arguments: The call's.
        schema: Of the tool's arguments; None: each is shown as what it is.
    """
    known: Mapping[str, Any] = (schema or {}).get("properties", {})
    names = [*arguments, *(name for name in known if name not in arguments)]
    return [_field(name, arguments.get(name), known.get(name, {}), given=name in arguments) for name in names]


def read(form: Mapping[str, object], arguments: JsonObject, schema: JsonObject | None) -> JsonObject:
    """Return the arguments that a form brings; a field that was left as it was keeps its exact value.

    Raises:
        InvalidInputError: A value is not of its kind.
    """
    read: JsonObject = {}
    for field in fields(arguments, schema):
        sent = form.get(PREFIX + field.name)
        text = sent.replace("\r\n", "\n") if isinstance(sent, str) else ("false" if field.kind == "flag" else None)
        if text is None or text == field.value:
            if field.name in arguments:
                read[field.name] = arguments[field.name]
        elif text or field.name in arguments:
            read[field.name] = _value(field, text)
    return read


def _field(name: str, value: Any, schema: Mapping[str, Any], *, given: bool) -> Field:
    kind = schema.get("type")
    description = str(schema.get("description", ""))
    choices = schema.get("enum")
    if isinstance(choices, list) and all(isinstance(choice, str) for choice in choices):
        known = (*choices, *([value] if isinstance(value, str) and value not in choices else []))
        return Field(name, "choice", value if isinstance(value, str) else "", ("", *known), description)
    if isinstance(value, bool) or (not given and kind == "boolean"):
        return Field(name, "flag", json.dumps(bool(value)), (), description)
    if isinstance(value, int | float) or (not given and kind in ("integer", "number")):
        return Field(name, "number", json.dumps(value) if given else "", (), description)
    if isinstance(value, str) or (not given and kind == "string"):
        text = value or ""
        return Field(name, "long" if "\n" in text or len(text) > LONG else "text", text, (), description)
    return Field(name, "json", json.dumps(value, ensure_ascii=False, indent=2) if given else "", (), description)


def _value(field: Field, text: str) -> Any:
    if field.kind in ("text", "long", "choice"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        wanted = "a number" if field.kind == "number" else "JSON"
        raise InvalidInputError(f"{field.name} is {text[:80]!r}, which is not {wanted}") from error
