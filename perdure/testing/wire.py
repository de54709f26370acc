"""What the three wire formats have in common: how a request is read, and what an answer consists of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from perdure.activities import Finish
from perdure.contracts import Usage
from perdure.messages import JsonObject, Message, ToolCallPart
from perdure.testing.prompt_cache import PromptCache
from perdure.testing.script import Turn

BYTES_PER_TOKEN = 4
MAX_PIECES = 16
"""Deltas that one text is streamed in, at most: enough to look like a stream, few enough to cost nothing."""
MIN_PIECE = 24


@dataclass(frozen=True)
class Answer:
    """A turn with everything that a wire format adds to it."""

    turn: Turn
    model: str
    key: str
    """Hex digest of the request; ids derive from it, so that a repeated request gets the same answer."""
    usage: Usage
    created: int
    """Seconds since the epoch."""

    @property
    def finish(self) -> Finish:
        """Why the model stops."""
        return self.turn.finish or (Finish.TOOL_CALLS if self.turn.calls else Finish.STOP)

    def id(self, prefix: str, index: int = 0) -> str:
        """Return an id in the vendor's form."""
        return prefix + hashlib.blake2b(f"{self.key}:{prefix}:{index}".encode(), digest_size=12).hexdigest()

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """The calls' arguments as text, in order."""
        return tuple(compact(call.arguments) if call.malformed is None else call.malformed for call in self.turn.calls)


@dataclass(frozen=True)
class StreamedAnswer:
    """An answer as server-sent events."""

    events: list[bytes]
    finish: list[bytes]
    """The last events, which mark the answer as complete."""


@dataclass(frozen=True)
class Problem:
    """Why the vendor refuses a request."""

    message: str
    code: str | None = None


class Wire(Protocol):
    """One vendor's format."""

    name: str
    finishes: Mapping[Finish, str]
    """The vendor's words for the reasons to stop that it knows."""

    def instructions(self, body: JsonObject) -> str:
        """Return the system prompt."""
        ...

    def tools(self, body: JsonObject) -> tuple[str, ...]:
        """Return the names of the tools offered."""
        ...

    def messages(self, body: JsonObject) -> Iterator[Message]:
        """Read the conversation."""
        ...

    def turns(self, body: JsonObject) -> int:
        """Count the model's replies in the conversation."""
        ...

    def objection(self, body: JsonObject) -> str | None:
        """Say what the vendor would refuse the conversation for; above all, calls that nobody answered."""
        ...

    def usage(self, body: JsonObject, size: int, turn: Turn, cache: PromptCache) -> Usage:
        """Estimate the tokens of a request of that many bytes and its answer, and have the cache see it."""
        ...

    def reply(self, answer: Answer) -> JsonObject:
        """Write the answer as one JSON object."""
        ...

    def stream(self, answer: Answer, body: JsonObject) -> StreamedAnswer:
        """Write the answer as events."""
        ...

    def error(self, status: int, problem: Problem) -> JsonObject:
        """Write an error's body."""
        ...

    def error_event(self, problem: Problem) -> bytes:
        """Write an error that comes after the answer has begun."""
        ...


def compact(value: Any) -> str:
    """Write JSON as the vendors do."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def event(data: JsonObject, *, name: str | None = None) -> bytes:
    """Write one server-sent event."""
    prefix = f"event: {name}\n" if name else ""
    return f"{prefix}data: {compact(data)}\n\n".encode("utf-8", "replace")


def pieces(text: str) -> Iterator[str]:
    """Cut a text into the pieces that it is streamed in; of an empty one there are none."""
    size = max(MIN_PIECE, -(-len(text) // MAX_PIECES))
    return (text[start : start + size] for start in range(0, len(text), size))


def output_tokens(turn: Turn) -> int:
    """Estimate the tokens of an answer; a vendor never bills an answer at zero."""
    calls = sum(len(call.name) + len(compact(call.arguments)) for call in turn.calls)
    return max(1, (len(turn.text.encode("utf-8", "replace")) + len(turn.thinking) + calls) // BYTES_PER_TOKEN)


def text_of(content: Any) -> str:
    """Join the text of a message's content, which is a string or a list of typed parts in every format."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or () if isinstance(part, dict))


def read_call(call_id: str, name: str, arguments: str) -> ToolCallPart:
    """Read a call whose arguments travel as text."""
    try:
        parsed: Any = json.loads(arguments or "{}")
    except ValueError:
        parsed = None
    if isinstance(parsed, dict):
        return ToolCallPart(id=call_id, name=name, arguments=parsed)
    return ToolCallPart(id=call_id, name=name, malformed=arguments)
