"""The provider `openai-chat:` against literal bodies of Chat Completions, OpenAI's and those of compatible servers."""

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
from perdure_activities.providers.openai_chat import CompletionBuilder, OpenAIChat
from perdure_activities.providers.provider import ProviderReply
from tests.activities.wire_server import FIND_ORDER, Answer, WireServer, ignore, spec_of, sse

MODEL = "openai-chat:gpt-5"
TIMEOUT = timedelta(seconds=20)
HELLO = UserMessage(text="hello")
USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60},
}
DONE = b"data: [DONE]\n\n"


def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    """Return a chunk with one choice."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-5-2025-08-07", "choices": [choice]}


def call_delta(index: int | None, id_: str | None = None, name: str | None = None, arguments: Any = "") -> Any:
    """Return a delta of one tool call; what is None is left out."""
    function = {"arguments": arguments} | ({"name": name} if name is not None else {})
    given = {"index": index, "id": id_}
    return {"tool_calls": [{k: v for k, v in given.items() if v is not None} | {"function": function}]}


def stream(*deltas: dict[str, Any], finish: str | None = "stop", usage: dict[str, Any] | None = USAGE) -> Answer:
    """Return a whole stream."""
    last = [chunk({}, finish)] if finish else []
    counted = [{"model": "gpt-5-2025-08-07", "choices": [], "usage": usage}] if usage else []
    return Answer(sse(chunk({"role": "assistant", "content": ""}), *map(chunk, deltas), *last, *counted) + DONE)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> OpenAIChat:
    """A provider that has not connected yet, and its key."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")
    return OpenAIChat()


async def ask(provider: OpenAIChat, server: WireServer, monkeypatch: pytest.MonkeyPatch) -> ProviderReply:
    """Make one call at the server and close the provider."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
    try:
        return await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
    finally:
        await provider.close()


async def test_a_reply_is_put_together_from_its_stream(provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text and interleaved tool calls arrive as parts in order, with model, finish and usage."""
    deltas = (
        {"content": "I look "},
        {"content": "it up."},
        call_delta(0, "call_a", "find_order", ""),
        call_delta(1, "call_b", "find_order", '{"order_id"'),
        call_delta(0, arguments='{"order_id": "A1"}'),
        call_delta(1, arguments=': "B2"}'),
    )
    async with WireServer(stream(*deltas, finish="tool_calls")) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.message.parts == (
        TextPart(text="I look it up."),
        ToolCallPart(id="call_a", name="find_order", arguments={"order_id": "A1"}),
        ToolCallPart(id="call_b", name="find_order", arguments={"order_id": "B2"}),
    )
    assert reply.finish is Finish.TOOL_CALLS
    assert reply.model == "gpt-5-2025-08-07"
    assert reply.usage == Usage(input_tokens=100, cache_read_tokens=60, output_tokens=20)


