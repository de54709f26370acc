"""OpenAI's Responses API, from the vendor's side. Source: the event and item types of the `openai` SDK."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

from perdure.activities import Finish
from perdure.contracts import Usage
from perdure.messages import (
    AssistantMessage,
    JsonObject,
    Message,
    OpaquePart,
    Part,
    TextPart,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from perdure.testing.openai import openai_error, openai_usage
from perdure.testing.prompt_cache import PromptCache
from perdure.testing.script import Turn
from perdure.testing.wire import Answer, Problem, StreamedAnswer, event, pieces, read_call, text_of

WIRE = "openai"


class OpenAIResponses:
    """`POST /v1/responses`."""

    name = WIRE
    finishes: Mapping[Finish, str] = {
        Finish.STOP: "completed",
        Finish.TOOL_CALLS: "completed",
        Finish.REFUSAL: "completed",
        Finish.LENGTH: "max_output_tokens",
        Finish.CONTENT_FILTER: "content_filter",
    }

    def instructions(self, body: JsonObject) -> str:
        """Return the instructions, and after them what system and developer messages say."""
        said = [text_of(item.get("content")) for item in _items(body) if item.get("role") in ("system", "developer")]
        return "\n\n".join(text for text in (body.get("instructions") or "", *said) if text)

    def tools(self, body: JsonObject) -> tuple[str, ...]:
        """Return the names of the functions offered."""
        return tuple(str(tool.get("name", tool.get("type"))) for tool in body.get("tools") or ())

    def messages(self, body: JsonObject) -> Iterator[Message]:
        """Read the conversation. Items of the model that follow each other are one reply."""
        for kind, items in groupby(_items(body), key=_kind):
            match kind:
                case "assistant":
                    yield AssistantMessage(parts=tuple(part for item in items for part in _parts(item)))
                case "tool":
                    yield ToolMessage(
                        results=tuple(
                            ToolResult(call_id=item["call_id"], content=text_of(item["output"])) for item in items
                        )
                    )
                case "user":
                    for item in items:
                        yield UserMessage(text=text_of(item.get("content")))

    def turns(self, body: JsonObject) -> int:
        """Count the model's replies; two in a row cannot be told from one."""
        return sum(kind == "assistant" for kind, _ in groupby(_items(body), key=_kind))

    def objection(self, body: JsonObject) -> str | None:
        """Say what the vendor would refuse the conversation for."""
        items = _items(body)
        if not items:
            return "Missing required parameter: 'input'."
        asked: set[str] = set()
        answered: set[str] = set()
        for item in items:
            call_id = str(item.get("call_id"))
            if item.get("type") == "function_call":
                asked.add(call_id)
            elif item.get("type") == "function_call_output":
                if call_id not in asked:
                    return f"No tool call found for function call output with call_id {call_id}."
                if call_id in answered:
                    return f"Duplicate item found with call_id {call_id}."
                answered.add(call_id)
        if missing := sorted(asked - answered):
            return f"No tool output found for function call {missing[0]}."
        return None

    def usage(self, body: JsonObject, size: int, turn: Turn, cache: PromptCache) -> Usage:
        """Estimate the tokens."""
        return openai_usage(body, _items(body), size=size, turn=turn, cache=cache)

    def reply(self, answer: Answer) -> JsonObject:
        """Write the answer as a response."""
        return self._response(answer, list(_output(answer)), body={})

    def stream(self, answer: Answer, body: JsonObject) -> StreamedAnswer:
        """Write the answer as a response's events."""
        opening = {**self._response(answer, [], body=body), "status": "in_progress", "usage": None}
        opening |= {"incomplete_details": None, "completed_at": None}
        numbered = _Numbered()
        numbered.add("response.created", response=opening)
        numbered.add("response.in_progress", response=opening)
        output = list(_output(answer))
        for index, item in enumerate(output):
            _add_item(numbered, index, item)
        events = list(numbered.events)
        response = self._response(answer, output, body=body)
        numbered.add(f"response.{response['status']}", response=response)
        return StreamedAnswer(events=events, finish=numbered.events[-1:])

    def error(self, status: int, problem: Problem) -> JsonObject:
        """Write an error's body."""
        return openai_error(status, problem)

    def error_event(self, problem: Problem) -> bytes:
        """Write an error that comes after the answer has begun."""
        data = {"type": "error", "code": problem.code or "server_error", "message": problem.message, "param": None}
        return event({**data, "sequence_number": 1_000_000}, name="error")

    def _response(self, answer: Answer, output: list[JsonObject], *, body: JsonObject) -> JsonObject:
        word = self.finishes[answer.finish]
        complete = word == "completed"
        usage = answer.usage
        return {
            "id": answer.id("resp_"),
            "object": "response",
            "created_at": answer.created,
            "completed_at": answer.created,
            "status": "completed" if complete else "incomplete",
            "error": None,
            "incomplete_details": None if complete else {"reason": word},
            "instructions": None,
            "max_output_tokens": body.get("max_output_tokens"),
            "model": answer.model,
            "output": output,
            "parallel_tool_calls": True,
            "temperature": body.get("temperature"),
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "usage": {
                "input_tokens": usage.input_tokens,
                "input_tokens_details": {
                    "cached_tokens": usage.cache_read_tokens,
                    "cache_write_tokens": usage.cache_write_tokens,
                },
                "output_tokens": usage.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.input_tokens + usage.output_tokens,
            },
        }


