"""An argument of a call, as a dotted path names it: its value, and what the tool's schema says of how it is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from perdure.messages import JsonObject
from perdure.reading import Verdict, some

_MAX_ALTERNATIVES: Final = 200
_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


@dataclass(frozen=True)
class ArgumentType:
    """What a schema says of an argument."""

    taken: Verdict = None
    """Whether the tool takes an argument of that name; None: the schema does not say."""
    types: frozenset[str] = frozenset()
    """JSON's names of what it may be, null left out; none: the schema does not say."""
    text_format: str = ""
    """The format of a text that can be written in several ways, such as `date-time`, `uuid` or `json`."""
    choices: tuple[Any, ...] | None = None
    """All that it may be, if that is a list."""

    @property
    def reads_numbers(self) -> bool:
        """Whether a text is read as the number that it looks like. A decimal's schema is `number` or `string`."""
        return "number" in self.types or self.types == {"integer"}

    @property
    def takes_numbers(self) -> bool:
        """Whether a number is taken as one, as far as is known; in a date's place it would be seconds."""
        return not self.types or bool(self.types & {"number", "integer"})

    @property
    def is_text(self) -> bool:
        """Whether a text is taken as it stands."""
        return self.types == {"string"} and not self.text_format


UNKNOWN: Final = ArgumentType()


@dataclass(frozen=True)
class Argument:
    """An argument of a call."""

    value: Any
    """None if it is not given, or null."""
    given: Verdict
    """None: it is null, or something else is in its place, which the tool may make something of."""
    type: ArgumentType = field(default=UNKNOWN)


def find_argument(arguments: JsonObject, path: str, *, schema: JsonObject) -> Argument:
    """Return the argument at a dotted path.

    Args:
        arguments: Of the call.
        path: `amount`, or `customer.country` for a field of an argument.
        schema: JSON schema of the tool's arguments; an empty one says nothing.
    """
    value: Any = arguments
    given: Verdict = True
    for name in path.split("."):
        if isinstance(value, dict):
            given = (True if value[name] is not None else None) if name in value else False
            value = value.get(name)
        else:
            value, given = None, given if given is False else None
    return Argument(value, given, argument_type(schema, path))


def argument_type(schema: JsonObject, path: str) -> ArgumentType:
    """Return what a tool's schema says of the argument at a dotted path."""
    taken: Verdict = True
    nodes = list(_alternatives(schema, schema))
    for name in path.split("."):
        inner = [_property(node, name) for node in nodes]
        taken = some([seen for _, seen in inner]) if taken is not False else False
        nodes = [one for found, _ in inner if found is not None for one in _alternatives(found, schema)]
    return _described(nodes, taken) if taken is not False else ArgumentType(taken=False)


def argument_names(schema: JsonObject) -> tuple[str, ...]:
    """Return the names of the arguments that a schema lists."""
    return tuple(name for node in _alternatives(schema, schema) for name in node.get("properties", {}))


def _property(node: JsonObject, name: str) -> tuple[JsonObject | None, Verdict]:
    """Return the schema of a property, and whether it is one."""
    properties, others = node.get("properties", {}), node.get("additionalProperties")
    if name in properties:
        return properties[name] if isinstance(properties[name], dict) else {}, True
    if isinstance(others, dict):
        return others, None
    holds_more = "type" not in node or "object" in _types(node) or "contentMediaType" in node
    return None, None if holds_more and others is not False else False


def _described(nodes: list[JsonObject], taken: Verdict) -> ArgumentType:
    types = [_types(node) for node in nodes]
    texts = [node for node in nodes if "string" in _types(node)]
    formats = [str(node.get("format") or "json") for node in texts if "format" in node or "contentMediaType" in node]
    choices = [_choices(node) for node in nodes if _types(node) != {"null"}]
    return ArgumentType(
        taken=taken,
        types=frozenset().union(*types) - {"null"} if nodes and all(types) else frozenset(),
        text_format=next(iter(formats), ""),
        choices=tuple(one for several in choices for one in several or ()) if choices and None not in choices else None,
    )


def _choices(node: JsonObject) -> list[Any] | None:
    return [node["const"]] if "const" in node else node.get("enum")


def _types(node: JsonObject) -> set[str]:
    declared = node.get("type")
    if isinstance(declared, str):
        return {declared}
    if isinstance(declared, list):
        return {str(one) for one in declared}
    return {_TYPES.get(type(value), "object") for value in _choices(node) or ()}


def _alternatives(node: JsonObject, root: JsonObject) -> Iterator[JsonObject]:
    """Yield what a schema may stand for: references followed, unions taken apart."""
    pending, seen = [node], 0
    while pending and seen < _MAX_ALTERNATIVES:
        one = pending.pop()
        seen += 1
        if isinstance(reference := one.get("$ref"), str):
            pending.append(_resolved(reference, root))
            continue
        parts = [part for key in ("anyOf", "oneOf", "allOf") for part in one.get(key, ()) if isinstance(part, dict)]
        if parts:
            pending += parts
        else:
            yield one
    if pending:
        yield {}


def _resolved(reference: str, root: JsonObject) -> JsonObject:
    node: Any = root
    for name in reference.removeprefix("#/").split("/"):
        node = node.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}
