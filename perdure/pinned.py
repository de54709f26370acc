"""Documents that are pinned in the history of every run: they take the room of what was written, and no more."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, SerializerFunctionWrapHandler, model_serializer

from perdure.messages import Frozen


class Pinned(Frozen):
    """A part of such a document. A field that nobody knows is a mistake, and told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_serializer(mode="wrap")
    def _written(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the fields at their default: of an operator's twelve, a condition has one or two."""
        left_out = {
            key
            for name, field in type(self).model_fields.items()
            if not field.is_required() and getattr(self, name) == field.get_default(call_default_factory=True)
            for key in (name, field.serialization_alias)
        }
        return {name: value for name, value in serialise(self).items() if name not in left_out}
