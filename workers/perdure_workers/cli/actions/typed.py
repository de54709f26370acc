"""What was typed, as a model; what does not fit it, as one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from perdure.errors import InvalidInputError

M = TypeVar("M", bound=BaseModel)


def typed(model: type[M], values: Mapping[str, Any]) -> M:
    """Return the values as a model.

    Raises:
        InvalidInputError: One does not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InvalidInputError(f"{'.'.join(str(place) for place in problem['loc'])}: {problem['msg']}") from error
