"""Output guards as authors write them: what must not leave in an answer, and what becomes of an answer that has it."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field

from perdure.messages import Frozen
from perdure.secret_forms import PLAIN_FORMS

MAX_GUARDS: Final = 32


class Guard(Frozen):
    """A pattern that must not leave in an answer; part of an agent, pinned with it in the run's history."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """What masks, errors and records call it."""
    pattern: str = Field(min_length=1, max_length=4000)
    """A regular expression as Python's `re` has them, without lookaround, anchors and back references; see
    `perdure.guard_pattern`. `(?i)` at its beginning ignores case."""
    action: Literal["mask", "block"] = "mask"
    """`mask`: what matches is replaced by `[masked: NAME]`. `block`: the run fails with the error `output_blocked`."""

    @property
    def mask(self) -> str:
        """What stands in the place of what matched."""
        return f"[masked: {self.name}]"


KEYS: Final = Guard(
    name="keys",
    pattern="|".join(
        [
            *PLAIN_FORMS,
            r"sk-(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,}",
            r"\bA(?:KIA|SIA)[A-Z0-9]{16}\b",
            r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
            r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----[A-Za-z0-9+/=\s:,]{0,8000}"
            r"(?:-----END [A-Z0-9 ]{0,60}-----)?",
        ]
    ),
)
"""Masks vendors' tokens, JWTs and private keys."""
