"""A whole conversation, and each fault, on all three wires, with the scripted model that users test with."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from temporalio.exceptions import ApplicationError

from perdure.activities import Finish
from perdure.messages import AssistantMessage, Message, ToolCallPart, ToolMessage, ToolResult, UserMessage
from perdure.testing import Call, Fault, Script, ScriptedModel, Turn
from perdure_activities.providers.provider import Provider, ProviderReply
from perdure_activities.providers.registry import default_providers
from tests.activities.wire_server import FIND_ORDER, ignore, spec_of

MODELS = ("anthropic:scripted", "openai:scripted", "openai-chat:scripted")
TIMEOUT = timedelta(seconds=20)
ASK = UserMessage(text='Where is "7"? \N{SNOWMAN}')


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    """A model of each provider."""
    return str(request.param)


@pytest.fixture
async def provider(model: str) -> AsyncIterator[Provider]:
    """The model's provider."""
    provider = default_providers()[model.partition(":")[0]]
    yield provider
    await provider.close()


async def ask(provider: Provider, model: str, *messages: Message, timeout: timedelta = TIMEOUT) -> ProviderReply:
    """Make one call with this conversation."""
    items = b",".join(item for message in messages if (item := provider.encode(message)))
    spec = spec_of(model, tools=[FIND_ORDER], instructions="Help.")
    return await provider.call(spec, items, timeout=timeout, on_text=ignore)


LIMITS = {"anthropic": (64, r"[a-zA-Z0-9_-]+"), "openai": (64, ".+"), "openai-chat": (40, ".+")}
"""What each vendor takes as the id of a call."""


@pytest.mark.parametrize("given", ["functions.look:0", "chatcmpl-tool-" + 32 * "a", 200 * "x"])
def test_the_ids_of_another_server_are_written_as_this_one_takes_them(
    provider: Provider, model: str, given: str
) -> None:
    """A call that another model made, and its result, keep one id, which the vendor does not refuse."""
    call = AssistantMessage(parts=(ToolCallPart(id=given, name="look"),))
    result = ToolMessage(results=(ToolResult(call_id=given, content="seen"),))
    written = [json.loads(provider.encode(message)) for message in (call, result)]

    limit, form = LIMITS[model.partition(":")[0]]
    [ids] = {tuple(_ids(message)) for message in written}
    assert len(ids) == 1
    assert re.fullmatch(form, ids[0])
    assert len(ids[0]) <= limit


def _ids(item: object) -> list[str]:
    """Find ids of calls, however deep they are."""
    if isinstance(item, list):
        return [id_ for each in item for id_ in _ids(each)]
    if not isinstance(item, dict):
        return []
    named = [value for key, value in item.items() if key in ("id", "call_id", "tool_use_id", "tool_call_id")]
    return named + [id_ for value in item.values() for id_ in _ids(value)]


async def test_a_conversation_goes_on(provider: Provider, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thinking, parallel calls, a malformed one and failed results go back in a form that the vendor takes."""
    calls = [Call("find_order", {"order_id": "7"}), Call("find_order", malformed='{"order_id": ')]
    script = Script([Turn("Let me see.", calls=calls, thinking="Two orders."), Turn("It is on its way.")])
    async with ScriptedModel(script) as scripted:
        for name, value in scripted.environment().items():
            monkeypatch.setenv(name, value)
        first = await ask(provider, model, ASK)
        good, bad = first.message.tool_calls
        results = (
            ToolResult(call_id=good.id, content="shipped"),
            ToolResult(call_id=bad.id, content="not JSON", is_error=True),
        )
        second = await ask(provider, model, ASK, first.message, ToolMessage(results=results))

    assert first.finish is Finish.TOOL_CALLS
    assert (good.arguments, good.malformed) == ({"order_id": "7"}, None)
    assert (bad.arguments, bad.malformed) == ({}, '{"order_id": ')
    assert (second.finish, second.message.text) == (Finish.STOP, "It is on its way.")
    assert second.usage.input_tokens > first.usage.input_tokens > 0
    assert second.priced_usage


async def test_the_rule_of_a_denial_is_not_sent(provider: Provider) -> None:
    """A model hears of a denial by its words; what the record says beside them is the record's."""
    result = ToolResult(call_id="c1", content="Denied.", is_error=True)
    denial = result.model_copy(update={"denied_by": "no refunds"})

    sent = [provider.encode(ToolMessage(results=(one,))) for one in (result, denial)]

    assert sent[0] == sent[1]
    assert b"Denied." in sent[1]


@pytest.mark.parametrize(
    ("fault", "type_", "final"),
    [
        (Fault.rate_limited(timedelta(seconds=3)), "model_rate_limited", False),
        (Fault.overloaded(), "model_overloaded", False),
        (Fault.server_error(), "model_server_error", False),
        (Fault.bad_request(), "model_request_rejected", True),
        (Fault.disconnect_midstream(), "model_connection", False),
        (Fault.malformed(), "model_reply_broken", False),
        (Fault.truncated(), "model_reply_broken", False),
        (Fault.error_midstream(), "model_overloaded", False),
    ],
    ids=lambda value: value.kind.value if isinstance(value, Fault) else "",
)
async def test_every_fault_has_its_posture(
    provider: Provider, model: str, monkeypatch: pytest.MonkeyPatch, fault: Fault, type_: str, final: bool
) -> None:
    """A faulty attempt raises what the table says, and the next attempt is answered."""
    async with ScriptedModel(Script([Turn("Here it is, at last.", faults=[fault])])) as scripted:
        for name, value in scripted.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ApplicationError) as caught:
            await ask(provider, model, ASK)
        reply = await ask(provider, model, ASK)

    if fault == Fault.error_midstream() and not model.startswith("anthropic"):
        type_ = "model_server_error"  # OpenAI has no name of its own for an overload in a stream
    assert (caught.value.type, caught.value.non_retryable) == (type_, final)
    assert caught.value.next_retry_delay == fault.retry_after
    assert reply.message.text == "Here it is, at last."


async def test_a_hanging_vendor_times_out(provider: Provider, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor that never answers costs the call's timeout and no more."""
    async with ScriptedModel(Script([Turn("late", faults=[Fault.hang()])])) as scripted:
        for name, value in scripted.environment().items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ApplicationError) as caught:
            await ask(provider, model, ASK, timeout=timedelta(seconds=0.3))

    assert (caught.value.type, caught.value.non_retryable) == ("model_timeout", False)
