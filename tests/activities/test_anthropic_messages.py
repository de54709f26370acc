"""The provider `anthropic:` against literal bodies of the Messages API."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.exceptions import ApplicationError

from perdure.activities import Finish
from perdure.contracts import Usage
from perdure.messages import (
    AssistantMessage,
    Message,
    OpaquePart,
    TextPart,
    ToolCallPart,
    ToolMessage,
    ToolResult,
    UserMessage,
    canonical,
)
from perdure_activities.providers.anthropic_messages import AnthropicMessages, _marked
from perdure_activities.providers.provider import PromptCache, ProviderReply
from tests.activities.wire_server import FIND_ORDER, Answer, WireServer, ignore, spec_of, sse

MODEL = "anthropic:claude-sonnet-5-5"
TIMEOUT = timedelta(seconds=20)
START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5-5-20260901",
        "content": [],
        "stop_reason": None,
        "usage": {
            "input_tokens": 100,
            "cache_read_input_tokens": 5000,
            "cache_creation_input_tokens": 1000,
            "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600},
            "output_tokens": 1,
        },
    },
}
STOP = {"type": "message_stop"}
HELLO = UserMessage(text="hello")


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of one content block."""
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def text_block(index: int, *pieces: str) -> list[dict[str, Any]]:
    """Return the events of one text."""
    deltas = [{"type": "text_delta", "text": piece} for piece in pieces]
    return block(index, {"type": "text", "text": ""}, *deltas)


def tool_block(index: int, raw: str) -> list[dict[str, Any]]:
    """Return the events of one tool call whose arguments are this text."""
    start = {"type": "tool_use", "id": f"toolu_{index}", "name": "find_order", "input": {}}
    half = len(raw) // 2
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in ("", raw[:half], raw[half:])]
    return block(index, start, *deltas)


def ending(stop_reason: str, **delta: Any) -> list[dict[str, Any]]:
    """Return the last two events."""
    change = {"stop_reason": stop_reason, "stop_sequence": None, **delta}
    usage = {"output_tokens": 200, "cache_read_input_tokens": None}
    return [{"type": "message_delta", "delta": change, "usage": usage}, STOP]


def stream(*events: dict[str, Any]) -> Answer:
    """Return a whole stream."""
    return Answer(sse(START, {"type": "ping"}, *events, named=True))


@pytest.fixture
def provider() -> AnthropicMessages:
    """A provider that has not connected yet."""
    return AnthropicMessages()


