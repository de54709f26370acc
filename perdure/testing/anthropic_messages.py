"""Anthropic's Messages API, from the vendor's side. Source: the event and error types of the `anthropic` SDK."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from perdure.activities import Finish
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
from perdure.testing.prompt_cache import Block, PromptCache
from perdure.testing.script import Turn
from perdure.testing.wire import (
    BYTES_PER_TOKEN,
    Answer,
    Problem,
    StreamedAnswer,
    event,
    output_tokens,
    pieces,
    text_of,
)

ERROR_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


MAX_MARKS: Final = 4
"""Places of one request that may be marked for the cache."""


class AnthropicMessages:
    """`POST /v1/messages`."""

    name = "anthropic"
    finishes: Mapping[Finish, str] = {
        Finish.STOP: "end_turn",
        Finish.TOOL_CALLS: "tool_use",
        Finish.LENGTH: "max_tokens",
        Finish.PAUSE: "pause_turn",
        Finish.REFUSAL: "refusal",
        Finish.CONTENT_FILTER: "refusal",
        Finish.CONTEXT_WINDOW: "model_context_window_exceeded",
    }

    def instructions(self, body: JsonObject) -> str:
        """Return the system prompt."""
        return text_of(body.get("system"))

    def tools(self, body: JsonObject) -> tuple[str, ...]:
        """Return the names of the tools offered."""
        return tuple(str(tool.get("name")) for tool in body.get("tools") or ())

    def messages(self, body: JsonObject) -> Iterator[Message]:
        """Read the conversation. Results and words of one user message become two messages."""
        for message in body["messages"]:
            blocks = _blocks(message)
            if message["role"] == "assistant":
                yield AssistantMessage(parts=tuple(_part(block) for block in blocks))
                continue
            results = tuple(
                ToolResult(
                    call_id=block["tool_use_id"],
                    content=text_of(block.get("content")),
                    is_error=bool(block.get("is_error")),
                )
                for block in blocks
                if block["type"] == "tool_result"
            )
            if results:
                yield ToolMessage(results=results)
            if text := "".join(block["text"] for block in blocks if block["type"] == "text"):
                yield UserMessage(text=text)

    def turns(self, body: JsonObject) -> int:
        """Count the model's replies in the conversation."""
        return sum(message["role"] == "assistant" for message in body["messages"])

    def objection(self, body: JsonObject) -> str | None:
        """Say what the vendor would refuse the conversation for."""
        if not isinstance(body.get("max_tokens"), int):
            return "max_tokens: Field required"
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return "messages: at least one message is required"
        if messages[0].get("role") != "user":
            return "messages: first message must use the user role"
        if wrong := _wrong_marks(body):
            return wrong
        asked: list[str] = []
        every: set[str] = set()
        for index, message in enumerate(messages):
            blocks = _blocks(message)
            if not blocks or any(block.get("type") == "text" and not block.get("text") for block in blocks):
                return f"messages.{index}: text content blocks must be non-empty"
            answered = [str(block.get("tool_use_id")) for block in blocks if block.get("type") == "tool_result"]
            if missing := [call for call in asked if call not in answered]:
                return (
                    f"messages.{index - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                    f"{', '.join(missing)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                    "next message."
                )
            if sorted(answered) != sorted(asked):
                return (
                    f"messages.{index}: unexpected or repeated `tool_use_id` found in `tool_result` blocks: "
                    f"{', '.join(answered)}. Each `tool_result` block must have a corresponding `tool_use` block in "
                    "the previous message."
                )
            asked = [str(block.get("id")) for block in blocks if block.get("type") == "tool_use"]
            if len(set(asked)) < len(asked) or not every.isdisjoint(asked):
                return f"messages.{index}: `tool_use` ids must be unique"
            every.update(asked)
        if asked:
            return f"`tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(asked)}."
        return None

    def usage(self, body: JsonObject, size: int, turn: Turn, cache: PromptCache) -> Usage:
        """Estimate the tokens; Anthropic caches only what a request marks."""
        total = max(1, size // BYTES_PER_TOKEN)
        found = cache.marked(_prompt(body), scope=f"anthropic {body.get('model')}")
        read, kept = (min(total - 1, size // BYTES_PER_TOKEN) for size in (found.known, found.kept))
        return Usage(
            input_tokens=total,
            cache_read_tokens=read,
            cache_write_tokens=max(0, kept - read),
            output_tokens=output_tokens(turn),
        )

    def reply(self, answer: Answer) -> JsonObject:
        """Write the answer as a message."""
        return {
            **_envelope(answer),
            "content": list(_content(answer)),
            "stop_reason": self.finishes[answer.finish],
            "stop_details": _stop_details(answer),
            "usage": {**_input_usage(answer.usage), "output_tokens": answer.usage.output_tokens},
        }

    def stream(self, answer: Answer, body: JsonObject) -> StreamedAnswer:
        """Write the answer as a message's events."""
        del body
        start = {**_envelope(answer), "usage": {**_input_usage(answer.usage), "output_tokens": 1}}
        events = [_event("message_start", message=start), _event("ping")]
        for index, block in enumerate(_content(answer)):
            events += _block_events(index, block, answer)
        delta = {
            "stop_reason": self.finishes[answer.finish],
            "stop_sequence": None,
            "stop_details": _stop_details(answer),
        }
        usage = {"output_tokens": answer.usage.output_tokens}
        return StreamedAnswer(
            events=events, finish=[_event("message_delta", delta=delta, usage=usage), _event("message_stop")]
        )

    def error(self, status: int, problem: Problem) -> JsonObject:
        """Write an error's body."""
        return {
            "type": "error",
            "error": {"type": ERROR_TYPES.get(status, "api_error"), "message": problem.message},
            "request_id": "req_scripted",
        }

    def error_event(self, problem: Problem) -> bytes:
        """Write an error that comes after the answer has begun; the usual one is an overload."""
        return event(self.error(529, problem), name="error")


def _blocks(message: JsonObject) -> list[JsonObject]:
    content = message.get("content")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


def _part(block: JsonObject) -> Part:
    match block["type"]:
        case "text":
            return TextPart(text=block["text"])
        case "tool_use":
            return ToolCallPart(id=block["id"], name=block["name"], arguments=block["input"])
        case _:
            return OpaquePart(wire="anthropic", data=block)


def _prompt(body: JsonObject) -> list[Block]:
    """Return the prompt in the order in which the vendor reads it; one mark for the whole body stands for its end."""
    system = body.get("system") or ()
    blocks = [*(body.get("tools") or ()), *([{"type": "text", "text": system}] if isinstance(system, str) else system)]
    for message in body["messages"]:
        blocks += [{"role": message["role"], **block} for block in _blocks(message)]
    marked = [bool(block.get("cache_control")) for block in blocks]
    if marked:
        marked[-1] |= bool(body.get("cache_control"))
    return [
        Block({name: value for name, value in block.items() if name != "cache_control"}, marked=mark)
        for block, mark in zip(blocks, marked, strict=True)
    ]


def _wrong_marks(body: JsonObject) -> str | None:
    """Say what is wrong with the places that the request marks for the cache."""
    marked = [block.content for block in _prompt(body) if block.marked]
    if len(marked) > MAX_MARKS:
        return f"A maximum of {MAX_MARKS} blocks with cache_control may be provided. Found {len(marked)}."
    if any(block.get("type") in ("thinking", "redacted_thinking") for block in marked):
        return "cache_control: Extra inputs are not permitted in thinking blocks"
    return None


def _envelope(answer: Answer) -> JsonObject:
    return {
        "id": answer.id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": answer.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _stop_details(answer: Answer) -> JsonObject | None:
    if answer.finish not in (Finish.REFUSAL, Finish.CONTENT_FILTER):
        return None
    return {"type": "refusal", "category": None, "explanation": answer.turn.detail or None}


def _input_usage(usage: Usage) -> JsonObject:
    return {
        "input_tokens": usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "service_tier": "standard",
    }


def _content(answer: Answer) -> Iterator[JsonObject]:
    turn = answer.turn
    if turn.thinking:
        yield {"type": "thinking", "thinking": turn.thinking, "signature": answer.id("sig")}
    if turn.text:
        yield {"type": "text", "text": turn.text}
    for index, call in enumerate(turn.calls):
        yield {"type": "tool_use", "id": answer.id("toolu_", index), "name": call.name, "input": call.arguments}


def _block_events(index: int, block: JsonObject, answer: Answer) -> Iterator[bytes]:
    deltas: list[JsonObject]
    match block["type"]:
        case "thinking":
            empty = {**block, "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        case "text":
            empty = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        case _:
            empty = {**block, "input": {}}
            arguments = answer.arguments[index - bool(answer.turn.thinking) - bool(answer.turn.text)]
            # The vendor opens a call's input with an empty piece, and sends nothing more for a call without any.
            sent = ("", *pieces(arguments)) if arguments != "{}" else ("",)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in sent]
    yield _event("content_block_start", index=index, content_block=empty)
    for delta in deltas:
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


def _event(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, name=kind)
