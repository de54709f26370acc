"""How a model is named: `provider:model`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator


def _checked(value: str) -> str:
    provider, separator, name = value.partition(":")
    if not separator or not name or not re.fullmatch(r"[a-z][a-z0-9_-]*", provider):
        raise ValueError(
            f"{value!r} is not a model reference; write 'provider:model', as in 'anthropic:claude-sonnet-5-5'"
        )
    return value


ModelReference = Annotated[str, AfterValidator(_checked)]
