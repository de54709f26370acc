"""What a cached result is found by: the tool as it is, who asks, and the arguments, so that nobody gets another's."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import timedelta

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from perdure.messages import JsonObject


@dataclass(frozen=True)
class Caching:
    """How a tool's results are kept."""

    ttl: timedelta
    """How old a result may be."""
    version: str
    """Changes when the same arguments are to be answered otherwise."""


def cache_key(
    *,
    tool: str,
    version: str,
    schema: JsonObject,
    tenant: tuple[str | None, ...],
    given: JsonObject,
    arguments: BaseModel,
) -> str:
    """Return the key of a call's result.

    Args:
        tool: The tool's name.
        version: Of the tool.
        schema: Of its arguments: a tool that takes others is another tool.
        tenant: Whatever of the caller the result may depend on.
        given: The arguments as the model wrote them.
        arguments: The same, validated.
    """
    content = [tool, version, schema, tenant, _canonical(arguments, given)]
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _canonical(arguments: BaseModel, given: JsonObject) -> JsonObject:
    """Return the arguments in one form, however they were written; as they were written if that form loses anything.

    Two calls must not share a key because a type writes itself as `**********`, or not at all.
    """
    try:
        written = arguments.model_dump(mode="json", by_alias=True, warnings=False)
        if type(arguments).model_validate_json(json.dumps(written)) == arguments:
            return written
    except (PydanticSerializationError, ValidationError, ValueError, TypeError):
        pass
    return given
