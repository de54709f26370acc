"""OpenAI's Chat Completions API, which every compatible server speaks, in its dialects.

The protocol: https://platform.openai.com/docs/api-reference/chat-streaming. A reply counts only with its
`finish_reason`. Compatible servers may leave out usage, tool-call ids and indexes, and may finish tool calls with
`stop`. Reasoning that a server shows (`reasoning_content`, `reasoning`) goes back with the tool calls it led to, as
models that think between calls need it; OpenAI itself never sends any here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from perdure_activities.providers.posture import BrokenReplyError
from perdure_activities.providers.provider import PromptCache, ProviderReply

WIRE: Final = "openai-chat"
MAX_CALL_ID: Final = 40

FINISHES: Final[Mapping[str, Finish]] = {
    "stop": Finish.STOP,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "length": Finish.LENGTH,
    "content_filter": Finish.CONTENT_FILTER,
}
"""Finish reasons; one that is not here ends the turn, with its name in the reply's detail."""

_REASONING: Final = ("reasoning_content", "reasoning")


class OpenAIChat:
    """The provider `openai-chat:`.

    genai-prices is asked for the model as the agent names it, never as the server does: a compatible server may claim
    any name. So a local model has no price unless it bears the name of one of OpenAI's, or the settings give it one.
    """

    wire = WIRE
    price_id = "openai"
    price_flavor = "chat"

    def __init__(self) -> None:
        self._client = OpenAIClient()
        self._own_heads = Heads(lambda spec: _head(spec, limit="max_completion_tokens"))
        self._compatible_heads = Heads(lambda spec: _head(spec, limit="max_tokens"))

    def encode(self, message: Message) -> bytes:
        """Return the message as JSON items joined by commas; see `Provider.encode`."""
        match message:
            case UserMessage():
                return to_json({"role": "user", "content": message.text})
            case AssistantMessage():
                return _encode_reply(message)
            case ToolMessage():
                return joined(
                    {
                        "role": "tool",
                        "tool_call_id": call_id(result.call_id, limit=MAX_CALL_ID),
                        "content": f"Error: {result.content}" if result.is_error else result.content,
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
        # OpenAI's reasoning models refuse `max_tokens`; older compatible servers know nothing else.
        own = await self._client.speaks_to_openai()
        head = (self._own_heads if own else self._compatible_heads).of(spec)
        comma = b"" if head.endswith(b"[") or not messages else b","
        # Compatible servers cache by themselves too, and some refuse what they do not know.
        body = b"".join((head, comma, messages, b"]", cache_key(cache if own else None), b"}"))
        builder = CompletionBuilder(on_text, priced_model=spec.model_name)
        return await self._client.call("/chat/completions", body, builder, timeout=timeout)

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()


@dataclass
class _Call:
    """A tool call as far as it has come."""

    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)


class CompletionBuilder:
    """Puts a reply together from the chunks of a chat completion."""

    def __init__(self, on_text: Callable[[str], None], *, priced_model: str) -> None:
        self._on_text = on_text
        self._priced_model = priced_model
        self._model = ""
        self._service_tier = ""
        self._texts: list[str] = []
        self._refusals: list[str] = []
        self._reasoning: dict[str, list[str]] = {}
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}
        self._finish_reason = ""
        self._usage: JsonObject = {}
        self.complete = False
        """The usage that comes with the finish reason or after it is there; without one the stream's end decides."""

    def feed(self, event: JsonObject) -> None:
        """Take in one chunk."""
        self._model = text_of(event.get("model")) or self._model
        self._service_tier = text_of(event.get("service_tier")) or self._service_tier
        usage = object_of(event.get("usage"))
        self._usage = usage or self._usage
        for choice in objects_of(event.get("choices"))[:1]:
            self._extend(object_of(choice.get("delta")))
            self._finish_reason = text_of(choice.get("finish_reason")) or self._finish_reason
        self.complete = bool(usage and self._finish_reason)

    def reply(self) -> ProviderReply:
        """Return the reply; raises `BrokenReplyError` when it has not ended properly."""
        if not self._finish_reason:
            raise BrokenReplyError("the stream ended without finish_reason")
        finish, detail = self._end()
        message = AssistantMessage(parts=self._parts(cut=finish is Finish.LENGTH))
        priced = {"model": self._priced_model, "usage": self._usage, "service_tier": self._service_tier}
        return ProviderReply(
            message=message,
            finish=settled(finish, message),
            model=self._model or self._priced_model,
            detail=detail,
            usage=usage_of(self._usage),
            priced_usage=priced if self._usage else {},
        )

    def _extend(self, delta: JsonObject) -> None:
        if piece := text_of(delta.get("content")):
            self._texts.append(piece)
            self._on_text(clean_text(piece))
        self._refusals.append(text_of(delta.get("refusal")))
        for name in _REASONING:
            if piece := text_of(delta.get(name)):
                self._reasoning.setdefault(name, []).append(piece)
        for call in objects_of(delta.get("tool_calls")):
            self._extend_call(call)
        if legacy := object_of(delta.get("function_call")):
            self._extend_call({"index": 0, "function": legacy})

    def _extend_call(self, delta: JsonObject) -> None:
        function = object_of(delta.get("function"))
        call = self._call_of(delta, starts=bool(function.get("name")))
        call.id = call.id or text_of(delta.get("id"))
        call.name = call.name or text_of(function.get("name"))
        arguments = function.get("arguments")
        # Some servers send the object itself.
        call.pieces.append(json.dumps(arguments) if isinstance(arguments, dict) else text_of(arguments))

    def _call_of(self, delta: JsonObject, *, starts: bool) -> _Call:
        """Find the call that a delta belongs to: by index, except that a new id always starts a new call."""
        index, given = delta.get("index"), text_of(delta.get("id"))
        known = self._by_index.get(index) if isinstance(index, int) else (self._calls[-1] if self._calls else None)
        other = known is not None and given and known.id and given != known.id
        if known is not None and not other and (isinstance(index, int) or given or not starts):
            return known
        call = _Call()
        self._calls.append(call)
        if isinstance(index, int):
            self._by_index[index] = call
        return call

    def _end(self) -> tuple[Finish, str]:
        if refusal := "".join(self._refusals):
            return Finish.REFUSAL, clean_text(refusal)
        if self._finish_reason not in FINISHES:
            return Finish.STOP, f"unknown finish reason {self._finish_reason!r}"
        return FINISHES[self._finish_reason], ""

    def _parts(self, *, cut: bool) -> tuple[Part, ...]:
        parts: list[Part] = []
        if self._calls and self._reasoning:
            shown = {name: clean_text("".join(pieces)) for name, pieces in self._reasoning.items()}
            parts.append(OpaquePart(wire=WIRE, data=shown))
        if text := clean_text("".join(self._texts)):
            parts.append(TextPart(text=text))
        taken: set[str] = set()
        for index, call in enumerate(self._calls):
            id_ = call.id if call.id and call.id not in taken else f"call_{index}"
            taken.add(id_)
            parts.append(_finished(call, id_=id_, cut=cut and call is self._calls[-1]))
        return tuple(parts)


