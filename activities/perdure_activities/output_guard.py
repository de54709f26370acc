"""An agent's output guards on a model's reply, before it enters history.

What is judged is what people see of a reply: its text, beside tool calls too, and the provider's words on a refusal.
Thinking is shown to nobody and goes back to its provider as it was signed, so it is left as it is; of a reply that is
blocked nothing is kept, thinking included.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from temporalio.exceptions import ApplicationError

from perdure.activities import Finish
from perdure.guard import Guard
from perdure.messages import AssistantMessage, Part, TextPart
from perdure.stream_guard import GuardTimeoutError, StreamGuard, matches
from perdure_activities.providers.provider import ProviderReply


@dataclass(frozen=True)
class Guarded:
    """A reply as the guards leave it."""

    reply: ProviderReply
    withdrawn: int = 0
    """Characters at the end of the text before the reply that belong to something masked."""


def watched(guards: Sequence[Guard], show: Callable[[str], None]) -> Callable[[str], None]:
    """Return what takes a reply's text as it arrives, and passes on what the guards let through."""
    if not guards:
        return show
    stream = StreamGuard(guards)

    def take(delta: str) -> None:
        try:
            passed = stream.feed(delta)
        except GuardTimeoutError as error:
            raise _gave_up(error) from None
        if passed:
            show(passed)

    return take


async def guarded(reply: ProviderReply, guards: Sequence[Guard], *, before: str = "") -> Guarded:
    """Apply an agent's guards to a reply.

    Args:
        reply: Complete, as the provider sent it.
        guards: In the agent's order.
        before: The end of what the reply goes on from, if an earlier one was cut.

    Raises:
        ApplicationError: A guard took too long; not retried, as the next reply may be as bad and costs again.
    """
    if not guards:
        return Guarded(reply)
    try:
        return await asyncio.to_thread(_guard, reply, guards, before)
    except GuardTimeoutError as error:
        raise _gave_up(error) from None


def _guard(reply: ProviderReply, guards: Sequence[Guard], before: str) -> Guarded:
    texts = [part.text for part in reply.message.parts if isinstance(part, TextPart)]
    said, refused = _Pieces([before, *texts]), _Pieces(["", reply.detail])
    for guard in guards:
        found = said.apply(guard) + refused.apply(guard)
        if found and guard.action == "block":
            return Guarded(_blocked(reply, guard))
    masked = iter(said.texts[1:])
    parts: list[Part] = []
    for part in reply.message.parts:
        if isinstance(part, TextPart):
            part = TextPart(text=next(masked))
        if not isinstance(part, TextPart) or part.text:
            parts.append(part)
    kept = replace(reply, message=AssistantMessage(parts=tuple(parts)), detail=refused.texts[1])
    return Guarded(kept, withdrawn=len(before) - len(said.texts[0]))


def _blocked(reply: ProviderReply, guard: Guard) -> ProviderReply:
    """Return the reply without anything that was said, but with what it cost."""
    return replace(
        reply,
        message=AssistantMessage(parts=()),
        finish=Finish.BLOCKED,
        detail=f"the reply was blocked by the output guard {guard.name!r}",
    )


class _Pieces:
    """Texts that are read as one, as a match may lie across two of them. The first is only shortened."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts

    def apply(self, guard: Guard) -> int:
        """Mask what the guard finds, and return how often it did."""
        whole = "".join(self.texts)
        first = len(self.texts[0])
        found = [(start, end) for start, end in matches(guard, whole) if end > first]
        ends = [sum(map(len, self.texts[: count + 1])) for count in range(len(self.texts))]
        for start, end in reversed(found):
            whole = whole[:start] + guard.mask + whole[end:]
            # A mask belongs to the last piece that it reaches into.
            ends = [
                place if place <= start else start if place < end else place + len(guard.mask) - (end - start)
                for place in ends
            ]
        self.texts = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return len(found)


def _gave_up(error: GuardTimeoutError) -> ApplicationError:
    return ApplicationError(str(error), type="output_guard_failed", non_retryable=True)
