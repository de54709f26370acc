"""The transcript's vocabulary: what user, model and tools say in a run, in no provider's dialect.

Whatever a provider needs back untouched and nobody else understands (signed thinking, encrypted reasoning) travels
as an `OpaquePart`; another provider leaves it out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

JsonObject = dict[str, Any]

EMPTY_DIGEST = ""
"""The digest of a transcript without messages."""


def is_empty(value: object) -> bool:
    """Whether a field says nothing: history leaves it out."""
    return not value


class Frozen(BaseModel):
    """A value that travels: immutable, and tolerant of fields that a newer version added."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class TextPart(Frozen):
    """Words of the model."""

    type: Literal["text"] = "text"
    text: str


class ToolCallPart(Frozen):
    """The model's wish to call a tool."""

    type: Literal["tool_call"] = "tool_call"
    id: str
    """The provider's id of the call; unique in its reply only, as some servers count from zero each time."""
    name: str
    arguments: JsonObject = Field(default_factory=dict)
    malformed: str | None = None
    """The arguments as sent, when they are no JSON object; such a call is answered, never run."""


class OpaquePart(Frozen):
    """Something only its provider understands and wants back unchanged."""

    type: Literal["opaque"] = "opaque"
    wire: str
    """The wire format that it belongs to."""
    data: JsonObject


Part = Annotated[TextPart | ToolCallPart | OpaquePart, Field(discriminator="type")]


class ToolResult(Frozen):
    """The answer to one tool call."""

    call_id: str
    """The provider's id of the call that this answers."""
    content: str
    is_error: bool = False
    denied_by: str = Field(default="", exclude_if=is_empty)
    """The policy's rule that refused the call; not told to the model but in the content."""


class UserMessage(Frozen):
    """What the user, or the runtime on the user's behalf, says."""

    role: Literal["user"] = "user"
    text: str


class AssistantMessage(Frozen):
    """One reply of the model."""

    role: Literal["assistant"] = "assistant"
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The reply's words, joined."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        """The calls that the reply asks for, in order."""
        return tuple(part for part in self.parts if isinstance(part, ToolCallPart))


class ToolMessage(Frozen):
    """The results of all calls of one reply, in the order of the calls."""

    role: Literal["tool"] = "tool"
    results: tuple[ToolResult, ...]


Message = Annotated[UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]

MESSAGE: TypeAdapter[Message] = TypeAdapter(Message)


def canonical(message: Message) -> bytes:
    """Serialise a message for digests and sizes; fields left at their default do not show, so adding one is safe."""
    return message.__pydantic_serializer__.to_json(message, exclude_defaults=True)


def fold(digest: str, message: bytes) -> str:
    """Extend a transcript's rolling digest by one canonical message."""
    return hashlib.sha256(digest.encode() + message).hexdigest()


def digest_of(messages: Iterable[Message], *, start: str = EMPTY_DIGEST) -> str:
    """Return the rolling digest after these messages."""
    digest = start
    for message in messages:
        digest = fold(digest, canonical(message))
    return digest
