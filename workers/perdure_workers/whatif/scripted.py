"""A provider that gives replies that were written down, in their order: for tests, which ask no vendor."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta

from temporalio.exceptions import ApplicationError

from perdure.activities import Finish
from perdure.agent import AgentSpec
from perdure.contracts import Usage
from perdure.messages import AssistantMessage, Message, Part, TextPart, ToolCallPart
from perdure.testing import Turn
from perdure_activities.providers.provider import PromptCache, ProviderReply


class ScriptedReplies:
    """Answers with the turn that a conversation has come to."""

    wire = "scripted"
    price_id = "scripted"
    price_flavor = "default"

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = tuple(turns)

    def encode(self, message: Message) -> bytes:
        """Write the message in our own form."""
        return message.model_dump_json().encode()

    async def call(
        self,
        spec: AgentSpec,
        messages: bytes,
        *,
        timeout: timedelta,  # noqa: ARG002  # the protocol's
        on_text: Callable[[str], None],
        cache: PromptCache | None = None,  # noqa: ARG002  # the protocol's
    ) -> ProviderReply:
        """Return the next turn."""
        conversation = json.loads(b"[" + messages + b"]")
        place = sum(message["role"] == "assistant" for message in conversation)
        if place >= len(self._turns):
            raise ApplicationError(
                f"the test has {len(self._turns)} replies, and the run asks for one more",
                type="script_over",
                non_retryable=True,
            )
        turn = self._turns[place]
        on_text(turn.text)
        return ProviderReply(
            message=AssistantMessage(parts=tuple(_parts(turn, place))),
            finish=_finish(turn),
            model=spec.model_name,
            usage=turn.usage or Usage(),
        )

    async def close(self) -> None:
        """Nothing to release."""


def _parts(turn: Turn, place: int) -> list[Part]:
    parts: list[Part] = [TextPart(text=turn.text)] if turn.text else []
    for number, call in enumerate(turn.calls):
        call_id = f"call_{place}_{number}"
        if call.malformed is not None:
            parts.append(ToolCallPart(id=call_id, name=call.name, malformed=call.malformed))
        else:
            parts.append(ToolCallPart(id=call_id, name=call.name, arguments=dict(call.arguments)))
    return parts


def _finish(turn: Turn) -> Finish:
    return turn.finish or (Finish.TOOL_CALLS if turn.calls else Finish.STOP)
