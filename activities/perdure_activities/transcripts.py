"""The conversations a worker process has in memory, so that no activity is sent one and hardly any asks for one.

What the memory lacks, or holds differently from the run's rolling digest, is read from the workflow by paged Queries.
Losing an entry costs a Query and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from temporalio.client import Client, WorkflowHandle

from perdure.activities import ModelCall, ResultReference, Segment, TailMessage, TranscriptPage, TranscriptRequest
from perdure.messages import Message, ToolMessage, ToolResult, canonical
from perdure_activities.conversation import Conversation, Encode, TranscriptError

QUERY_TIMEOUT = timedelta(seconds=30)
REMEMBERED_SHARE = 8
"""One part in this many of the memory is for tool results that wait for their conversation."""


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
        earlier: WorkflowHandle[object, object] = client.get_workflow_handle(
            segment.run_id or handle.id, run_id=segment.execution_id
        )
        return await self._query(earlier, TranscriptRequest(start=start))

    async def _query(self, handle: WorkflowHandle[object, object], request: TranscriptRequest) -> TranscriptPage:
        self.queries += 1
        page: TranscriptPage = await handle.query(
            "transcript", request, result_type=TranscriptPage, rpc_timeout=QUERY_TIMEOUT
        )
        return page


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
