"""The conversation as the run keeps it: appended to, digested, paged out to activities, never passed along whole."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.activities import ResultReference, Segment, TailMessage, TranscriptPage, TranscriptRequest
    from perdure.messages import Message, ToolMessage, canonical, fold
    from perdure_workflows.state import Call, TranscriptState

MAX_CARRIED_BYTES = 256 * 1024
"""A transcript up to this size is carried through continue-as-new; a larger one stays where it is and is pointed to."""
MAX_TAIL_BYTES = 64 * 1024
"""More than this in new messages is cheaper to read by Query than to write into history a second time."""
ADOPT_AFTER = timedelta(hours=12)
"""How long an earlier execution's history is relied on; a server keeps it for its retention time (a day at least)."""


class Transcript:
    """The messages of a run from `base` on, with a rolling digest over all of them."""

    def __init__(self, state: TranscriptState) -> None:
        self._state = state
        self._sizes = [len(canonical(message)) for message in state.messages]

    @property
    def length(self) -> int:
        """Messages in the whole conversation."""
        return self._state.base + len(self._state.messages)

    @property
    def digest(self) -> str:
        """The rolling digest after all messages."""
        return self._state.digest

    @property
    def size(self) -> int:
        """Bytes of all messages."""
        return self._state.size

    @property
    def last_size(self) -> int:
        """Bytes of the last message."""
        return self._sizes[-1]

    def append(self, message: Message) -> None:
        """Add a message at the end."""
        content = canonical(message)
        self._state.messages.append(message)
        self._state.digest = fold(self._state.digest, content)
        self._state.size += len(content)
        self._sizes.append(len(content))

    def page(self, request: TranscriptRequest) -> TranscriptPage:
        """Return messages from `request.start` on, as far as they fit; none if they are not held here."""
        first = request.start - self._state.base
        if first < 0:
            return self._page(0, 0)
        last, size = first, 0
        while last < len(self._sizes) and (last == first or size + self._sizes[last] <= request.max_bytes):
            size += self._sizes[last]
            last += 1
        return self._page(first, last)

    def carried(self, *, execution_id: str, now: datetime, max_bytes: int = MAX_CARRIED_BYTES) -> TranscriptState:
        """Return what the next execution starts with: the messages, or where they are if they are larger than that."""
        if self._state.base == 0 and sum(self._sizes) <= max_bytes:
            return self._state
        here = Segment(execution_id=execution_id, start=self._state.base, end=self.length, closed_at=now)
        segments = [*self._state.segments, here]
        return TranscriptState(base=self.length, digest=self.digest, segments=segments, size=self.size)

    @property
    def adoption_due(self) -> datetime | None:
        """When the messages that earlier executions hold must be taken over, lest their histories be deleted."""
        if not self._state.segments:
            return None
        return min(segment.closed_at for segment in self._state.segments) + ADOPT_AFTER

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Where the messages before this execution's own are."""
        return tuple(self._state.segments)

    @property
    def base(self) -> int:
        """Index of the first message that this execution holds itself."""
        return self._state.base

    def adopt(self, page: TranscriptPage) -> None:
        """Take over messages that end where this execution's own begin."""
        if not page.messages or page.start + len(page.messages) != self._state.base:
            raise ValueError(
                f"messages {page.start}…{page.start + len(page.messages)} do not end at {self._state.base}"
            )
        self._state.messages[:0] = page.messages
        self._sizes[:0] = [len(canonical(message)) for message in page.messages]
        self._state.base = page.start
        self._state.segments = [segment for segment in self._state.segments if segment.start < page.start]

    def _page(self, first: int, last: int) -> TranscriptPage:
        return TranscriptPage(
            start=self._state.base + first,
            messages=tuple(self._state.messages[first:last]),
            length=self.length,
            segments=tuple(self._state.segments),
            base=self._state.base,
        )


def tail_of(calls: list[Call], *, model_worker: str) -> TailMessage:
    """Describe a tool message to the next model call: what the worker has in memory is only named."""
    return TailMessage(
        results=tuple(
            ResultReference(call_id=call.call_id, provider_id=call.provider_id)
            if call.worker and call.worker == model_worker
            else result
            for call in calls
            if (result := call.result)
        )
    )


def fitting(tail: list[TailMessage]) -> list[TailMessage]:
    """Return the tail if it is small enough to be written into history once more, else none of it."""
    size = sum(
        len(canonical(item.message))
        if item.message
        else len(canonical(ToolMessage(results=tuple(r for r in item.results if not isinstance(r, ResultReference)))))
        for item in tail
    )
    return tail if size <= MAX_TAIL_BYTES else []
