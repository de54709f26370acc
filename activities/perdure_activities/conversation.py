"""A run's conversation as providers are sent it: a message is serialised once, a request copies one buffer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, count

from perdure.messages import EMPTY_DIGEST, AssistantMessage, Message, Part, ToolCallPart, canonical, fold

IDLE_REPLIES = 8
"""A wire form that was not asked for during so many replies is given up; asking for it again costs a Query."""

Encode = Callable[[Message], bytes]


class TranscriptError(Exception):
    """The workflow's transcript is not the one its model call names."""


class _Rendering:
    """A conversation in one wire format: a buffer, and its length after each message."""

    def __init__(self, encode: Encode) -> None:
        self.encode = encode
        self.buffer = bytearray()
        self.ends: list[int] = []
        self.idle = 0
        """Replies since it was last asked for."""

    def append(self, items: bytes) -> None:
        if items and self.buffer:
            self.buffer += b","
        self.buffer += items
        self.ends.append(len(self.buffer))

    def truncate(self, length: int) -> None:
        del self.buffer[self.ends[length - 1] if length else 0 :]
        del self.ends[length:]


class Conversation:
    """A transcript in the wire form of each provider that is asked, with the digest after each message.

    One wire form is the rule. A run whose first model does not answer has two for as long as both are tried, so that
    going back and forth between them costs no Query.
    """

    def __init__(self) -> None:
        self._renderings: dict[str, _Rendering] = {}
        self._digests: list[str] = []
        self._call_ids: list[tuple[str, ...] | None] = []
        """Of each message that is the model's, the ids of its calls; None for the others."""
        self._taken_ids: set[str] = set()

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return sum(len(rendering.buffer) for rendering in self._renderings.values()) + 200 * len(self._digests)

    def digest(self, length: int) -> str:
        """Return the rolling digest after the first `length` messages."""
        return self._digests[length - 1] if length else EMPTY_DIGEST

    def append(self, message: Message) -> None:
        """Add a message at the end, in every wire form."""
        digest = fold(self.digest(len(self)), canonical(message))
        # All are made before any is added: one that fails must not leave the others a message ahead.
        encoded = [(rendering, rendering.encode(message)) for rendering in self._renderings.values()]
        for rendering, items in encoded:
            rendering.append(items)
        self._digests.append(digest)
        ids = tuple(call.id for call in message.tool_calls) if isinstance(message, AssistantMessage) else None
        self._call_ids.append(ids)
        self._taken_ids.update(ids or ())

    def truncate(self, length: int) -> None:
        """Forget all messages after the first `length`."""
        if length < len(self):
            for rendering in self._renderings.values():
                rendering.truncate(length)
            del self._digests[length:]
            del self._call_ids[length:]
            self._taken_ids = {taken for ids in self._call_ids if ids for taken in ids}

    def is_written(self, wire: str) -> bool:
        """Whether the conversation is here in that wire form; if so, it stays so for a while."""
        if rendering := self._renderings.get(wire):
            rendering.idle = 0
        return wire in self._renderings

    def write(self, wire: str, encode: Encode, messages: Iterable[Message]) -> None:
        """Add a wire form.

        Args:
            wire: Its name.
            encode: Writes a message in it.
            messages: All messages of the conversation.

        Raises:
            TranscriptError: They are others than those in the conversation.
        """
        rendering, digest, length = _Rendering(encode), EMPTY_DIGEST, 0
        for message in messages:
            rendering.append(encode(message))
            digest, length = fold(digest, canonical(message)), length + 1
        if (length, digest) != (len(self), self.digest(len(self))):
            raise TranscriptError(
                f"the transcript has no {len(self)} messages of digest {self.digest(len(self))[:12]}…"
            )
        self._renderings[wire] = rendering

    def hear(self, reply: AssistantMessage) -> AssistantMessage:
        """Add a model's reply and return it, its calls renamed where an earlier reply has calls of that id.

        Some servers count their calls from zero in each reply, and others refuse a conversation in which two calls
        share an id. A wire form that was not asked for in many replies is given up.
        """
        reply = self._with_new_ids(reply)
        self.append(reply)
        for wire, rendering in list(self._renderings.items()):
            rendering.idle += 1
            if rendering.idle > IDLE_REPLIES:
                del self._renderings[wire]
        return reply

    def items(self, wire: str) -> bytes:
        """Return the request's message list, as JSON items joined by commas."""
        return bytes(self._renderings[wire].buffer)

    def sent(self, wire: str) -> int:
        """Return how many bytes of `items` the model call before this one consisted of; 0 for the first."""
        ends = self._renderings[wire].ends
        for place in range(len(self) - 1, 0, -1):
            if self._call_ids[place] is not None:
                return ends[place - 1]
        return 0

    def _with_new_ids(self, reply: AssistantMessage) -> AssistantMessage:
        ids = [call.id for call in reply.tool_calls]
        if len(set(ids)) == len(ids) and self._taken_ids.isdisjoint(ids):
            return reply
        taken = set(self._taken_ids)
        parts: list[Part] = []
        for part in reply.parts:
            renamed = part
            if isinstance(part, ToolCallPart):
                renamed = part.model_copy(update={"id": _free_id(part.id, taken, place=len(self))})
                taken.add(renamed.id)
            parts.append(renamed)
        return AssistantMessage(parts=tuple(parts))


def _free_id(wanted: str, taken: set[str], *, place: int) -> str:
    """Return the id, or a similar one that is free; the same one in every attempt at the reply of that place."""
    candidates = chain([wanted], (f"{wanted}_{place}_{number}" for number in count()))
    return next(candidate for candidate in candidates if candidate not in taken)
