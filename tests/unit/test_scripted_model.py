"""The scripted model itself: scripts, how it reads conversations, faults on the wire, its record, its process."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from perdure.errors import ConfigurationError
from perdure.messages import (
    AssistantMessage,
    JsonObject,
    Message,
    OpaquePart,
    TextPart,
    ToolCallPart,
    ToolMessage,
    ToolResult,
    UserMessage,
)
from perdure.testing import (
    Call,
    Fault,
    Finish,
    Script,
    ScriptedModel,
    ScriptedRequest,
    Turn,
    Usage,
    eventually,
    load_script,
)

SCRIPT = Script([Turn(calls=[Call("find_order", {"order_id": 7})]), Turn("It has left.")])
PATHS = {"anthropic": "/v1/messages", "openai": "/v1/responses", "openai-chat": "/v1/chat/completions"}
WIRES = pytest.mark.parametrize("wire", list(PATHS))


def opening(wire: str, *, stream: bool = False) -> dict[str, Any]:
    """A first request in a format."""
    said = [{"role": "user", "content": "Where is order 7?"}]
    body: dict[str, Any] = {"model": "m", "stream": stream}
    match wire:
        case "anthropic":
            return {**body, "max_tokens": 10, "system": "Be kind.", "messages": said}
        case "openai":
            return {**body, "instructions": "Be kind.", "input": said}
        case _:
            return {**body, "messages": [{"role": "system", "content": "Be kind."}, *said]}


def after_one_call(wire: str) -> dict[str, Any]:
    """The same conversation after a reply with thinking, words and a call, and the call's result."""
    body = opening(wire)
    match wire:
        case "anthropic":
            body["messages"] += [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "Let me look."},
                        {"type": "tool_use", "id": "t1", "name": "find_order", "input": {"order_id": 7}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "shipped"}]},
            ]
        case "openai":
            body["input"] += [
                {"type": "reasoning", "id": "rs_1", "summary": []},
                {"role": "assistant", "content": [{"type": "output_text", "text": "Let me look."}]},
                {"type": "function_call", "call_id": "t1", "name": "find_order", "arguments": '{"order_id": 7}'},
                {"type": "function_call_output", "call_id": "t1", "output": "shipped"},
            ]
        case _:
            function = {"name": "find_order", "arguments": '{"order_id": 7}'}
            call = {"id": "t1", "type": "function", "function": function}
            body["messages"] += [
                {"role": "assistant", "content": "Let me look.", "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "t1", "content": "shipped"},
            ]
    return body


async def post(model: ScriptedModel, wire: str, body: object, **options: Any) -> httpx2.Response:
    """Send a request as any HTTP client would."""
    async with httpx2.AsyncClient(base_url=model.url, timeout=5) as client:
        return await client.post(PATHS[wire], json=body, **options)


@WIRES
async def test_every_format_reads_to_the_same_conversation(wire: str) -> None:
    """A script sees one vocabulary, whatever format the request came in."""
    seen: list[ScriptedRequest] = []

    def answer(request: ScriptedRequest) -> Turn:
        seen.append(request)
        return Turn("ok")

    async with ScriptedModel(answer) as model:
        response = await post(model, wire, after_one_call(wire))

    assert response.status_code == 200
    (request,) = seen
    user, reply, results = request.messages
    assert user == UserMessage(text="Where is order 7?")
    assert isinstance(reply, AssistantMessage)
    assert [part for part in reply.parts if not isinstance(part, OpaquePart)] == [
        TextPart(text="Let me look."),
        ToolCallPart(id="t1", name="find_order", arguments={"order_id": 7}),
    ]
    assert results == ToolMessage(results=(ToolResult(call_id="t1", content="shipped"),))
    assert (request.turn, request.instructions, request.model, request.wire) == (1, "Be kind.", "m", wire)


@WIRES
async def test_the_turn_is_picked_by_the_conversation(wire: str) -> None:
    """A list of turns is walked by the replies in the request, so that a repeated request gets the same answer."""
    async with ScriptedModel(SCRIPT) as model:
        last = await post(model, wire, after_one_call(wire))
        first = await post(model, wire, opening(wire))
        again = await post(model, wire, opening(wire))

    assert "It has left." in last.text
    assert "find_order" in first.text
    ids = [json.dumps(response.json()) for response in (first, again)]
    assert _without_clock(ids[0]) == _without_clock(ids[1])


def _without_clock(text: str) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(text)
    return {key: value for key, value in body.items() if key not in ("created", "created_at", "completed_at")}


@WIRES
async def test_a_call_without_its_result_is_refused(wire: str) -> None:
    """A conversation that the vendor would refuse is refused as the vendor would, naming the call."""
    body = after_one_call(wire)
    body["input" if wire == "openai" else "messages"].pop()

    async with ScriptedModel(SCRIPT) as model:
        response = await post(model, wire, body)

    assert response.status_code == 400
    assert "t1" in response.json()["error"]["message"]
    assert response.json()["error"]["type"] == "invalid_request_error"


@WIRES
async def test_an_answer_to_no_call_is_refused(wire: str) -> None:
    """A result that answers no call, or answers one twice, is refused."""
    body = after_one_call(wire)
    items = body["input" if wire == "openai" else "messages"]
    items.append(items[-1])

    async with ScriptedModel(SCRIPT) as model:
        response = await post(model, wire, body)

    assert response.status_code == 400


@WIRES
@pytest.mark.parametrize("content", [b"{", b"[]", b'{"messages": 7, "input": 7, "max_tokens": 1}'])
async def test_nonsense_is_refused(wire: str, content: bytes) -> None:
    """A body that is no request of the format gets a 400 in the vendor's form, not a broken server."""
    async with ScriptedModel(SCRIPT) as model, httpx2.AsyncClient(base_url=model.url) as client:
        response = await client.post(PATHS[wire], content=content)

    assert response.status_code == 400
    assert response.json()["error"]["message"]


@WIRES
async def test_a_script_that_ends_or_fails_says_so(wire: str) -> None:
    """The author of a script reads what is wrong with it in the error, which is final and not retried."""

    def broken(request: ScriptedRequest) -> Turn:
        raise LookupError("no such order")

    async with ScriptedModel(Script([])) as model:
        ended = await post(model, wire, opening(wire))
    async with ScriptedModel(broken) as model:
        failed = await post(model, wire, opening(wire))

    assert ended.status_code == failed.status_code == 400
    assert "has 0 turns" in ended.json()["error"]["message"]
    assert "LookupError('no such order')" in failed.json()["error"]["message"]


@WIRES
async def test_a_disconnect_breaks_the_body(wire: str) -> None:
    """A disconnect in mid-stream, or in a plain answer, is a broken connection for the client."""
    script = Script([Turn("text " * 100, faults=[Fault.disconnect_midstream()])])

    async with ScriptedModel(script) as model:
        with pytest.raises(httpx2.RemoteProtocolError):
            await post(model, wire, opening(wire, stream=True))
    async with ScriptedModel(script) as model:
        with pytest.raises(httpx2.RemoteProtocolError):
            await post(model, wire, opening(wire))


@WIRES
@pytest.mark.parametrize(
    ("fault", "finished", "parses"),
    [
        (Fault.slow(first_byte=timedelta(milliseconds=1), between=timedelta(milliseconds=1)), True, True),
        (Fault.truncated(), False, True),
        (Fault.malformed(), True, False),
        (Fault.error_midstream(after=2), False, True),
    ],
)
async def test_streams_go_wrong_as_asked(wire: str, fault: Fault, finished: bool, parses: bool) -> None:
    """Each fault of a stream ends it cleanly, and leaves out or breaks exactly what it says."""
    markers = {"anthropic": "message_stop", "openai": "response.completed", "openai-chat": '"finish_reason":"stop"'}

    async with ScriptedModel(Script([Turn("text " * 100, faults=[fault])])) as model:
        response = await post(model, wire, opening(wire, stream=True))

    assert response.status_code == 200
    assert (markers[wire] in response.text) is finished
    assert _parses(response.text) is parses
    assert ("Overloaded" in response.text) is (fault == Fault.error_midstream(after=2))


def _parses(stream: str) -> bool:
    data = [line[6:] for line in stream.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
    try:
        return all(json.loads(line) for line in data)
    except ValueError:
        return False


async def test_a_hanging_model_waits_for_the_client() -> None:
    """A hang sends nothing until the client gives up, and the next attempt is answered."""
    async with ScriptedModel(Script([Turn("Here.", faults=[Fault.hang()])])) as model:
        with pytest.raises(httpx2.ReadTimeout):
            await post(model, "anthropic", opening("anthropic"), timeout=0.05)
        response = await post(model, "anthropic", opening("anthropic"))

    assert response.status_code == 200


@pytest.mark.parametrize(
    ("fault", "name", "read"),
    [
        (Fault.rate_limited(timedelta(seconds=30)), "retry-after", float),
        (Fault.rate_limited(timedelta(seconds=30), form="milliseconds"), "retry-after-ms", lambda ms: float(ms) / 1000),
        (
            Fault.rate_limited(timedelta(seconds=30), form="date"),
            "retry-after",
            lambda date: (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds(),
        ),
    ],
)
async def test_retry_after_comes_in_three_forms(fault: Fault, name: str, read: Callable[[str], float]) -> None:
    """A rate limit says when to come back: in seconds, in milliseconds, or as a date."""
    async with ScriptedModel(Script([Turn("ok", faults=[fault])])) as model:
        response = await post(model, "openai", opening("openai"))

    assert response.status_code == 429
    assert read(response.headers[name]) == pytest.approx(30, abs=5)


async def test_usage_is_plausible_and_can_be_set() -> None:
    """Usage follows the size of the request, counts what was cached, and is what the turn says if it says so."""
    body = after_one_call("anthropic")
    body["system"] = [{"type": "text", "text": "Be kind. " * 1000, "cache_control": {"type": "ephemeral"}}]
    exact = Usage(input_tokens=100, cache_read_tokens=60, cache_write_tokens=30, output_tokens=5)

    async with ScriptedModel(lambda request: Turn("ok")) as model:
        first, second = [(await post(model, "anthropic", body)).json()["usage"] for _ in range(2)]
    async with ScriptedModel(lambda request: Turn("ok", usage=exact)) as model:
        said = (await post(model, "anthropic", body)).json()["usage"]

    for estimated in (first, second):
        assert sum(estimated[key] for key in estimated if key.endswith("input_tokens")) == pytest.approx(2400, rel=0.1)
    assert first["cache_read_input_tokens"] == 0
    assert first["cache_creation_input_tokens"] == second["cache_read_input_tokens"] > 2000
    assert said["input_tokens"] == 10
    assert (said["cache_read_input_tokens"], said["cache_creation_input_tokens"], said["output_tokens"]) == (60, 30, 5)


@pytest.mark.parametrize(
    ("marked", "refusal"),
    [
        ([{"type": "text", "text": f"{number}"} for number in range(5)], "A maximum of 4 blocks"),
        ([{"type": "thinking", "thinking": "hm", "signature": "s"}], "thinking"),
    ],
)
async def test_marks_for_the_cache_are_refused_as_the_vendor_does(marked: list[JsonObject], refusal: str) -> None:
    """A client that marks too much, or what cannot be marked, learns it here and not from its bill."""
    content = [{**block, "cache_control": {"type": "ephemeral"}} for block in marked]
    body = {**after_one_call("anthropic"), "messages": [{"role": "user", "content": content}]}

    async with ScriptedModel(lambda request: Turn("ok")) as model:
        response = await post(model, "anthropic", body)

    assert response.status_code == 400
    assert refusal in response.json()["error"]["message"]


async def test_calls_that_share_an_id_are_refused_as_anthropic_does() -> None:
    """A conversation that another server began may hold such calls."""
    body = after_one_call("anthropic")
    body["messages"] = [*body["messages"], *body["messages"][1:]]

    async with ScriptedModel(lambda request: Turn("ok")) as model:
        response = await post(model, "anthropic", body)

    assert response.status_code == 400
    assert "`tool_use` ids must be unique" in response.json()["error"]["message"]


async def test_requests_are_recorded_for_this_process_and_others() -> None:
    """Tests can count what the model was asked, also when the model is another process."""
    async with ScriptedModel(SCRIPT) as model:
        await post(model, "anthropic", opening("anthropic"))
        await post(model, "openai", after_one_call("openai"))
        async with httpx2.AsyncClient(base_url=model.url) as client:
            summary = (await client.get("/requests")).json()

    assert model.requests.count == summary["count"] == 2
    assert model.requests.per_model == summary["per_model"] == {"m": 2}
    assert [(seen.wire, seen.turn) for seen in model.requests.recent] == [("anthropic", 0), ("openai", 1)]


async def test_answers_do_not_wait_for_the_network() -> None:
    """An answer goes out at once: 20 in a row take far less than 20 delayed acknowledgements of 40 ms."""
    async with ScriptedModel(SCRIPT) as model, httpx2.AsyncClient(base_url=model.url) as client:
        await client.post(PATHS["anthropic"], json=opening("anthropic"))
        start = time.monotonic()

        for _ in range(20):
            await client.post(PATHS["anthropic"], json=opening("anthropic"))

    assert time.monotonic() - start < 0.6


async def test_a_reason_that_a_format_lacks_is_refused() -> None:
    """A turn that only one vendor could answer says so at the other."""
    async with ScriptedModel(Script([Turn(finish=Finish.PAUSE)])) as model:
        response = await post(model, "openai", opening("openai"))

    assert response.status_code == 400
    assert "no word for" in response.json()["error"]["message"]


def test_a_script_can_be_asked_without_a_server() -> None:
    """A script function is tested by handing it a conversation, and finds the latest result of a tool in it."""
    call = ToolCallPart(id="t1", name="find_order")
    conversation: list[Message] = [
        UserMessage(text="Where is it?"),
        AssistantMessage(parts=(call,)),
        ToolMessage(results=(ToolResult(call_id="t1", content="early"),)),
        AssistantMessage(parts=(call,)),
        ToolMessage(results=(ToolResult(call_id="t1", content="late"),)),
    ]

    request = ScriptedRequest(conversation)

    assert (request.turn, request.input) == (2, "Where is it?")
    assert request.result("find_order") == ToolResult(call_id="t1", content="late")
    assert request.result("other") is None


@pytest.mark.parametrize(
    "reference", ["no_colon", "no.such.module:script", "perdure.testing:no_such", "perdure.testing:__name__"]
)
def test_a_script_that_cannot_be_loaded_says_why(reference: str) -> None:
    """Whatever is wrong with a script's reference, the error names it."""
    with pytest.raises(ConfigurationError, match=reference.replace(".", r"\.")):
        load_script(reference)


async def test_eventually_returns_what_it_saw() -> None:
    """Polling ends with the first true value, and takes a failed assertion for 'not yet'."""
    looks: list[int] = []

    def look() -> int:
        looks.append(1)
        assert len(looks) > 1
        return len(looks) // 3

    seen = await eventually(look, within=timedelta(seconds=5))

    assert (seen, len(looks)) == (1, 3)


async def test_eventually_gives_up_with_what_it_saw_last() -> None:
    """When time is up the error says what was awaited and what was seen."""

    async def look() -> list[str]:
        return []

    with pytest.raises(AssertionError, match=r"the order did not happen within 0:00:00\.010000; last seen: \[\]"):
        await eventually(look, within=timedelta(milliseconds=10), what="the order")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_process_serves_and_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """As a process the scripted model prints and files its address, answers, and ends with 0 on either signal."""
    (tmp_path / "my_script.py").write_text("from perdure.testing import Turn\nscript = [Turn('From afar.')]\n")
    ready = tmp_path / "ready"
    command = ["-m", "perdure.testing", "--script", "my_script:script", "--ready-file", str(ready)]

    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    try:
        url = await eventually(lambda: ready.exists() and ready.read_text(), within=timedelta(seconds=60))
        async with httpx2.AsyncClient(base_url=str(url), timeout=10) as client:
            response = await client.post(PATHS["anthropic"], json=opening("anthropic"))
        process.send_signal(number)
        printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    assert "From afar." in response.text
    assert printed.decode().strip() == url
    assert process.returncode == 0


async def test_a_taken_port_is_named() -> None:
    """The process says which port it cannot have, and ends with 1."""
    async with ScriptedModel(SCRIPT) as model:
        port = model.url.rpartition(":")[2]
        command = ["-m", "perdure.testing", "--script", "support_desk.script:script", "--port", port]

        process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
        _, said = await process.communicate()

    assert process.returncode == 1
    assert f"127.0.0.1:{port}" in said.decode()
