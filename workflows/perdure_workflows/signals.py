"""Reading what a signal brings: it can be anything, and nobody is there to be refused."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel, ValidationError
    from temporalio.contrib.pydantic import pydantic_data_converter

NO_PAYLOAD = RawValue(Payload())
"""What a signal sent without any payload is taken to bring."""
MAX_QUOTED = 200
"""Characters of a sender's text that a record repeats."""

M = TypeVar("M", bound=BaseModel)


def read_signal(payload: RawValue, model: type[M]) -> M:
    """Read a signal's payload.

    Raises:
        ValueError: It is no such model; the message says why.
    """
    try:
        content: Any = pydantic_data_converter.payload_converter.from_payload(payload.payload)
    except Exception as error:  # a signal's payload can be anything, and so can its converter's complaint
        raise ValueError(f"the payload is not readable: {type(error).__name__}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the payload must be an object, not {json.dumps(content, default=str)[:MAX_QUOTED]}")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(place) for place in problem['loc'])}: {problem['msg']}" for problem in error.errors()
        )
        raise ValueError(f"the payload is malformed: {problems}") from error