async def ask(
    provider: AnthropicMessages, server: WireServer, monkeypatch: pytest.MonkeyPatch, *messages: Message
) -> ProviderReply:
    """Make one call at the server and close the provider."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-1")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    items = b",".join(provider.encode(message) for message in messages or (HELLO,))
    try:
        return await provider.call(spec_of(MODEL), items, timeout=TIMEOUT, on_text=ignore)
    finally:
        await provider.close()


async def test_a_reply_is_put_together_from_its_stream(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thinking, text and a tool call arrive as parts in order, with model, finish and usage, cached tokens included."""
    thinking = block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Let me "},
        {"type": "thinking_delta", "thinking": "see."},
        {"type": "signature_delta", "signature": "EqQB=="},
    )
    events = [*thinking, *text_block(1, "I look ", "it up."), *tool_block(2, '{"order_id": "A1"}'), *ending("tool_use")]
    async with WireServer(stream(*events)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.message.parts == (
        OpaquePart(wire="anthropic", data={"type": "thinking", "thinking": "Let me see.", "signature": "EqQB=="}),
        TextPart(text="I look it up."),
        ToolCallPart(id="toolu_2", name="find_order", arguments={"order_id": "A1"}),
    )
    assert reply.finish is Finish.TOOL_CALLS
    assert reply.model == "claude-sonnet-5-5-20260901"
    assert reply.usage == Usage(input_tokens=6100, cache_read_tokens=5000, cache_write_tokens=1000, output_tokens=200)


async def test_the_request_is_what_the_api_documents(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The body carries model, limits, instructions, tools and the messages, and the SDK its headers and key."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-1")
    async with WireServer(stream(*text_block(0, "hi"), *ending("end_turn"))) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        spec = spec_of(MODEL, tools=[FIND_ORDER], instructions="Be brief.", temperature=0.5, max_output_tokens=99)
        await provider.call(spec, provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
        await provider.close()

    (request,) = server.requests
    assert request.path == "/v1/messages"
    assert request.headers["content-type"] == "application/json"
    assert "anthropic-version" in request.headers
    assert "sk-ant-secret-1" in "".join(request.headers.values())
    assert request.json == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 99,
        "stream": True,
        "system": "Be brief.",
        "tools": [
            {"name": "find_order", "description": "Find an order.", "input_schema": FIND_ORDER.input_schema},
        ],
        "temperature": 0.5,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
    }


async def test_what_is_to_be_cached_is_marked(provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tool, the instructions, where the conversation ended before and where it ends now; nothing else."""
    look = ToolCallPart(id="a", name="find_order")
    found = ToolResult(call_id="a", content="found")
    conversation: list[Message] = [HELLO, AssistantMessage(parts=(TextPart(text="}]}"), look))]
    conversation.append(ToolMessage(results=(found, found)))
    items = [provider.encode(message) for message in conversation]
    spec = spec_of(MODEL, tools=[FIND_ORDER, FIND_ORDER], instructions="Be brief.")
    caches = [PromptCache(key="k"), PromptCache(key="k", sent=len(items[0])), None]
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-1")
    async with WireServer(*[stream(*text_block(0, "hi"), *ending("end_turn"))] * 3) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        for cache, sent in zip(caches, (items[:1], items, items), strict=True):
            await provider.call(spec, b",".join(sent), timeout=TIMEOUT, on_text=ignore, cache=cache)
        await provider.close()

    first, second, unmarked = (request.json for request in server.requests)
    mark = {"cache_control": {"type": "ephemeral"}}
    assert first["tools"] == second["tools"] == [unmarked["tools"][0], unmarked["tools"][1] | mark]
    assert first["system"] == second["system"] == [{"type": "text", "text": "Be brief.", **mark}]
    question, reply, results = unmarked["messages"]
    marked = {"role": "user", "content": [question["content"][0] | mark]}
    assert first["messages"] == [marked]
    assert second["messages"] == [
        marked,
        reply,
        {"role": "user", "content": [results["content"][0], results["content"][1] | mark]},
    ]


@given(texts=st.lists(st.text(), min_size=1, max_size=6), data=st.data())
def test_marking_changes_nothing_but_the_marked_blocks(texts: list[str], data: st.DataObject) -> None:
    """Whatever the messages hold, quotes and brackets and all, they are the same JSON without the marks."""
    items = [AnthropicMessages().encode(UserMessage(text=text)) for text in texts]
    messages = b",".join(items)
    ends = [len(b",".join(items[: count + 1])) for count in range(len(items))]
    chosen = sorted(data.draw(st.sets(st.sampled_from(ends))))

    marked = json.loads(b"[" + b"".join(_marked(messages, chosen)) + b"]")

    for message, end in zip(marked, ends, strict=True):
        assert (message["content"][-1].pop("cache_control", None) is not None) == (end in chosen)
    assert marked == json.loads(b"[" + messages + b"]")


async def test_text_is_told_as_it_arrives(provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece of text reaches `on_text` once, in order."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-1")
    heard: list[str] = []
    async with WireServer(stream(*text_block(0, "one ", "two ", "three"), *ending("end_turn"))) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=heard.append)
        await provider.close()

    assert heard == ["one ", "two ", "three"]


@pytest.mark.parametrize(
    ("stop_reason", "finish"),
    [
        ("end_turn", Finish.STOP),
        ("stop_sequence", Finish.STOP),
        ("tool_use", Finish.STOP),
        ("max_tokens", Finish.LENGTH),
        ("pause_turn", Finish.PAUSE),
        ("refusal", Finish.REFUSAL),
        ("model_context_window_exceeded", Finish.CONTEXT_WINDOW),
        ("something_new", Finish.STOP),
    ],
)
async def test_every_stop_reason_has_an_end(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch, stop_reason: str, finish: Finish
) -> None:
    """Each stop reason maps to a finish; `tool_use` without a call stops, and an unknown one is named in the detail."""
    async with WireServer(stream(*text_block(0, "words"), *ending(stop_reason))) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.finish is finish
    assert reply.message.text == "words"
    assert reply.detail == ("unknown stop reason 'something_new'" if stop_reason == "something_new" else "")


async def test_a_refusal_says_why(provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider's explanation of a refusal is the reply's detail."""
    details = {"type": "refusal", "category": "cyber", "explanation": "No."}
    async with WireServer(stream(*ending("refusal", stop_details=details))) as server:
        reply = await ask(provider, server, monkeypatch)

    assert (reply.finish, reply.detail) == (Finish.REFUSAL, "cyber: No.")


async def test_calls_are_answered_even_when_the_turn_ended(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call in a turn that ended by `end_turn` is a call all the same."""
    async with WireServer(stream(*tool_block(0, "{}"), *ending("end_turn"))) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.finish is Finish.TOOL_CALLS


@pytest.mark.parametrize(
    "raw",
    [
        '{"order_id": "A',
        "[1]",
        '"text"',
        "null",
        "{'a': 1}",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a":' * 90 + "{}" + "}" * 90,
        "[" * 3000,
    ],
)
async def test_arguments_that_are_no_object_are_malformed(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch, raw: str
) -> None:
    """Arguments that are no JSON object are kept as sent, and the call goes back to Anthropic as one it accepts."""
    async with WireServer(stream(*tool_block(0, raw), *ending("tool_use"))) as server:
        reply = await ask(provider, server, monkeypatch)

    (call,) = reply.message.tool_calls
    assert (call.malformed, call.arguments) == (raw, {})
    assert json.loads(provider.encode(reply.message))["content"][0]["input"] == {}


@pytest.mark.parametrize(("raw", "malformed"), [("", ""), ('{"order', '{"order'), ('{"order_id": "A1"}', None)])
async def test_a_call_cut_by_the_limit_is_malformed(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch, raw: str, malformed: str | None
) -> None:
    """When the reply ran into `max_tokens`, its last call counts only if its arguments are whole."""
    async with WireServer(stream(*tool_block(0, "{}"), *tool_block(1, raw), *ending("max_tokens"))) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.finish is Finish.LENGTH
    assert [call.malformed for call in reply.message.tool_calls] == [None, malformed]


async def test_a_call_without_arguments_is_well_formed(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tool without parameters is called without a single byte of arguments."""
    async with WireServer(stream(*tool_block(0, ""), *ending("tool_use"))) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.message.tool_calls == (ToolCallPart(id="toolu_0", name="find_order"),)


async def test_thinking_comes_back_unchanged(provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed and redacted thinking and blocks of unknown kinds are sent again exactly as they came."""
    signed = {"type": "thinking", "thinking": 'Höchst geheim "so" \n', "signature": "c2ln+/=="}
    redacted = {"type": "redacted_thinking", "data": "ZW5j"}
    strange = {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": [{"url": "x", "page_age": None}]}
    search = {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {"query": "q"}}
    events = [
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": signed["thinking"]},
            {"type": "signature_delta", "signature": signed["signature"]},
        ),
        *block(1, redacted),
        *block(2, {**search, "input": {}}, {"type": "input_json_delta", "partial_json": '{"query": "q"}'}),
        *block(3, strange),
        *tool_block(4, "{}"),
        *ending("tool_use"),
    ]
    async with WireServer(stream(*events)) as server:
        reply = await ask(provider, server, monkeypatch)

    restored = AssistantMessage.model_validate_json(reply.message.model_dump_json())
    sent = json.loads(provider.encode(restored))
    assert sent["content"][:4] == [signed, redacted, search, strange]


async def test_thinking_that_was_cut_is_not_sent_back(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thinking without a signature, which Anthropic refuses, is left out, and so is the message that had no more."""
    unsigned = block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "Hm"})
    async with WireServer(stream(*unsigned[:-1], *ending("max_tokens"))) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.finish is Finish.LENGTH
    assert provider.encode(reply.message) == b""


def test_thinking_alone_is_no_turn(provider: AnthropicMessages) -> None:
    """A message must not consist of thinking, nor end with it: Anthropic refuses both."""
    thought = OpaquePart(wire="anthropic", data={"type": "thinking", "thinking": "x", "signature": "s"})

    assert provider.encode(AssistantMessage(parts=(thought,))) == b""
    assert provider.encode(AssistantMessage(parts=(TextPart(text="a"), thought))) == (
        b'{"role":"assistant","content":[{"type":"text","text":"a"}]}'
    )


def test_another_wires_parts_are_left_out(provider: AnthropicMessages) -> None:
    """What only OpenAI understands never reaches Anthropic."""
    foreign = OpaquePart(wire="openai-responses", data={"type": "reasoning", "encrypted_content": "x"})

    assert provider.encode(AssistantMessage(parts=(foreign,))) == b""
    assert b"encrypted" not in provider.encode(AssistantMessage(parts=(foreign, TextPart(text="a"))))


def test_tool_results_are_one_user_message(provider: AnthropicMessages) -> None:
    """All results of a reply go back in one user message, errors marked, and no empty text within."""
    results = (
        ToolResult(call_id="a", content="found"),
        ToolResult(call_id="b", content="no such order", is_error=True),
        ToolResult(call_id="c", content=" \n"),
        ToolResult(call_id="d", content="", is_error=True),
    )

    assert json.loads(provider.encode(ToolMessage(results=results))) == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": "found"},
            {"type": "tool_result", "tool_use_id": "b", "content": "no such order", "is_error": True},
            {"type": "tool_result", "tool_use_id": "c"},
            {"type": "tool_result", "tool_use_id": "d", "content": "(no message)", "is_error": True},
        ],
    }


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_empty_texts_make_no_item_that_is_refused(provider: AnthropicMessages, text: str) -> None:
    """A user's empty text gets a stand-in, a model's is left out."""
    assert provider.encode(UserMessage(text=text)) == b'{"role":"user","content":[{"type":"text","text":"(no text)"}]}'
    assert provider.encode(AssistantMessage(parts=(TextPart(text=text),))) == b""
    assert provider.encode(AssistantMessage(parts=())) == b""


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_encodes_to_json(text: str) -> None:
    """Whatever a text holds (quotes, NUL, lone surrogates), its item is JSON in UTF-8 and says the same."""
    encoded = AnthropicMessages().encode(UserMessage.model_construct(role="user", text=text + "."))

    [block] = json.loads(encoded.decode())["content"]
    assert block["text"] == (text + ".").encode("utf-8", "replace").decode()


