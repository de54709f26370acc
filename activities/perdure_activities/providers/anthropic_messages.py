"""Anthropic's Messages API.

The protocol: https://docs.anthropic.com/en/api/messages-streaming. Thinking comes back to Anthropic exactly as it was
signed; a reply counts only with its `stop_reason` and `message_stop`.

Anthropic caches what a request marks, in four places at most (https://docs.anthropic.com/en/docs/build-with-claude/
prompt-caching): the last tool, the instructions, the conversation's end, and where it ended in the call before. The
fourth is found where the third would miss: Anthropic looks for a cached beginning no further than 20 blocks back, and
a turn of many parallel calls has more. Marks are put between the bytes of messages that were serialised long ago.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import httpx2

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
    ToolResult,
    UserMessage,
)
from perdure_activities.providers.encoding import (
    call_id,
    clean,
    clean_text,
    count,
    object_of,
    parse_arguments,
    plain,
    text_of,
    to_json,
    tool_name,
)
from perdure_activities.providers.exchange import EventStream, Heads, LazyClient, exchange, settled
from perdure_activities.providers.posture import BrokenReplyError, missing_key
from perdure_activities.providers.provider import PromptCache, ProviderReply

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

WIRE: Final = "anthropic"
VENDOR: Final = "Anthropic"
MAX_CALL_ID: Final = 64

FINISHES: Final[Mapping[str, Finish]] = {
    "end_turn": Finish.STOP,
    "stop_sequence": Finish.STOP,
    "tool_use": Finish.TOOL_CALLS,
    "max_tokens": Finish.LENGTH,
    "pause_turn": Finish.PAUSE,
    "refusal": Finish.REFUSAL,
    "model_context_window_exceeded": Finish.CONTEXT_WINDOW,
}
"""Stop reasons; one that is not here ends the turn, with its name in the reply's detail."""

_DELTAS: Final[Mapping[str, str]] = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
"""Kinds of deltas, and where each has its text; citations and kinds to come are left out."""

_THINKING: Final = ("thinking", "redacted_thinking")

_CACHED: Final = {"cache_control": {"type": "ephemeral"}}
_MARK: Final = b"," + to_json(_CACHED)[1:-1]
_END_OF_MESSAGE: Final = b"}]}"
"""Of its last block, its list of blocks, and itself: `encode` gives every message this end."""


class AnthropicMessages:
    """The provider `anthropic:`; set up by `ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL` and the SDK's other variables."""

    wire = WIRE
    price_id = "anthropic"
    price_flavor = "default"

    def __init__(self) -> None:
        self._client = LazyClient(_connect, vendor=VENDOR)
        self._heads = Heads(_head)
        self._marked_heads = Heads(_marked_head)

    def encode(self, message: Message) -> bytes:
        """Return the message as JSON items joined by commas; see `Provider.encode`."""
        match message:
            case UserMessage():
                # Empty text is refused, and without any message so is the request.
                text = message.text if message.text.strip() else "(no text)"
                return to_json({"role": "user", "content": [{"type": "text", "text": text}]})
            case AssistantMessage():
                return _encode_reply(message)
            case ToolMessage():
                content = [_result_block(result) for result in message.results]
                return to_json({"role": "user", "content": content}) if content else b""

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
        from anthropic import AsyncStream

        client = await self._client.get()
        if cache is None:
            body = b"".join((self._heads.of(spec), messages, b"]}"))
        else:
            ends = _cached_ends(spec, len(messages), cache)
            body = b"".join((self._marked_heads.of(spec), *_marked(messages, ends), b"]}"))

        async def open_stream(limits: httpx2.Timeout) -> EventStream:
            return await client.post(
                "/v1/messages",
                cast_to=object,
                content=body,
                options={"timeout": limits},
                stream=True,
                stream_cls=AsyncStream[object],
            )

        secrets = (client.api_key or "", client.auth_token or "")
        builder = MessageBuilder(on_text)
        return await exchange(open_stream, builder, timeout=timeout, vendor=VENDOR, secrets=secrets)

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()


@dataclass
class _Block:
    """A content block as far as it has come."""

    index: int
    start: JsonObject
    pieces: dict[str, list[str]] = field(default_factory=dict)
    ended: bool = False

    @property
    def type(self) -> str:
        return text_of(self.start.get("type"))

    def text(self, name: str) -> str:
        """Return a field's text: what the block started with, and the deltas."""
        return clean_text(text_of(self.start.get(name)) + "".join(self.pieces.get(name, ())))


