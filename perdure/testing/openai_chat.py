"""OpenAI's Chat Completions API, which every compatible server speaks, from the vendor's side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from perdure.activities import Finish
from perdure.contracts import Usage
from perdure.messages import AssistantMessage, JsonObject, Message, TextPart, ToolMessage, ToolResult, UserMessage
from perdure.testing.openai import openai_error, openai_usage
from perdure.testing.prompt_cache import PromptCache
from perdure.testing.script import Turn
from perdure.testing.wire import Answer, Problem, StreamedAnswer, event, pieces, read_call, text_of


class OpenAIChat:
    """`POST /v1/chat/completions`."""

    name = "openai-chat"
    finishes: Mapping[Finish, str] = {
        Finish.STOP: "stop",
        Finish.TOOL_CALLS: "tool_calls",
        Finish.REFUSAL: "stop",
        Finish.LENGTH: "length",
        Finish.CONTENT_FILTER: "content_filter",
    }

    def instructions(self, body: JsonObject) -> str:
        """Return what system and developer messages say."""
        said = [message for message in body["messages"] if message.get("role") in ("system", "developer")]
        return "\n\n".join(text_of(message.get("content")) for message in said)

    def tools(self, body: JsonObject) -> tuple[str, ...]:
        """Return the names of the functions offered."""
        return tuple(str((tool.get("function") or {}).get("name")) for tool in body.get("tools") or ())

    def messages(self, body: JsonObject) -> Iterator[Message]:
        """Read the conversation. Results that follow each other answer one reply."""
        for role, group in groupby(body["messages"], key=lambda message: message.get("role")):
            if role == "tool":
                yield ToolMessage(
                    results=tuple(
                        ToolResult(call_id=message["tool_call_id"], content=text_of(message.get("content")))
                        for message in group
                    )
                )
            elif role == "assistant":
                yield from (_reply(message) for message in group)
            elif role == "user":
                yield from (UserMessage(text=text_of(message.get("content"))) for message in group)

    def turns(self, body: JsonObject) -> int:
        """Count the model's replies in the conversation."""
        return sum(message.get("role") == "assistant" for message in body["messages"])

    def objection(self, body: JsonObject) -> str | None:
        """Say what the vendor would refuse the conversation for."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            return "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array."
        waiting: set[str] = set()
        for index, message in enumerate(messages):
            if message.get("role") == "tool":
                if message.get("tool_call_id") not in waiting:
                    return (
                        f"Invalid parameter: messages.[{index}] with role 'tool' must be a response to a preceeding "
                        "message with 'tool_calls'."
                    )
                waiting.discard(message["tool_call_id"])
                continue
            if waiting:
                break
            waiting = {str(call.get("id")) for call in message.get("tool_calls") or ()}
        if waiting:
            missing = ", ".join(sorted(waiting))
            return (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {missing}"
            )
        return None

    def usage(self, body: JsonObject, size: int, turn: Turn, cache: PromptCache) -> Usage:
        """Estimate the tokens."""
        return openai_usage(body, body["messages"], size=size, turn=turn, cache=cache)

    def reply(self, answer: Answer) -> JsonObject:
        """Write the answer as a completion."""
        message: JsonObject = {
            "role": "assistant",
            "content": answer.turn.text or None,
            "refusal": _refusal(answer),
            "annotations": [],
        }
        if answer.turn.calls:
            message["tool_calls"] = [_call(answer, index) for index in range(len(answer.turn.calls))]
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": self.finishes[answer.finish],
        }
        return {**_envelope(answer, "chat.completion"), "choices": [choice], "usage": _usage(answer.usage)}

    def stream(self, answer: Answer, body: JsonObject) -> StreamedAnswer:
        """Write the answer as chunks; the one with the usage comes only if asked for, as at the vendor."""
        wants_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        envelope = _envelope(answer, "chat.completion.chunk")

        def chunk(delta: JsonObject, finish: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
            return event({**envelope, "choices": [choice]} | ({"usage": None} if wants_usage else {}))

        events = [chunk({"role": "assistant", "content": "", "refusal": None})]
        events += [chunk({"content": piece}) for piece in pieces(answer.turn.text)]
        events += [chunk({"refusal": piece}) for piece in pieces(_refusal(answer) or "")]
        for index in range(len(answer.turn.calls)):
            call = _call(answer, index)
            function = {"name": call["function"]["name"], "arguments": ""}
            events.append(chunk({"tool_calls": [{**call, "index": index, "function": function}]}))
            events += [
                chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
                for piece in pieces(answer.arguments[index])
            ]
        finish = [chunk({}, self.finishes[answer.finish])]
        if wants_usage:
            finish.append(event({**envelope, "choices": [], "usage": _usage(answer.usage)}))
        return StreamedAnswer(events=events, finish=[*finish, b"data: [DONE]\n\n"])

    def error(self, status: int, problem: Problem) -> JsonObject:
        """Write an error's body."""
        return openai_error(status, problem)

    def error_event(self, problem: Problem) -> bytes:
        """Write an error that comes after the answer has begun."""
        return event(openai_error(500, problem))


def _reply(message: JsonObject) -> AssistantMessage:
    text = text_of(message.get("content"))
    calls = [
        read_call(call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    return AssistantMessage(parts=(*([TextPart(text=text)] if text else []), *calls))


def _envelope(answer: Answer, kind: str) -> JsonObject:
    return {
        "id": answer.id("chatcmpl-"),
        "object": kind,
        "created": answer.created,
        "model": answer.model,
        "service_tier": "default",
        "system_fingerprint": "fp_scripted",
    }


def _refusal(answer: Answer) -> str | None:
    return (answer.turn.detail or "I can't help with that.") if answer.finish is Finish.REFUSAL else None


def _call(answer: Answer, index: int) -> dict[str, Any]:
    function = {"name": answer.turn.calls[index].name, "arguments": answer.arguments[index]}
    return {"id": answer.id("call_", index), "type": "function", "function": function}


def _usage(usage: Usage) -> JsonObject:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }
