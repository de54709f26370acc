"""What OpenAI's two formats share: the form of an error, and automatic caching."""

from __future__ import annotations

from typing import Final

from perdure.contracts import Usage
from perdure.messages import JsonObject
from perdure.testing.prompt_cache import Block, PromptCache
from perdure.testing.script import Turn
from perdure.testing.wire import BYTES_PER_TOKEN, Problem, output_tokens

CACHE_MINIMUM: Final = 1024
CACHE_STEP: Final = 128
"""OpenAI caches prefixes from 1,024 tokens on, in steps of 128."""


def openai_error(status: int, problem: Problem) -> JsonObject:
    """Write an error's body."""
    kind = "server_error" if status >= 500 else "requests" if status == 429 else "invalid_request_error"
    return {"error": {"message": problem.message, "type": kind, "param": None, "code": problem.code}}


def openai_usage(body: JsonObject, items: list[JsonObject], *, size: int, turn: Turn, cache: PromptCache) -> Usage:
    """Estimate tokens: the longest beginning that came before with the same key counts as cached.

    Args:
        body: The request.
        items: Its conversation.
        size: Its bytes.
        turn: The answer.
        cache: Beginnings of earlier requests.
    """
    head = [Block({"tools": body.get("tools"), "instructions": body.get("instructions")})]
    scope = f"openai {body.get('model')} {body.get('prompt_cache_key')}"
    found = cache.longest([*head, *map(Block, items)], scope=scope)
    total = max(1, size // BYTES_PER_TOKEN)
    known = min(total, found.known // BYTES_PER_TOKEN)
    cached = known // CACHE_STEP * CACHE_STEP if known >= CACHE_MINIMUM else 0
    return Usage(input_tokens=total, cache_read_tokens=cached, output_tokens=output_tokens(turn))
