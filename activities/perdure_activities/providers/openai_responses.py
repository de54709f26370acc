"""OpenAI's Responses API, without anything stored there.

The protocol: https://platform.openai.com/docs/api-reference/responses-streaming. Reasoning travels encrypted and comes
back to OpenAI unchanged; a reply counts only with `response.completed` or `response.incomplete`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Final

from perdure.activities import Finish
from perdure.agent import AgentSpec
from perdure.contracts import Usage
from perdure.messages import (
    AssistantMessage,
    JsonObject,
    Message,
    OpaquePart,
    Part,
    TextPart,
    ToolCallPart,
    ToolMessage,
    UserMessage,
)
from perdure_activities.providers.encoding import (
    call_id,
    clean,
    clean_text,
    count,
    joined,
    object_of,
    objects_of,
    parse_arguments,
    text_of,
    to_json,
    tool_name,
)
from perdure_activities.providers.exchange import Heads, settled
from perdure_activities.providers.openai_client import OpenAIClient, cache_key
from perdure_activities.providers.posture import BrokenReplyError, StreamFailedError
from perdure_activities.providers.provider import PromptCache, ProviderReply

WIRE: Final = "openai-responses"

INCOMPLETE: Final[Mapping[str, Finish]] = {
    "max_output_tokens": Finish.LENGTH,
    "content_filter": Finish.CONTENT_FILTER,
}
"""Reasons for an incomplete response; one that is not here ends the turn, with its name in the reply's detail."""

MAX_CALL_ID: Final = 64
MIN_OUTPUT_TOKENS: Final = 16
"""The Responses API refuses less."""

_PHASE: Final = "phase"
"""Type of the opaque part that keeps a message's `phase`, which OpenAI wants back on the message that follows it."""

_NO_REASONING: Final = re.compile(r"(ft:)?(gpt-[34]|chatgpt-)")
"""Families that refuse the request when it asks for encrypted reasoning."""


class OpenAIResponses:
    """The provider `openai:`."""

    wire = WIRE
    price_id = "openai"
    price_flavor = "responses"

    def __init__(self) -> None:
        self._client = OpenAIClient()
        self._heads = Heads(_head)

    def encode(self, message: Message) -> bytes:
        """Return the message as JSON items joined by commas; see `Provider.encode`."""
        match message:
            case UserMessage():
                return to_json({"role": "user", "content": message.text})
            case AssistantMessage():
                return joined(_reply_items(message))
            case ToolMessage():
                return joined(
                    {
                        "type": "function_call_output",
                        "call_id": call_id(result.call_id, limit=MAX_CALL_ID),
                        "output": f"Error: {result.content}" if result.is_error else result.content,
                    }
                    for result in message.results
                )

    async def call(
        self,
        spec: AgentSpec,
        messages: bytes,
        *,
        timeout: timedelta,
        on_text: Callable[[str], None],
        cache: PromptCache | None = None,
    ) -> ProviderReply:
        """Make one call; see `Provider.call`."""
        body = b"".join((self._heads.of(spec), messages, b"]", cache_key(cache), b"}"))
        return await self._client.call("/responses", body, ResponseBuilder(on_text), timeout=timeout)

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()