def usage_of(raw: JsonObject) -> Usage:
    """Normalise: OpenAI's `prompt_tokens` holds the cached tokens already."""
    details = object_of(raw.get("prompt_tokens_details"))
    return Usage(
        input_tokens=count(raw.get("prompt_tokens")),
        cache_read_tokens=count(details.get("cached_tokens")),
        cache_write_tokens=count(details.get("cache_write_tokens")),
        output_tokens=count(raw.get("completion_tokens")),
    )


def _finished(call: _Call, *, id_: str, cut: bool) -> ToolCallPart:
    raw = clean_text("".join(call.pieces))
    arguments = None if cut and not raw.strip() else parse_arguments(raw)
    return ToolCallPart(
        id=id_,
        name=clean_text(call.name),
        arguments=arguments or {},
        malformed=raw if arguments is None else None,
    )


def _encode_reply(message: AssistantMessage) -> bytes:
    calls = [_call_item(part) for part in message.tool_calls]
    if not message.text and not calls:
        return b""
    item: JsonObject = {"role": "assistant", "content": message.text or None}
    if calls:
        for part in message.parts:
            if isinstance(part, OpaquePart) and part.wire == WIRE:
                item |= part.data
        item["tool_calls"] = calls
    return to_json(item)


def _call_item(part: ToolCallPart) -> JsonObject:
    # Malformed arguments go back as {}: the chat templates of vLLM and llama.cpp parse them, and fail on the original.
    function = {"name": tool_name(part.name), "arguments": to_json(part.arguments).decode()}
    return {"id": call_id(part.id, limit=MAX_CALL_ID), "type": "function", "function": function}


def _head(spec: AgentSpec, *, limit: str) -> bytes:
    """Serialise everything before the messages; the caller adds them and closes the list and the body."""
    body: JsonObject = {
        "model": spec.model_name,
        limit: spec.max_output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if spec.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in spec.tools
        ]
    if spec.temperature is not None:
        body["temperature"] = spec.temperature
    system = to_json({"role": "system", "content": spec.instructions}) if spec.instructions else b""
    return to_json(body)[:-1] + b',"messages":[' + system
