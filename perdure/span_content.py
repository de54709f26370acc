"""What was said, as attributes of spans have it: JSON by the OpenTelemetry conventions for generative AI, bounded.

Nobody calls this unless `PERDURE_TRACE_CONTENT` is on. What secrets look like is masked by the span processor.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, assert_never

from perdure.contracts import cut
from perdure.messages import AssistantMessage, Message, TextPart, ToolCallPart, ToolMessage, UserMessage

MAX_BYTES: Final = 32 * 1024
"""Of one attribute: backends refuse, or cut in the middle, what is much larger."""


def as_attribute(value: object) -> str:
    """Return a text as it is, anything else as JSON, cut to what an attribute may hold."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return cut(text, MAX_BYTES)


def messages_attribute(messages: Iterable[Message], *, finish: str = "") -> str:
    """Return messages as `gen_ai.input.messages` and `gen_ai.output.messages` have them.

    Args:
        messages: In order.
        finish: Why the model stopped, for its reply.
    """
    end = {"finish_reason": finish} if finish else {}
    return as_attribute([{"role": _role(message), "parts": list(_parts(message)), **end} for message in messages])


def _role(message: Message) -> str:
    match message:
        case UserMessage():
            return "user"
        case AssistantMessage():
            return "assistant"
        case ToolMessage():
            return "tool"
        case _:
            assert_never(message)


def _parts(message: Message) -> Iterable[dict[str, Any]]:
    match message:
        case UserMessage():
            yield {"type": "text", "content": message.text}
        case AssistantMessage():
            for part in message.parts:
                match part:
                    case TextPart():
                        yield {"type": "text", "content": part.text}
                    case ToolCallPart():
                        yield {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.arguments}
        case ToolMessage():
            for result in message.results:
                yield {"type": "tool_call_response", "id": result.call_id, "response": result.content}
        case _:
            assert_never(message)