async def test_the_request_is_what_the_api_documents(provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """The instructions are the first message, usage is asked for, and a compatible server gets `max_tokens`."""
    spec = spec_of(MODEL, tools=[FIND_ORDER], instructions="Be brief.", temperature=0.5, max_output_tokens=99)
    async with WireServer(stream({"content": "hi"})) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        await provider.call(spec, provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
        await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
        await provider.close()

    full, bare = server.requests
    assert full.path == "/v1/chat/completions"
    assert full.headers["content-type"] == "application/json"
    assert full.json == {
        "model": "gpt-5",
        "max_tokens": 99,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "find_order",
                    "description": "Find an order.",
                    "parameters": FIND_ORDER.input_schema,
                },
            }
        ],
        "temperature": 0.5,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
    }
    assert bare.json["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("finish_reason", "finish", "detail"),
    [
        ("stop", Finish.STOP, ""),
        ("length", Finish.LENGTH, ""),
        ("tool_calls", Finish.STOP, ""),
        ("content_filter", Finish.CONTENT_FILTER, ""),
        ("function_call", Finish.STOP, ""),
        ("eos", Finish.STOP, "unknown finish reason 'eos'"),
    ],
)
async def test_every_finish_reason_has_an_end(
    provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch, finish_reason: str, finish: Finish, detail: str
) -> None:
    """Each finish reason maps to a finish; without a call `tool_calls` stops, and an unknown one is named."""
    async with WireServer(stream({"content": "words"}, finish=finish_reason)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert (reply.finish, reply.detail, reply.message.text) == (finish, detail, "words")


async def test_a_refusal_says_why(provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal is no text of the reply but its detail."""
    async with WireServer(stream({"refusal": "I can't "}, {"refusal": "do that."})) as server:
        reply = await ask(provider, server, monkeypatch)

    assert (reply.finish, reply.detail) == (Finish.REFUSAL, "I can't do that.")
    assert reply.message.parts == ()


@pytest.mark.parametrize(
    ("deltas", "ids", "arguments"),
    [
        pytest.param([call_delta(0, "a", "f", "{}")], ["a"], [{}], id="finished by stop"),
        pytest.param([call_delta(0, None, "f", "{}")], ["call_0"], [{}], id="no id"),
        pytest.param(
            [call_delta(0, "", "f", '{"n":1}'), call_delta(1, "", "f", '{"n":2}')],
            ["call_0", "call_1"],
            [{"n": 1}, {"n": 2}],
            id="empty ids",
        ),
        pytest.param(
            [call_delta(0, "x", "f", '{"n":1}'), call_delta(1, "x", "f", '{"n":2}')],
            ["x", "call_1"],
            [{"n": 1}, {"n": 2}],
            id="one id twice",
        ),
        pytest.param(
            [call_delta(0, "a", "f", '{"n":1}'), call_delta(0, "b", "f", '{"n":2}')],
            ["a", "b"],
            [{"n": 1}, {"n": 2}],
            id="one index twice",
        ),
        pytest.param(
            [call_delta(None, None, "f", '{"n":'), call_delta(None, arguments="1}"), call_delta(None, None, "f", "{}")],
            ["call_0", "call_1"],
            [{"n": 1}, {}],
            id="no index",
        ),
        pytest.param([call_delta(0, "a", "f", {"n": 1})], ["a"], [{"n": 1}], id="arguments as an object"),
        pytest.param(
            [{"function_call": {"name": "f", "arguments": '{"n":'}}, {"function_call": {"arguments": "1}"}}],
            ["call_0"],
            [{"n": 1}],
            id="legacy function_call",
        ),
    ],
)
async def test_compatible_servers_dialects_of_tool_calls_are_understood(
    provider: OpenAIChat,
    monkeypatch: pytest.MonkeyPatch,
    deltas: list[dict[str, Any]],
    ids: list[str],
    arguments: list[dict[str, Any]],
) -> None:
    """Missing or repeated ids and indexes and `stop` as finish still make distinct, complete calls."""
    async with WireServer(stream(*deltas, finish="stop", usage=None)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.finish is Finish.TOOL_CALLS
    assert [call.id for call in reply.message.tool_calls] == ids
    assert [call.arguments for call in reply.message.tool_calls] == arguments


async def test_the_last_usage_counts(provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server may report usage with every chunk; what it says at the end is what the call used."""
    early = chunk({"content": "hi"}) | {"usage": {"prompt_tokens": 100, "completion_tokens": 1}}
    body = sse(early, chunk({}, "stop"), {"choices": [], "usage": USAGE}) + DONE
    async with WireServer(Answer(body)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.usage.output_tokens == 20


async def test_missing_usage_is_no_usage(provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that reports no usage gets its reply counted, and nothing to price."""
    async with WireServer(stream({"content": "hi"}, usage=None)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert (reply.message.text, reply.usage, reply.priced_usage) == ("hi", Usage(), {})


async def test_a_local_model_is_priced_by_its_own_name_only(
    provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name a compatible server claims for its model plays no part in the price."""
    async with WireServer(stream({"content": "hi"})) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        reply = await provider.call(
            spec_of("openai-chat:my-llama"), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore
        )
        await provider.close()

    assert (reply.model, reply.priced_usage["model"]) == ("gpt-5-2025-08-07", "my-llama")


@pytest.mark.parametrize("raw", ['{"order_id": "A', "[1]", "nonsense"])
async def test_arguments_that_are_no_object_are_malformed(
    provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch, raw: str
) -> None:
    """They are kept as sent, and go back as an empty object, which every server's template can read."""
    async with WireServer(stream(call_delta(0, "a", "f", raw), finish="tool_calls")) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.message.tool_calls[0].malformed == raw
    assert json.loads(provider.encode(reply.message))["tool_calls"][0]["function"]["arguments"] == "{}"


async def test_a_call_cut_by_the_limit_is_malformed(provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the reply ran into its limit, a last call without arguments yet is not taken for one without parameters."""
    deltas = (call_delta(0, "a", "f", ""), call_delta(1, "b", "f", ""))
    async with WireServer(stream(*deltas, finish="length")) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.finish is Finish.LENGTH
    assert [call.malformed for call in reply.message.tool_calls] == [None, ""]


async def test_shown_reasoning_goes_back_with_its_calls(provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that shows its model's reasoning gets it back beside the calls, and never beside a mere answer."""
    thinking = {"reasoning_content": "Hm, "}, {"reasoning_content": "orders."}
    async with WireServer(
        stream(*thinking, call_delta(0, "a", "f", "{}"), finish="tool_calls"), stream(*thinking, {"content": "hi"})
    ) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        calling, answering = [
            await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
            for _ in range(2)
        ]
        await provider.close()

    assert json.loads(provider.encode(calling.message))["reasoning_content"] == "Hm, orders."
    assert answering.message.parts == (TextPart(text="hi"),)


@pytest.mark.parametrize("tail", [b"", DONE])
async def test_a_stream_that_just_ends_is_no_reply(
    provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch, tail: bytes
) -> None:
    """Without a finish reason the call is retried, with or without `[DONE]`."""
    async with WireServer(Answer(sse(chunk({"content": "half"})) + tail)) as server:
        with pytest.raises(ApplicationError) as caught:
            await ask(provider, server, monkeypatch)

    assert (caught.value.type, caught.value.non_retryable) == ("model_reply_broken", False)


@pytest.mark.parametrize(
    "event",
    [
        {"choices": None},
        {"choices": [{"delta": None, "finish_reason": None}], "usage": None},
        {"choices": ["nonsense"]},
        {"choices": [{"delta": {"tool_calls": [None, {"function": None}], "content": 7}}]},
    ],
)
def test_odd_chunks_do_no_harm(event: dict[str, Any]) -> None:
    """Chunks with nulls or other types where objects belong are taken as empty."""
    builder = CompletionBuilder(ignore, priced_model="m")

    builder.feed(event)
    builder.feed(chunk({"content": "hi"}, "stop"))

    assert builder.reply().message.text == "hi"


def test_messages_become_items(provider: OpenAIChat) -> None:
    """Tool results become tool messages, errors saying so; what is empty or another wire's is left out."""
    results = (ToolResult(call_id="a", content="found"), ToolResult(call_id="b", content="gone", is_error=True))
    foreign = OpaquePart(wire="anthropic", data={"type": "thinking"})
    calling = AssistantMessage(parts=(foreign, ToolCallPart(id="a", name="f", arguments={"ä": 1})))

    assert json.loads(b"[" + provider.encode(ToolMessage(results=results)) + b"]") == [
        {"role": "tool", "tool_call_id": "a", "content": "found"},
        {"role": "tool", "tool_call_id": "b", "content": "Error: gone"},
    ]
    assert json.loads(provider.encode(calling)) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"ä":1}'}}],
    }
    assert provider.encode(AssistantMessage(parts=(foreign, TextPart(text="")))) == b""


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_encodes_to_json(text: str) -> None:
    """Whatever a text holds (quotes, NUL, lone surrogates), its item is JSON in UTF-8 and says the same."""
    encoded = OpenAIChat().encode(UserMessage.model_construct(role="user", text=text))

    assert json.loads(encoded.decode())["content"] == text.encode("utf-8", "replace").decode()


async def test_cancellation_closes_the_connection(provider: OpenAIChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call cancelled in mid-stream raises CancelledError untouched, and the provider stops being paid."""
    begun = asyncio.Event()
    async with WireServer(Answer(sse(chunk({"content": "on"})), then="hang")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        call = provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=lambda text: begun.set())
        task = asyncio.create_task(call)
        await begun.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)
        await provider.close()