class _Numbered:
    """Events of one response, with the sequence numbers the format wants."""

    def __init__(self) -> None:
        self.events: list[bytes] = []

    def add(self, kind: str, **fields: Any) -> None:
        self.events.append(event({"type": kind, **fields, "sequence_number": len(self.events)}, name=kind))


def _items(body: JsonObject) -> list[JsonObject]:
    given = body.get("input")
    return [{"role": "user", "content": given}] if isinstance(given, str) else given or []


def _kind(item: JsonObject) -> str:
    match item.get("type", "message"):
        case "message":
            return str(item.get("role"))
        case "function_call_output":
            return "tool"
        case _:
            return "assistant"


def _parts(item: JsonObject) -> Iterable[Part]:
    match item.get("type", "message"):
        case "message":
            return [TextPart(text=text)] if (text := text_of(item.get("content"))) else []
        case "function_call":
            return [read_call(item["call_id"], item["name"], item["arguments"])]
        case _:
            return [OpaquePart(wire=WIRE, data=item)]


def _output(answer: Answer) -> Iterator[JsonObject]:
    turn = answer.turn
    status = "incomplete" if answer.finish in (Finish.LENGTH, Finish.CONTENT_FILTER) else "completed"
    if turn.thinking:
        summary = [{"type": "summary_text", "text": turn.thinking}]
        sealed = answer.id("gAAAA")
        yield {"id": answer.id("rs_"), "type": "reasoning", "summary": summary, "encrypted_content": sealed}
    parts: list[JsonObject] = []
    if turn.text:
        parts.append({"type": "output_text", "text": turn.text, "annotations": [], "logprobs": []})
    if answer.finish is Finish.REFUSAL:
        parts.append({"type": "refusal", "refusal": turn.detail or "I can't help with that."})
    if parts:
        yield {"id": answer.id("msg_"), "type": "message", "role": "assistant", "status": status, "content": parts}
    for index, call in enumerate(turn.calls):
        yield {
            "id": answer.id("fc_", index),
            "type": "function_call",
            "status": status,
            "call_id": answer.id("call_", index),
            "name": call.name,
            "arguments": answer.arguments[index],
        }


def _add_item(numbered: _Numbered, index: int, item: JsonObject) -> None:
    place: JsonObject = {"item_id": item["id"], "output_index": index}
    match item["type"]:
        case "message":
            empty: JsonObject = {**item, "status": "in_progress", "content": []}
        case "function_call":
            empty = {**item, "status": "in_progress", "arguments": ""}
        case _:
            empty = {**item, "summary": [], "encrypted_content": ""}
    numbered.add("response.output_item.added", output_index=index, item=empty)
    if item["type"] == "function_call":
        for piece in pieces(item["arguments"]):
            numbered.add("response.function_call_arguments.delta", **place, delta=piece)
        numbered.add("response.function_call_arguments.done", **place, name=item["name"], arguments=item["arguments"])
    for position, part in enumerate(item.get("content", ())):
        _add_content(numbered, {**place, "content_index": position}, part)
    for position, part in enumerate(item.get("summary", ())):
        where = {**place, "summary_index": position}
        numbered.add("response.reasoning_summary_part.added", **where, part={**part, "text": ""})
        for piece in pieces(part["text"]):
            numbered.add("response.reasoning_summary_text.delta", **where, delta=piece)
        numbered.add("response.reasoning_summary_text.done", **where, text=part["text"])
        numbered.add("response.reasoning_summary_part.done", **where, part=part)
    numbered.add("response.output_item.done", output_index=index, item=item)


def _add_content(numbered: _Numbered, place: JsonObject, part: JsonObject) -> None:
    word, field = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
    extra: JsonObject = {} if part["type"] == "refusal" else {"logprobs": []}
    numbered.add("response.content_part.added", **place, part={**part, field: ""})
    for piece in pieces(part[field]):
        numbered.add(f"response.{word}.delta", **place, delta=piece, **extra)
    numbered.add(f"response.{word}.done", **place, **{field: part[field]}, **extra)
    numbered.add("response.content_part.done", **place, part=part)