class MessageBuilder:
    """Puts a reply together from the events of the Messages API."""

    def __init__(self, on_text: Callable[[str], None]) -> None:
        self._on_text = on_text
        self._blocks: dict[int, _Block] = {}
        self._model = ""
        self._usage: JsonObject = {}
        self._stop_reason = ""
        self._stop_details: JsonObject = {}
        self.complete = False

    def feed(self, event: JsonObject) -> None:
        """Take in one event; kinds it does not know are left out."""
        match event.get("type"):
            case "message_start":
                message = object_of(event.get("message"))
                self._model = text_of(message.get("model"))
                self._usage.update(object_of(message.get("usage")))
            case "content_block_start":
                index = int(event["index"])
                self._blocks[index] = _Block(index, object_of(event.get("content_block")))
            case "content_block_delta":
                self._extend(self._blocks[event["index"]], object_of(event.get("delta")))
            case "content_block_stop":
                self._blocks[event["index"]].ended = True
            case "message_delta":
                delta = object_of(event.get("delta"))
                self._stop_reason = text_of(delta.get("stop_reason")) or self._stop_reason
                self._stop_details = object_of(delta.get("stop_details"))
                # Its counts are cumulative, and None where they do not apply.
                usage = object_of(event.get("usage"))
                self._usage.update({name: value for name, value in usage.items() if value is not None})
            case "message_stop":
                self.complete = True

    def reply(self) -> ProviderReply:
        """Return the reply; raises `BrokenReplyError` when it has not ended properly."""
        if not (self.complete and self._stop_reason):
            raise BrokenReplyError("the stream ended without stop_reason and message_stop")
        finish = FINISHES.get(self._stop_reason, Finish.STOP)
        cut = finish in (Finish.LENGTH, Finish.CONTEXT_WINDOW)
        blocks = [self._blocks[index] for index in sorted(self._blocks)]
        parts = [_part(block, cut=cut and block is blocks[-1]) for block in blocks]
        message = AssistantMessage(parts=tuple(part for part in parts if part is not None))
        return ProviderReply(
            message=message,
            finish=settled(finish, message),
            model=self._model,
            detail=self._detail(),
            usage=usage_of(self._usage),
            priced_usage={"model": self._model, "usage": self._usage} if self._usage else {},
        )

    def _extend(self, block: _Block, delta: JsonObject) -> None:
        name = _DELTAS.get(text_of(delta.get("type")))
        if name is None:
            return
        piece = text_of(delta.get(name))
        block.pieces.setdefault(name, []).append(piece)
        if name == "text" and piece:
            self._on_text(clean_text(piece))

    def _detail(self) -> str:
        if self._stop_reason not in FINISHES:
            return f"unknown stop reason {self._stop_reason!r}"
        said = (text_of(self._stop_details.get(name)) for name in ("category", "explanation"))
        return ": ".join(text for text in said if text)


def usage_of(raw: JsonObject) -> Usage:
    """Normalise: Anthropic's `input_tokens` leaves cached tokens out."""
    cache_read, cache_write = count(raw.get("cache_read_input_tokens")), count(raw.get("cache_creation_input_tokens"))
    return Usage(
        input_tokens=count(raw.get("input_tokens")) + cache_read + cache_write,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        output_tokens=count(raw.get("output_tokens")),
    )


def _part(block: _Block, *, cut: bool) -> Part | None:
    """Turn a block into a part; None for one that is empty or that Anthropic would not take back.

    Args:
        block: The block, as far as it came.
        cut: Whether it is the last one of a reply that ran into a limit.
    """
    match block.type:
        case "text":
            text = block.text("text")
            return TextPart(text=text) if text else None
        case "tool_use":
            return _call(block, cut=cut)
        case "thinking":
            data = {**block.start, "thinking": block.text("thinking"), "signature": block.text("signature")}
            # Thinking that was cut has no signature, without which it is refused.
            return OpaquePart(wire=WIRE, data=clean(data)) if data["signature"] else None
        case _:
            data = dict(block.start)
            if "partial_json" in block.pieces:
                data["input"] = parse_arguments(block.text("partial_json")) or {}
            return OpaquePart(wire=WIRE, data=clean(data)) if block.ended else None


