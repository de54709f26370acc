"""The scripted model as the official SDKs see it: typed, raw, streamed and plain."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import anthropic
import openai
import pytest
from openai.types.chat import ChatCompletionToolUnionParam
from openai.types.responses import ToolParam

from perdure.testing import Call, Fault, Finish, Script, ScriptedModel, ScriptedRequest, Turn

LONG_TEXT = "The order was found, päid and shipped. " * 20
CALLS = (Call("find_order", {"order_id": 7}), Call("list_orders"))
TURN = Turn(LONG_TEXT, calls=CALLS, thinking="The customer wants to know.")
CHAT_TOOLS: list[ChatCompletionToolUnionParam] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("find_order", "list_orders")
]
RESPONSES_TOOLS: list[ToolParam] = [
    {"type": "function", "name": name, "parameters": {"type": "object"}, "strict": False}
    for name in ("find_order", "list_orders")
]


@pytest.fixture
async def model() -> AsyncIterator[ScriptedModel]:
    """A scripted model whose turn is picked by what the user asks."""
    turns = {
        "everything": TURN,
        "nothing": Turn("Nothing."),
        "too much": Turn("It goes on", finish=Finish.LENGTH),
        "evil": Turn("", finish=Finish.REFUSAL, detail="That is against the rules."),
        "huge": Turn("", finish=Finish.CONTEXT_WINDOW),
        "filtered": Turn("So", finish=Finish.CONTENT_FILTER),
        "half a call": Turn(calls=[Call("find_order", malformed='{"order_id": ')], finish=Finish.LENGTH),
        "trouble": Turn("Back again.", faults=[Fault.rate_limited(timedelta(seconds=2)), Fault.overloaded()]),
    }

    def answer(request: ScriptedRequest) -> Turn:
        return turns[request.input]

    async with ScriptedModel(answer) as server:
        yield server


@pytest.fixture
async def claude(model: ScriptedModel) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """Anthropic's client, with its retries off."""
    async with anthropic.AsyncAnthropic(base_url=model.url, api_key="scripted", max_retries=0) as client:
        yield client


@pytest.fixture
async def gpt(model: ScriptedModel) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, with its retries off."""
    async with openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key="scripted", max_retries=0) as client:
        yield client


def anthropic_request(task: str) -> dict[str, Any]:
    """Ask Anthropic."""
    return {"model": "claude-sonnet-5-5", "max_tokens": 100, "messages": [{"role": "user", "content": task}]}


def chat_request(task: str) -> dict[str, Any]:
    """Ask Chat Completions."""
    return {"model": "gpt-5.4", "messages": [{"role": "user", "content": task}]}


OF_THE_REQUEST = {"id", "call_id", "signature", "encrypted_content"}
OF_THE_SDK = {"parsed", "parsed_arguments", "parsed_output", "index"}


def _content(part: anthropic.BaseModel | openai.BaseModel) -> object:
    """What a part says, without ids: a streamed request is another one than a plain one."""

    def said(value: object) -> object:
        if isinstance(value, dict):
            return {key: said(each) for key, each in value.items() if key not in OF_THE_REQUEST | OF_THE_SDK}
        return [said(each) for each in value] if isinstance(value, list) else value

    return said(part.to_dict())


async def test_anthropic_streams_what_it_answers_plainly(claude: anthropic.AsyncAnthropic) -> None:
    """The accumulated stream of Anthropic's SDK equals the plain answer: text, thinking, calls, stop reason, usage."""
    plain = await claude.messages.create(**anthropic_request("everything"))

    async with claude.messages.stream(**anthropic_request("everything")) as stream:
        streamed = await stream.get_final_message()

    assert plain.model == "claude-sonnet-5-5"
    assert plain.stop_reason == streamed.stop_reason == "tool_use"
    thinking, text, find, list_all = plain.content
    assert (thinking.type, text.type, find.type, list_all.type) == ("thinking", "text", "tool_use", "tool_use")
    assert text.text == LONG_TEXT
    assert (find.name, find.input, list_all.input) == ("find_order", {"order_id": 7}, {})
    assert find.id.startswith("toolu_")
    assert find.id != list_all.id
    assert [_content(block) for block in streamed.content] == [_content(block) for block in plain.content]
    assert streamed.usage.output_tokens == plain.usage.output_tokens > 100


async def test_responses_stream_what_they_answer_plainly(gpt: openai.AsyncOpenAI) -> None:
    """The accumulated stream of the Responses API equals the plain answer."""
    plain = await gpt.responses.create(model="gpt-5.4", input="everything")

    async with gpt.responses.stream(model="gpt-5.4", input="everything", tools=RESPONSES_TOOLS) as stream:
        kinds = [event.type async for event in stream]
        streamed = await stream.get_final_response()

    assert plain.status == streamed.status == "completed"
    assert plain.output_text == streamed.output_text == LONG_TEXT
    assert [item.type for item in plain.output] == ["reasoning", "message", "function_call", "function_call"]
    call = plain.output[2]
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("find_order", '{"order_id":7}')
    assert call.call_id.startswith("call_")
    assert [_content(item) for item in streamed.output] == [_content(item) for item in plain.output]
    assert plain.usage is not None
    assert streamed.usage is not None
    assert plain.usage.output_tokens == streamed.usage.output_tokens
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.reasoning_summary_text.delta" in kinds