async def test_surrogates_in_a_reply_do_not_fail_the_run(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves of a surrogate pair in two deltas are joined, lone ones replaced, in text and in arguments alike."""
    raw = '{"order_id": "\\ud83d\\ude00 \\ud800"}'
    events = [*text_block(0, "\ud83d", "\ude00", " \ud800"), *tool_block(1, raw), *ending("tool_use")]
    async with WireServer(stream(*events)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.message.text == "😀 \ufffd"
    assert reply.message.tool_calls[0].arguments == {"order_id": "😀 \ufffd"}
    assert canonical(reply.message)


def test_names_that_a_model_made_up_are_sent_back_in_an_acceptable_form(provider: AnthropicMessages) -> None:
    """A tool name outside the provider's alphabet would be refused in every later request of the run."""
    calls = (ToolCallPart(id="a", name="functions.find order!"), ToolCallPart(id="b", name=""))

    blocks = json.loads(provider.encode(AssistantMessage(parts=calls)))["content"]

    assert [block["name"] for block in blocks] == ["functions_find_order_", "unknown"]


@pytest.mark.parametrize(
    "events",
    [
        [],
        [*text_block(0, "half")],
        [*text_block(0, "whole"), ending("end_turn")[0]],
        [*text_block(0, "whole"), STOP],
    ],
    ids=["nothing", "no end", "no message_stop", "no stop_reason"],
)
async def test_a_stream_that_just_ends_is_no_reply(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch, events: list[dict[str, Any]]
) -> None:
    """Without stop_reason and message_stop the call is retried."""
    async with WireServer(stream(*events)) as server:
        with pytest.raises(ApplicationError) as caught:
            await ask(provider, server, monkeypatch)

    assert (caught.value.type, caught.value.non_retryable) == ("model_reply_broken", False)


@pytest.mark.parametrize("then", ["abort", "hang"])
async def test_what_follows_the_end_costs_nothing(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch, then: Literal["abort", "hang"]
) -> None:
    """A reply whose finish marker has arrived counts, whether the connection breaks then or is never ended."""
    whole = sse(START, *text_block(0, "done"), *ending("end_turn"), named=True)
    async with WireServer(Answer(whole, then=then)) as server:
        reply = await ask(provider, server, monkeypatch)

    assert reply.message.text == "done"


async def test_cancellation_closes_the_connection(provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call cancelled in mid-stream raises CancelledError untouched, and the provider stops being paid."""
    begun = asyncio.Event()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-1")
    async with WireServer(Answer(sse(START, *text_block(0, "on"), named=True), then="hang")) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        call = provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=lambda text: begun.set())
        task = asyncio.create_task(call)
        await begun.wait()

        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(server.left.wait(), 5)
        await provider.close()


async def test_a_connection_is_used_again(provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls after each other share one connection, so that the second one needs no handshake."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-secret-1")
    async with WireServer(stream(*text_block(0, "hi"), *ending("end_turn"))) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        for _ in range(2):
            await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)
        await provider.close()

    assert [request.connection for request in server.requests] == [1, 1]


async def test_a_missing_key_is_named(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without a key the call fails for good and says which variable is missing."""
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(ApplicationError, match="ANTHROPIC_API_KEY") as caught:
        await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)

    assert (caught.value.type, caught.value.non_retryable) == ("model_authentication", True)


async def test_credentials_that_cannot_be_read_are_final(
    provider: AnthropicMessages, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """When the SDK cannot use what its variables name, the run fails with the SDK's explanation."""
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))

    with pytest.raises(ApplicationError, match="ANTHROPIC_PROFILE") as caught:
        await provider.call(spec_of(MODEL), provider.encode(HELLO), timeout=TIMEOUT, on_text=ignore)

    assert (caught.value.type, caught.value.non_retryable) == ("model_configuration", True)