def _call(block: _Block, *, cut: bool) -> ToolCallPart:
    raw = block.text("partial_json")
    arguments = clean(object_of(block.start.get("input"))) if not raw else parse_arguments(raw)
    incomplete = arguments is None or not block.ended or (cut and not raw.strip())
    return ToolCallPart(
        id=text_of(block.start.get("id")) or f"call_{block.index}",
        name=clean_text(text_of(block.start.get("name"))),
        arguments={} if incomplete or arguments is None else arguments,
        malformed=raw if incomplete else None,
    )


def _encode_reply(message: AssistantMessage) -> bytes:
    blocks = [block for part in message.parts if (block := _block(part)) is not None]
    # A turn of thinking alone, as a cut reply leaves behind, is refused.
    if all(block.get("type") in _THINKING for block in blocks):
        return b""
    while blocks[-1].get("type") in _THINKING:
        blocks.pop()
    return to_json({"role": "assistant", "content": blocks})


def _block(part: Part) -> JsonObject | None:
    match part:
        case TextPart():
            # Text of nothing but whitespace is refused.
            return {"type": "text", "text": part.text} if part.text.strip() else None
        case ToolCallPart():
            return {
                "type": "tool_use",
                "id": _tool_use_id(part.id),
                "name": tool_name(part.name),
                "input": part.arguments,
            }
        case OpaquePart():
            return part.data if part.wire == WIRE else None


def _tool_use_id(id_: str) -> str:
    """Write the id of a call, perhaps another server's: Anthropic takes fewer characters in it than others use."""
    return call_id(plain(id_), limit=MAX_CALL_ID)


def _result_block(result: ToolResult) -> JsonObject:
    block: JsonObject = {"type": "tool_result", "tool_use_id": _tool_use_id(result.call_id)}
    if result.content.strip():
        block["content"] = result.content
    elif result.is_error:
        # An error without words is refused, and so is empty text.
        block["content"] = "(no message)"
    return block | {"is_error": True} if result.is_error else block


def _head(spec: AgentSpec) -> bytes:
    """Serialise everything before the messages; the caller adds them and closes the list and the body."""
    return to_json(_head_of(spec))[:-1] + b',"messages":['


def _marked_head(spec: AgentSpec) -> bytes:
    """Serialise the same with what is to be cached marked."""
    body = _head_of(spec)
    if "system" in body:
        body["system"] = [{"type": "text", "text": body["system"], **_CACHED}]
    if "tools" in body:
        body["tools"][-1] |= _CACHED
    return to_json(body)[:-1] + b',"messages":['


def _head_of(spec: AgentSpec) -> JsonObject:
    body: JsonObject = {"model": spec.model_name, "max_tokens": spec.max_output_tokens, "stream": True}
    if spec.instructions.strip():
        body["system"] = spec.instructions
    if spec.tools:
        body["tools"] = [
            {"name": tool.name, "description": tool.description, "input_schema": tool.input_schema}
            for tool in spec.tools
        ]
    if spec.temperature is not None:
        body["temperature"] = spec.temperature
    return body


def _cached_ends(spec: AgentSpec, size: int, cache: PromptCache) -> list[int]:
    """Return where in the messages a mark belongs: where they ended in the call before, and where they end now.

    The only call of an agent without tools marks none: writing to a cache costs more than it would ever spare.
    """
    ends = [cache.sent, size] if spec.tools or cache.sent else []
    return [end for end in ends if end]


def _marked(messages: bytes, ends: list[int]) -> Iterator[bytes | memoryview]:
    """Yield the messages with a mark in the last block of each that ends at one of these places."""
    begin = 0
    for end in ends:
        inside = end - len(_END_OF_MESSAGE)
        yield memoryview(messages)[begin:inside]
        yield _MARK
        begin = inside
    yield memoryview(messages)[begin:]


def _connect() -> AsyncAnthropic:
    from anthropic import AsyncAnthropic

    # Trace context stays in the house: the vendor has no use for our trace ids.
    client = AsyncAnthropic(max_retries=0, open_telemetry={"propagation": False})
    if client.api_key or client.auth_token or client.credentials:
        return client
    raise missing_key(VENDOR, "ANTHROPIC_API_KEY")
