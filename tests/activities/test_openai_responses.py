"""The provider `openai:` against literal bodies of the Responses API."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from perdure.activities import Finish
from perdure.contracts import Usage
from perdure.messages import (
    AssistantMessage,
    OpaquePart,
    TextPart,
    ToolCallPart,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from perdure_activities.providers.openai_responses import OpenAIResponses
from perdure_activities.providers.provider import ProviderReply
from tests.activities.wire_server import FIND_ORDER, Answer, WireServer, ignore, spec_of, sse

MODEL = "openai:gpt-5"
TIMEOUT = timedelta(seconds=20)
HELLO = UserMessage(text="hello")
REASONING = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [{"type": "summary_text", "text": 'thinking "hard"'}],
    "encrypted_content": "gAAAA+/==",
}
USAGE = {
    "input_tokens": 100,
    "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "output_tokens": 20,
    "output_tokens_details": {"reasoning_tokens": 5},
    "total_tokens": 120,
}


def words(text: str, **fields: Any) -> dict[str, Any]:
    """Return a message item."""
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "content": [part], **fields}


def function_call(arguments: str, *, status: str = "completed") -> dict[str, Any]:
    """Return a function call item."""
    return {
        "id": "fc_1",
        "type": "function_call",
        "call_id": "call_1",
        "name": "find_order",
        "arguments": arguments,
        "status": status,
    }


def response(*items: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a response object."""
    base = {"id": "resp_1", "model": "gpt-5-2025-08-07", "status": "completed", "output": list(items), "usage": USAGE}
    return base | fields


def stream(*items: dict[str, Any], last: str = "response.completed", **fields: Any) -> Answer:
    """Return a whole stream of a response with these items."""
    begun = {"type": "response.created", "response": response(status="in_progress")}
    deltas = [
        {"type": "response.output_text.delta", "output_index": 0, "delta": piece}
        for item in items
        for part in item.get("content", [])
        if part["type"] == "output_text"
        for piece in (part["text"][:3], part["text"][3:])
    ]
    done = [
        {"type": "response.output_item.done", "output_index": index, "item": item} for index, item in enumerate(items)
    ]
    return Answer(sse(begun, *deltas, *done, {"type": last, "response": response(*items, **fields)}, named=True))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> OpenAIResponses:
    """A provider that has not connected yet, and its key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")
    return OpenAIResponses()


async def ask(provider: OpenAIResponses, server: WireServer, monkeypatch: pytest.MonkeyPatch) -> ProviderReply:
    """Make one call at the server and close the provider."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    try:
        return await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
    finally:
        await provider.close()


