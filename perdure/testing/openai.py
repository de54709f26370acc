"""What OpenAI's two formats share: the form of an error, and automatic caching."""

from __future__ import annotations

from typing import Final

from perdure.contracts import Usage
from perdure.messages import JsonObject
from perdure.testing.script import Turn
from perdure.testing.wire import BYTES_PER_TOKEN, Problem, compact, output_tokens

CACHE_MINIMUM: Final = 1024
CACHE_STEP: Final = 128
"""OpenAI caches prefixes from 1,024 tokens on, in steps of 128."""


def openai_error(status: int, problem: Problem) -> JsonObject:
    """Write an error's body."""
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
    return {"error": {"message": problem.message, "type": kind, "param": None, "code": problem.code}}


def openai_usage(*, size: int, fresh: list[JsonObject], first: bool, turn: Turn) -> Usage:
    """Estimate tokens: what was in the conversation before the last reply counts as cached."""
    total = max(1, size // BYTES_PER_TOKEN)
    prefix = 0 if first else max(0, total - sum(len(compact(item)) for item in fresh) // BYTES_PER_TOKEN)
    cached = prefix // CACHE_STEP * CACHE_STEP if prefix >= CACHE_MINIMUM else 0
    return Usage(input_tokens=total, cache_read_tokens=cached, output_tokens=output_tokens(turn))
