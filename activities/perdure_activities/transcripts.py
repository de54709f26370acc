"""The conversations a worker process has in memory, so that no activity is sent one and hardly any asks for one.

A conversation is kept in its provider's wire form: each message is serialised once, and a request's message list is
one copy of a buffer. What the memory lacks, or holds differently from the run's rolling digest, is read from the
workflow by paged Queries. Losing an entry costs a Query and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, count

from temporalio.client import Client, WorkflowHandle

from perdure.contracts import (
    ModelCall,
    ResultReference,
    Segment,
    TailMessage,
    TranscriptPage,
    TranscriptRequest,
)
from perdure.messages import (
    EMPTY_DIGEST,
    AssistantMessage,
    Message,
    Part,
    ToolCallPart,
    ToolMessage,
    ToolResult,
    canonical,
    fold,
)

QUERY_TIMEOUT = timedelta(seconds=30)
REMEMBERED_SHARE = 8
"""One part in this many of the memory is for tool results that wait for their conversation."""
IDLE_REPLIES = 8
"""A wire form that was not asked for during so many replies is given up; asking for it again costs a Query."""

Encode = Callable[[Message], bytes]


class _Rendering:
    """A conversation in one wire format: a buffer, and its length after each message."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self.buffer = bytearray()
        self.ends: list[int] = []
        self.idle = 0
        """Replies since it was last asked for."""

    def append(self, message: Message) -> None:
        items = self._encode(message)
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
        for rendering in self._renderings.values():
            rendering.append(message)
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
            rendering.append(message)
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


@dataclass(frozen=True)
class _Remembered:
    content: str
    is_error: bool


class Transcripts:
    """The process's memory of conversations and of tool results, the least recently used given up first."""

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._results: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()
        self._conversation_bytes = 0
        self._result_bytes = 0
        self.queries = 0
        """Transcript Queries made so far, for benchmarks and metrics."""

    def remember_result(self, run_id: str, call_id: str, content: str, *, is_error: bool) -> None:
        """Keep a tool's result for the model call that will see it."""
        self._result_bytes += len(content)
        if old := self._results.pop((run_id, call_id), None):
            self._result_bytes -= len(old.content)
        self._results[run_id, call_id] = _Remembered(content, is_error)
        while self._result_bytes > self._max_bytes // REMEMBERED_SHARE:
            self._result_bytes -= len(self._results.popitem(last=False)[1].content)

    def take(self, run_id: str) -> Conversation:
        """Take a run's conversation out of memory, as far as it is there.

        While it is taken nobody else has it: an attempt that the server gave up on cannot spoil its successor's.
        """
        return self._pop(run_id) or Conversation()

    async def complete(
        self,
        conversation: Conversation,
        run_id: str,
        call: ModelCall,
        *,
        client: Client,
        execution_id: str,
        wire: str,
        encode: Encode,
    ) -> None:
        """Bring a conversation to what a model call is about, checked against its digest, in the provider's wire form.

        Raises:
            TranscriptError: The workflow's transcript does not have the digest that its call names.
        """
        if not len(conversation) and not conversation.is_written(wire):
            conversation.write(wire, encode, ())
        handle = client.get_workflow_handle(run_id, run_id=execution_id)
        if not self._extend(conversation, run_id, call):
            await self._read(conversation, call, handle, client)
        if not conversation.is_written(wire):
            conversation.write(wire, encode, await self.messages(handle, client, start=0, end=call.length))

    def put(self, run_id: str, conversation: Conversation) -> None:
        """Put a conversation back."""
        self._pop(run_id)
        self._conversations[run_id] = conversation
        self._conversation_bytes += conversation.size
        while self._conversation_bytes > self._max_bytes and len(self._conversations) > 1:
            self._pop(next(iter(self._conversations)))

    async def messages(
        self, handle: WorkflowHandle[object, object], client: Client, *, start: int, end: int
    ) -> list[Message]:
        """Read a stretch of a run's transcript by Query, from whichever executions hold it; less if there is less."""
        found: list[Message] = []
        while start + len(found) < end:
            page = await self._page(handle, client, start=start + len(found))
            if not page.messages:
                break
            found += page.messages[: end - start - len(found)]
        return found

    def _pop(self, run_id: str) -> Conversation | None:
        conversation = self._conversations.pop(run_id, None)
        if conversation is not None:
            self._conversation_bytes -= conversation.size
        return conversation

    def _extend(self, conversation: Conversation, run_id: str, call: ModelCall) -> bool:
        """Append the call's tail, if what is in memory reaches up to it; return whether the digest agrees."""
        if len(conversation) >= call.length and conversation.digest(call.length) == call.digest:
            conversation.truncate(call.length)  # an earlier attempt brought it here
            return True
        known = call.length - len(call.tail)
        if len(conversation) < known:
            return False
        conversation.truncate(known)
        for item in call.tail:
            message = self._spell_out(item, run_id)
            if message is None:
                return False
            conversation.append(message)
        return conversation.digest(call.length) == call.digest

    def _spell_out(self, item: TailMessage, run_id: str) -> Message | None:
        if item.message is not None:
            return item.message
        results: list[ToolResult] = []
        for result in item.results:
            if isinstance(result, ResultReference):
                remembered = self._results.pop((run_id, result.call_id), None)
                if remembered is None:
                    return None
                self._result_bytes -= len(remembered.content)
                results.append(
                    ToolResult(call_id=result.provider_id, content=remembered.content, is_error=remembered.is_error)
                )
            else:
                results.append(result)
        return ToolMessage(results=tuple(results))

    async def _read(
        self, conversation: Conversation, call: ModelCall, handle: WorkflowHandle[object, object], client: Client
    ) -> None:
        """Bring the conversation to the call's length by Query: from where it agrees, else from the start."""
        known = min(len(conversation), call.length - len(call.tail))
        conversation.truncate(max(0, known))
        for start in (len(conversation), 0):
            conversation.truncate(start)
            for message in await self.messages(handle, client, start=start, end=call.length):
                conversation.append(message)
            if len(conversation) == call.length and conversation.digest(call.length) == call.digest:
                return
        raise TranscriptError(f"the transcript has no {call.length} messages of digest {call.digest[:12]}…")

    async def _page(self, handle: WorkflowHandle[object, object], client: Client, *, start: int) -> TranscriptPage:
        page = await self._query(handle, TranscriptRequest(start=start))
        if start >= page.base:
            return page
        segment = segment_of(page.segments, start)
        earlier: WorkflowHandle[object, object] = client.get_workflow_handle(handle.id, run_id=segment.execution_id)
        return await self._query(earlier, TranscriptRequest(start=start))

    async def _query(self, handle: WorkflowHandle[object, object], request: TranscriptRequest) -> TranscriptPage:
        self.queries += 1
        page: TranscriptPage = await handle.query(
            "transcript", request, result_type=TranscriptPage, rpc_timeout=QUERY_TIMEOUT
        )
        return page


class TranscriptError(Exception):
    """The workflow's transcript is not the one its model call names."""


def segment_of(segments: Iterable[Segment], index: int) -> Segment:
    """Return the segment that holds the message of that index."""
    for segment in segments:
        if segment.start <= index < segment.end:
            return segment
    raise TranscriptError(f"no execution of the run holds message {index}")


def last_fitting(messages: Sequence[Message], *, max_bytes: int) -> int:
    """Return how many of the last messages fit in `max_bytes`; at least one."""
    size, count = 0, 0
    for message in reversed(messages):
        size += len(canonical(message))
        if count and size > max_bytes:
            break
        count += 1
    return count
