"""A call's arguments that its tool declares as secret: masked for whoever looks on, put back where an editor left them.

A declaration is an argument's name, or a path into it: `card.number`. A list on the way stands for all its items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from perdure.messages import JsonObject
from perdure.secret_forms import MASK


def mask_arguments(arguments: JsonObject, secrets: Iterable[str]) -> JsonObject:
    """Return a call's arguments with those masked that its tool declares as secret."""
    for path in secrets:
        first, _, rest = path.partition(".")
        if first in arguments:
            arguments = {**arguments, first: _mask_path(arguments[first], rest)}
    return arguments


def unmask_arguments(arguments: JsonObject, original: JsonObject, secrets: Iterable[str]) -> JsonObject:
    """Return edited arguments with the original's values where the editor left a mask in place."""
    for path in secrets:
        first, _, rest = path.partition(".")
        if first in arguments and first in original:
            arguments = {**arguments, first: _unmask_path(arguments[first], original[first], rest)}
    return arguments


def secret_values(arguments: JsonObject, secrets: Iterable[str]) -> list[str]:
    """Return the texts and numbers that a call's secret arguments hold, as other texts would repeat them."""
    found: list[str] = []
    for path in secrets:
        _collect(arguments, path, found)
    return found


def is_declared(path: str, secrets: Iterable[str]) -> bool:
    """Whether what is at a path is secret, or holds or is within something that is."""
    return any(f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.") for one in secrets)


def _mask_path(value: Any, path: str) -> Any:
    if value is None:
        return None
    if not path:
        return MASK
    if isinstance(value, list):
        return [_mask_path(item, path) for item in value]
    first, _, rest = path.partition(".")
    if isinstance(value, dict):
        return {**value, first: _mask_path(value[first], rest)} if first in value else value
    return MASK  # not what the path expects: then nobody knows what it is


def _unmask_path(value: Any, original: Any, path: str) -> Any:
    if value == MASK:
        return original
    if isinstance(value, list) and isinstance(original, list) and path:
        # Only where nothing was added or removed is it known which item is which.
        pairs = zip(value, original, strict=True) if len(value) == len(original) else ()
        return [_unmask_path(item, before, path) for item, before in pairs] or value
    first, _, rest = path.partition(".")
    if path and isinstance(value, dict) and isinstance(original, dict) and first in value and first in original:
        return {**value, first: _unmask_path(value[first], original[first], rest)}
    return value


def _collect(value: Any, path: str, found: list[str]) -> None:
    match value:
        case dict() if path:
            first, _, rest = path.partition(".")
            if first in value:
                _collect(value[first], rest, found)
        case dict():
            for inner in value.values():
                _collect(inner, "", found)
        case list():
            for inner in value:
                _collect(inner, path, found)
        case str():
            found.append(value)
        case int() | float() if not isinstance(value, bool):
            found.append(str(value))