class ResponseBuilder:
    """Puts a reply together from the events of the Responses API."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._items: dict[int, JsonObject] = {}
        self._response: JsonObject = {}
        self.complete = False

    def feed(self, event: JsonObject) -> None:
        """Take in one event; kinds it does not know are left out."""
        match event.get("type"):
            case "response.output_text.delta":
                if piece := text_of(event.get("delta")):
                    self._on_text(clean_text(piece))
            case "response.output_item.done":
                self._items[int(event["output_index"])] = object_of(event.get("item"))
            case "response.completed" | "response.incomplete":
                self._response = object_of(event.get("response"))
                self.complete = True
            case "response.failed":
                raise StreamFailedError(object_of(object_of(event.get("response")).get("error")))
            case "error":
                raise StreamFailedError(event)

    def reply(self) -> ProviderReply:
        """Return the reply; raises `BrokenReplyError` when it has not ended properly."""
        if not self.complete:
            raise BrokenReplyError("the stream ended without response.completed")
        # Some servers repeat no items in the last event.
        items = objects_of(self._response.get("output")) or [self._items[index] for index in sorted(self._items)]
        message = AssistantMessage(parts=tuple(part for item in items for part in _parts(item)))
        finish, detail = self._end(items)
        model, usage = text_of(self._response.get("model")), object_of(self._response.get("usage"))
        priced = {"model": model, "usage": usage, "service_tier": self._response.get("service_tier")}
        return ProviderReply(
            message=message,
            finish=settled(finish, message),
            model=model,
            detail=detail,
            usage=usage_of(usage),
            priced_usage=priced if usage else {},
        )

    def _end(self, items: list[JsonObject]) -> tuple[Finish, str]:
        reason = text_of(object_of(self._response.get("incomplete_details")).get("reason"))
        refusal = "".join(text_of(part.get("refusal")) for item in items for part in objects_of(item.get("content")))
        if refusal:
            return Finish.REFUSAL, clean_text(refusal)
        if reason in INCOMPLETE:
            return INCOMPLETE[reason], ""
        if reason or self._response.get("status") == "incomplete":
            return Finish.STOP, f"incomplete for an unknown reason {reason!r}"
        return Finish.STOP, ""


def usage_of(raw: JsonObject) -> Usage:
    """Normalise: OpenAI's `input_tokens` holds the cached tokens already."""
    details = object_of(raw.get("input_tokens_details"))
    return Usage(
        input_tokens=count(raw.get("input_tokens")),
        cache_read_tokens=count(details.get("cached_tokens")),
        cache_write_tokens=count(details.get("cache_write_tokens")),
        output_tokens=count(raw.get("output_tokens")),
    )


def _parts(item: JsonObject) -> Iterator[Part]:
    match item.get("type"):
        case "message":
            text = "".join(text_of(part.get("text")) for part in objects_of(item.get("content")))
            if phase := item.get("phase"):
                yield OpaquePart(wire=WIRE, data={"type": _PHASE, "phase": phase})
            if text:
                yield TextPart(text=clean_text(text))
        case "function_call":
            yield _call(item)
        case _:
            yield OpaquePart(wire=WIRE, data=clean(item))


def _call(item: JsonObject) -> ToolCallPart:
    raw = text_of(item.get("arguments"))
    arguments = None if item.get("status") == "incomplete" else parse_arguments(raw)
    return ToolCallPart(
        id=text_of(item.get("call_id")) or text_of(item.get("id")),
        name=clean_text(text_of(item.get("name"))),
        arguments=arguments or {},
        malformed=clean_text(raw) if arguments is None else None,
    )


def _reply_items(message: AssistantMessage) -> list[JsonObject]:
    items: list[JsonObject] = []
    phase: JsonObject = {}
    for part in message.parts:
        match part:
            case OpaquePart(wire=wire) if wire != WIRE:
                continue
            case OpaquePart(data={"type": "phase", "phase": kept}):
                phase = {"phase": kept}
                continue
            case OpaquePart():
                items.append(part.data)
            case ToolCallPart():
                items.append(_call_item(part))
            case TextPart() if part.text:
                items.append({"role": "assistant", "content": part.text, **phase})
        phase = {}
    # Reasoning without the item it led to, as a cut reply leaves behind, is refused.
    while items and items[-1].get("type") == "reasoning":
        items.pop()
    return items


def _call_item(part: ToolCallPart) -> JsonObject:
    arguments = to_json(part.arguments).decode() if part.malformed is None else part.malformed or "{}"
    return {
        "type": "function_call",
        "call_id": call_id(part.id, limit=MAX_CALL_ID),
        "name": tool_name(part.name),
        "arguments": arguments,
    }


def _head(spec: AgentSpec) -> bytes:
    """Serialise everything before the messages; the caller adds them and closes the list and the body."""
    body: JsonObject = {
        "model": spec.model_name,
        "max_output_tokens": max(spec.max_output_tokens, MIN_OUTPUT_TOKENS),
        "store": False,
        "stream": True,
    }
    if not _NO_REASONING.match(spec.model_name):
        body["include"] = ["reasoning.encrypted_content"]
    if spec.instructions:
        body["instructions"] = spec.instructions
    if spec.tools:
        body["tools"] = [
            {
                "type": "function",
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.input_schema,
                # Left out it means true, which refuses schemas with optional properties.
                "strict": False,
            }
            for tool in spec.tools
        ]
    if spec.temperature is not None:
        body["temperature"] = spec.temperature
    return to_json(body)[:-1] + b',"input":['