async def test_a_reply_is_put_together_from_its_stream(
    provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reasoning, text and a function call arrive as parts in order, with model, finish and usage."""
    items = (REASONING, words("I look it up."), function_call('{"order_id": "A1"}'))
    async with WireServer(stream(*items)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.message.parts == (
        OpaquePart(wire="openai-responses", data=REASONING),
        TextPart(text="I look it up."),
        ToolCallPart(id="call_1", name="find_order", arguments={"order_id": "A1"}),
    )
    assert reply.finish is Finish.TOOL_CALLS
    assert reply.model == "gpt-5-2025-08-07"
    assert reply.usage == Usage(input_tokens=100, cache_read_tokens=60, cache_write_tokens=10, output_tokens=20)


async def test_the_request_is_what_the_api_documents(
    provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is stored, reasoning is asked for encrypted, tools are not strict, and the key is in the header."""
    spec = spec_of(MODEL, tools=[FIND_ORDER], instructions="Be brief.", temperature=0.5, max_output_tokens=1)
    async with WireServer(stream(words("hi"))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        await provider.call(spec, provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
        await provider.close()

    (request,) = server.requests
    assert request.path == "/v1/responses"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == "Bearer sk-secret-1"
    assert request.json == {
        "model": "gpt-5",
        "max_output_tokens": 16,
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "instructions": "Be brief.",
        "tools": [
            {
                "type": "function",
                "name": "find_order",
                "description": "Find an order.",
                "parameters": FIND_ORDER.input_schema,
                "strict": False,
            }
        ],
        "temperature": 0.5,
        "input": [{"role": "user", "content": "hello"}],
    }


async def test_models_without_reasoning_are_not_asked_for_it(
    provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older families refuse a request that asks for encrypted reasoning."""
    async with WireServer(stream(words("hi"))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        await provider.call(spec_of("openai:gpt-4.1"), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
        await provider.close()

    assert "include" not in server.requests[0].json


async def test_text_is_told_as_it_arrives(provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of text reaches `on_text` once, in order."""
    heard: list[str] = []
    async with WireServer(stream(words("one two"))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=heard.append)
        await provider.close()

    assert heard == ["one", " two"]


@pytest.mark.parametrize(
    ("reason", "finish", "detail"),
    [
        ("max_output_tokens", Finish.LENGTH, ""),
        ("content_filter", Finish.CONTENT_FILTER, ""),
        ("something_new", Finish.STOP, "incomplete for an unknown reason 'something_new'"),
        (None, Finish.STOP, "incomplete for an unknown reason ''"),
    ],
)
async def test_every_incomplete_response_has_an_end(
    provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch, reason: str | None, finish: Finish, detail: str
) -> None:
    """Each reason of an incomplete response maps to a finish, and the text so far is kept."""
    details = {"reason": reason} if reason else None
    answer = stream(words("so far"), last="response.incomplete", status="incomplete", incomplete_details=details)
    async with WireServer(answer) as server:
        reply = await ask(provider, server, monkeypatch)

    assert (reply.finish, reply.detail, reply.message.text) == (finish, detail, "so far")


async def test_a_refusal_says_why(provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is no text of the reply but its detail."""
    refused = words("") | {"content": [{"type": "refusal", "refusal": "I can't help with that."}]}
    async with WireServer(stream(refused)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert (reply.finish, reply.detail) == (Finish.REFUSAL, "I can't help with that.")
    assert reply.message.text == ""


@pytest.mark.parametrize(
    ("code", "type_", "final"),
    [
        ("server_error", "model_server_error", False),
        ("rate_limit_exceeded", "model_rate_limited", False),
        ("invalid_prompt", "model_request_rejected", True),
        ("insufficient_quota", "model_quota_exhausted", True),
        ("context_length_exceeded", "context_window", True),
        ("bio_policy", "model_request_rejected", True),
    ],
)
@pytest.mark.parametrize("how", ["response.failed", "error"])
async def test_a_failure_within_the_stream_follows_the_posture_table(
    provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch, how: str, code: str, type_: str, final: bool
) -> None:
    """`response.failed` and `error` events raise by their code, with the provider's message."""
    error = {"code": code, "message": "said so"}
    event = {"type": "error", **error} if how == "error" else {"type": how, "response": response(error=error)}
    async with WireServer(Answer(sse(event, named=True))) as server:
        with pytest.raises(ApplicationError, match="said so") as caught:
            await ask(provider, server, monkeypatch)

    assert (caught.value.type, caught.value.non_retryable) == (type_, final)


@pytest.mark.parametrize(
    ("raw", "status", "malformed"),
    [
        ('{"order_id": "A', "completed", '{"order_id": "A'),
        ("[]", "completed", "[]"),
        ("", "completed", None),
        ("", "incomplete", ""),
        ('{"order_id": "A1"}', "incomplete", '{"order_id": "A1"}'),
    ],
)
async def test_calls_that_must_not_run_are_malformed(
    provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch, raw: str, status: str, malformed: str | None
) -> None:
    """Arguments that are no object, and calls that OpenAI calls incomplete, are malformed, and go back as they came."""
    async with WireServer(stream(function_call(raw, status=status))) as server:
        reply = await ask(provider, server, monkeypatch)

    (call,) = reply.message.tool_calls
    assert call.malformed == malformed
    assert json.loads(provider.encode(reply.message))["arguments"] == (raw or "{}")


async def test_reasoning_comes_back_unchanged(provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reasoning items, items of unknown kinds and a message's phase are sent again exactly as they came."""
    strange = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": None}}
    items = (REASONING, strange, words("Looking.", phase="commentary"), function_call("{}"))
    async with WireServer(stream(*items)) as server:
        reply = await ask(provider, server, monkeypatch)

    restored = AssistantMessage.model_validate_json(reply.message.model_dump_json())
    assert json.loads(b"[" + provider.encode(restored) + b"]") == [
        REASONING,
        strange,
        {"role": "assistant", "content": "Looking.", "phase": "commentary"},
        {"type": "function_call", "call_id": "call_1", "name": "find_order", "arguments": "{}"},
    ]


def test_reasoning_that_led_to_nothing_is_not_sent_back(provider: OpenAIResponses) -> None:
    """OpenAI refuses reasoning without the item it led to, as a reply cut in its reasoning leaves behind."""
    thought = OpaquePart(wire="openai-responses", data=REASONING)

    assert provider.encode(AssistantMessage(parts=(thought,))) == b""


async def test_items_are_taken_from_the_stream_when_the_last_event_has_none(
    provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Servers that repeat no output in `response.completed` are understood."""
    async with WireServer(stream(words("hello"), output=[])) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.message.text == "hello"


async def test_a_stream_that_just_ends_is_no_reply(provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `response.completed` the call is retried, even when all its items have arrived."""
    whole = stream(words("hello")).body
    cut = whole[: whole.index(b"event: response.completed")]
    async with WireServer(Answer(cut)) as server:
        with pytest.raises(ApplicationError) as caught:
            await ask(provider, server, monkeypatch)

    assert (caught.value.type, caught.value.non_retryable) == ("model_reply_broken", False)


def test_messages_become_items(provider: OpenAIResponses) -> None:
    """Tool results become outputs, errors saying so; what is empty or another wire's is left out."""
    results = (ToolResult(call_id="a", content="found"), ToolResult(call_id="b", content="gone", is_error=True))
    foreign = OpaquePart(wire="anthropic", data={"type": "thinking"})

    assert json.loads(b"[" + provider.encode(ToolMessage(results=results)) + b"]") == [
        {"type": "function_call_output", "call_id": "a", "output": "found"},
        {"type": "function_call_output", "call_id": "b", "output": "Error: gone"},
    ]
    assert provider.encode(AssistantMessage(parts=(foreign, TextPart(text="")))) == b""


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_encodes_to_json(text: str) -> None:
    """Whatever a text holds (quotes, NUL, lone surrogates), its item is JSON in UTF-8 and says the same."""
    encoded = OpenAIResponses().encode(UserMessage.model_construct(role="user", text=text))

    assert json.loads(encoded.decode())["content"] == text.encode("utf-8", "replace").decode()


async def test_cancellation_closes_the_connection(provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call cancelled in mid-stream raises CancelledError untouched, and the provider stops being paid."""
    begun = asyncio.Event()
    delta = {"type": "response.output_text.delta", "output_index": 0, "delta": "on"}
    async with WireServer(Answer(sse(delta, named=True), then="hang")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        call = provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=lambda text: begun.set())
        task = asyncio.create_task(call)
        await begun.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)
        await provider.close()


async def test_a_connection_is_used_again(provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls after each other share one connection, so that the second one needs no handshake."""
    async with WireServer(stream(words("hi"))) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        for _ in range(2):
            await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
        await provider.close()

    assert [request.connection for request in server.requests] == [1, 1]


async def test_a_missing_key_is_named(provider: OpenAIResponses, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a key the call fails for good and says which variable is missing."""
    monkeypatch.delenv("OPENAI_API_KEY")

    with pytest.raises(ApplicationError, match="OPENAI_API_KEY") as caught:
        await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)

    assert (caught.value.type, caught.value.non_retryable) == ("model_authentication", True)