async def test_chat_streams_what_it_answers_plainly(gpt: openai.AsyncOpenAI) -> None:
    """The accumulated stream of Chat Completions equals the plain answer, and carries usage when asked to."""
    plain = await gpt.chat.completions.create(**chat_request("everything"))

    async with gpt.chat.completions.stream(
        **chat_request("everything"), tools=CHAT_TOOLS, stream_options={"include_usage": True}
    ) as stream:
        streamed = await stream.get_final_completion()

    assert plain.choices[0].finish_reason == streamed.choices[0].finish_reason == "tool_calls"
    assert plain.choices[0].message.content == streamed.choices[0].message.content == LONG_TEXT
    calls = plain.choices[0].message.tool_calls or []
    again = streamed.choices[0].message.tool_calls or []
    assert [_content(call) for call in again] == [_content(call) for call in calls]
    assert [call.function.arguments for call in again] == ['{"order_id":7}', "{}"]
    assert plain.usage is not None
    assert streamed.usage is not None
    assert plain.usage.completion_tokens == streamed.usage.completion_tokens


async def test_raw_streams_end_with_their_finish_marker(
    claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI
) -> None:
    """Event by event, each format ends with the event that marks a reply as complete."""
    messages = await claude.messages.create(**anthropic_request("nothing"), stream=True)
    responses = await gpt.responses.create(model="gpt-5.4", input="nothing", stream=True)
    chunks = await gpt.chat.completions.create(**chat_request("nothing"), stream=True)

    assert [event.type async for event in messages][-2:] == ["message_delta", "message_stop"]
    assert [event.type async for event in responses][-1] == "response.completed"
    assert [chunk.choices[0].finish_reason async for chunk in chunks][-1] == "stop"


@pytest.mark.parametrize(
    ("task", "claude_says", "gpt_says", "chat_says"),
    [
        ("too much", "max_tokens", ("incomplete", "max_output_tokens"), "length"),
        ("filtered", "refusal", ("incomplete", "content_filter"), "content_filter"),
        ("half a call", "max_tokens", ("incomplete", "max_output_tokens"), "length"),
        ("evil", "refusal", ("completed", None), "stop"),
    ],
)
async def test_every_reason_to_stop_has_the_vendors_word(
    claude: anthropic.AsyncAnthropic,
    gpt: openai.AsyncOpenAI,
    task: str,
    claude_says: str,
    gpt_says: tuple[str, str | None],
    chat_says: str,
) -> None:
    """A turn's finish comes out as each vendor says it, streamed."""
    async with claude.messages.stream(**anthropic_request(task)) as stream:
        message = await stream.get_final_message()
    response = [event async for event in await gpt.responses.create(model="gpt-5.4", input=task, stream=True)][-1]
    chunks = [chunk async for chunk in await gpt.chat.completions.create(**chat_request(task), stream=True)]

    assert message.stop_reason == claude_says
    assert response.type in ("response.completed", "response.incomplete")
    details = response.response.incomplete_details
    assert (response.response.status, details and details.reason) == gpt_says
    assert chunks[-1].choices[0].finish_reason == chat_says


async def test_refusals_carry_the_vendors_words(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    """A refusal's explanation is where each vendor puts it."""
    message = await claude.messages.create(**anthropic_request("evil"))
    response = await gpt.responses.create(model="gpt-5.4", input="evil")
    completion = await gpt.chat.completions.create(**chat_request("evil"))

    assert message.stop_details is not None
    assert message.stop_details.explanation == "That is against the rules."
    item = response.output[0]
    assert item.type == "message"
    assert item.content[0].type == "refusal"
    assert completion.choices[0].message.refusal == "That is against the rules."


async def test_a_full_context_is_an_error_at_openai(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    """A full context window is a stop reason at Anthropic and an error with a code at OpenAI."""
    message = await claude.messages.create(**anthropic_request("huge"))
    with pytest.raises(openai.BadRequestError) as raised:
        await gpt.responses.create(model="gpt-5.4", input="huge")

    assert message.stop_reason == "model_context_window_exceeded"
    assert raised.value.code == "context_length_exceeded"


async def test_errors_are_the_sdks_own_and_then_pass(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    """Attempt k of a turn meets fault k as the SDK's typed error; the attempt after the last fault is answered."""
    with pytest.raises(anthropic.RateLimitError) as limited:
        await claude.messages.create(**anthropic_request("trouble"))
    with pytest.raises(anthropic.OverloadedError):
        await claude.messages.create(**anthropic_request("trouble"))
    message = await claude.messages.create(**anthropic_request("trouble"))
    with pytest.raises(openai.RateLimitError):
        await gpt.chat.completions.create(**chat_request("trouble"))

    assert limited.value.response.headers["retry-after"] == "2"
    assert limited.value.body == {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "This request would exceed your rate limit."},
        "request_id": "req_scripted",
    }
    assert message.content[0].to_dict()["text"] == "Back again."


async def test_the_sdks_own_retries_get_through(model: ScriptedModel) -> None:
    """A client with retries on gets the answer, as the fault belongs to the attempt and not to the script's state."""
    script = Script([Turn("Back.", faults=[Fault.rate_limited(timedelta(milliseconds=5), form="milliseconds")])])

    async with (
        ScriptedModel(script) as server,
        anthropic.AsyncAnthropic(base_url=server.url, api_key="scripted", max_retries=1) as client,
    ):
        message = await client.messages.create(**anthropic_request("anything"))

    assert message.content[0].to_dict()["text"] == "Back."
    assert [(seen.attempt, seen.fault) for seen in server.requests.recent] == [(0, "status"), (1, None)]
