"""Output guards in a run: what is masked or blocked never enters history, and what it cost is counted all the same."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from temporalio.client import Client, WorkflowFailureError

from perdure import App, Guard
from perdure.activities import Finish
from perdure.contracts import RunResult
from perdure.errors import ConfigurationError, DuplicateNameError
from perdure.events import ModelReplied
from perdure.history import fetch_executions, read_events
from perdure.messages import AssistantMessage, Message, OpaquePart, TextPart, ToolCallPart
from tests.harness import (
    Handle,
    InProcessModel,
    Script,
    agent,
    answer,
    in_turns,
    reply,
    serving,
    start,
    transcript,
    turn,
    wish,
)

HOST = "db7.corp.internal"
HOSTS = Guard(name="hosts", pattern=r"\b[a-z0-9-]{1,30}(?:\.[a-z0-9-]{1,30}){0,5}\.internal\b")
BLOCKING = HOSTS.model_copy(update={"action": "block"})


def desk(*guards: Guard) -> App:
    """An app with one tool, whose agent has these guards."""
    app = App()

    @app.tool()
    def look(name: str) -> str:
        """Look something up."""
        return f"{name} is fine"

    app.add(agent(tools=("look",), output_guard=guards))
    return app


@dataclass(frozen=True)
class Ended:
    """A run that is over."""

    result: RunResult
    handle: Handle
    model: InProcessModel
    messages: list[Message]


async def run(client: Client, app: App, script: Script) -> Ended:
    """Run to the end, which may be a failure."""
    model = InProcessModel(script)
    async with serving(client, app, model) as settings:
        handle = await start(client, app, settings)
        try:
            result = await handle.result()
        except WorkflowFailureError as error:
            [details] = getattr(error.cause, "details", [None])
            result = RunResult.model_validate(details)
        return Ended(result, handle, model, await transcript(handle))


async def stored(client: Client, handle: Handle) -> bytes:
    """Return the run's history as it is stored."""
    [history] = await fetch_executions(client, handle.id)
    return b"".join(event.SerializeToString() for event in history.events)


async def test_an_answer_is_masked_before_it_enters_history(client: Client) -> None:
    """Result, events and history have the mask, and none of them has what matched."""
    ended = await run(client, desk(HOSTS), in_turns(answer(f"Ask {HOST}, please.")))

    assert ended.result.output == "Ask [masked: hosts], please."
    assert HOST.encode() not in await stored(client, ended.handle)


async def test_words_beside_a_call_are_masked_and_the_model_sees_what_was_kept(client: Client) -> None:
    """Text that comes with tool calls is seen by people too; the call itself is made as the model wanted it."""
    script = in_turns(wish(("look", {"name": HOST}), text=f"I look at {HOST}."), answer("Done."))

    ended = await run(client, desk(HOSTS), script)

    said = ended.model.seen[1][1]
    assert isinstance(said, AssistantMessage)
    assert said.text == "I look at [masked: hosts]."
    assert said.tool_calls[0].arguments == {"name": HOST}
    assert ended.messages[1] == said
    assert ended.result.output == "Done."


async def test_a_blocked_answer_fails_the_run_and_names_the_guard_only(client: Client) -> None:
    """Nothing of the reply is kept, thinking included; its tokens are counted."""
    thinking = OpaquePart(wire="in-process", data={"type": "thinking", "thinking": f"it is {HOST}"})
    script = in_turns(reply(thinking, TextPart(text=f"Ask {HOST}."), finish=Finish.STOP))

    ended = await run(client, desk(BLOCKING), script)

    assert ended.result.error is not None
    assert ended.result.error.type == "output_blocked"
    assert "'hosts'" in ended.result.error.message
    assert not ended.result.output
    assert ended.result.totals.usage.output_tokens == 5
    assert HOST.encode() not in await stored(client, ended.handle)
    [replied] = [event for event in await read_events(client, ended.handle.id) if isinstance(event, ModelReplied)]
    assert replied.finish is Finish.BLOCKED


async def test_a_blocked_reply_makes_no_calls(client: Client) -> None:
    """A call beside blocked words is not made: the run is over."""
    script = in_turns(wish(("look", {"name": "x"}), text=f"I look at {HOST}."))

    ended = await run(client, desk(BLOCKING), script)

    assert ended.result.error is not None
    assert ended.result.error.type == "output_blocked"
    assert ended.result.totals.tool_calls == 0


async def test_thinking_goes_back_as_it_was(client: Client) -> None:
    """It is signed by its provider and shown to nobody, so a mask in it would only break the next call."""
    thinking = OpaquePart(wire="in-process", data={"type": "thinking", "thinking": f"it is {HOST}"})
    call = ToolCallPart(id="call_0", name="look", arguments={"name": "x"})
    script = in_turns(reply(thinking, TextPart(text=f"At {HOST}: "), call, finish=Finish.TOOL_CALLS), answer("Done."))

    ended = await run(client, desk(HOSTS), script)

    said = ended.model.seen[1][1]
    assert isinstance(said, AssistantMessage)
    assert said.parts == (thinking, TextPart(text="At [masked: hosts]: "), call)


async def test_a_match_across_parts_of_a_reply_is_masked(client: Client) -> None:
    """The parts are read as one text, as people read them."""
    script = in_turns(reply(TextPart(text="Ask db7.co"), TextPart(text="rp.internal now."), finish=Finish.STOP))

    ended = await run(client, desk(HOSTS), script)

    assert ended.result.output == "Ask [masked: hosts] now."
    [_, said] = ended.messages
    assert isinstance(said, AssistantMessage)
    assert said.parts == (TextPart(text="Ask "), TextPart(text="[masked: hosts] now."))


@pytest.mark.parametrize("guard", [HOSTS, BLOCKING])
async def test_a_match_across_a_cut_reply_is_caught(client: Client, guard: Guard) -> None:
    """A reply that is cut at its limit and goes on is one answer, also for what lies across the cut."""
    cut = [answer("Ask db7.co", finish=Finish.LENGTH), answer("rp.inter", finish=Finish.LENGTH), answer("nal now.")]

    ended = await run(client, desk(guard), lambda messages: cut[turn(messages)])

    if guard.action == "mask":
        assert ended.result.output == "Ask [masked: hosts] now."
    else:
        assert ended.result.error is not None
        assert ended.result.error.type == "output_blocked"
        assert not ended.result.output


async def test_a_refusals_words_are_guarded(client: Client) -> None:
    """What the provider says of a refusal becomes the run's error, which people read."""
    refusal = answer("", finish=Finish.REFUSAL, detail=f"I will not talk about {HOST}")

    ended = await run(client, desk(HOSTS), in_turns(refusal))

    assert ended.result.error is not None
    assert ended.result.error.message == "I will not talk about [masked: hosts]"
    assert HOST.encode() not in await stored(client, ended.handle)


async def test_guards_apply_in_their_order(client: Client) -> None:
    """A later guard sees the masks of an earlier one."""
    masks = Guard(name="masks", pattern=r"masked: hosts", action="block")

    ended = await run(client, desk(HOSTS, masks), in_turns(answer(f"Ask {HOST}.")))

    assert ended.result.error is not None
    assert "'masks'" in ended.result.error.message


async def test_a_guard_that_takes_too_long_fails_the_run(client: Client) -> None:
    """An answer that nobody could judge does not leave."""
    slow = Guard(name="slow", pattern="(?:a|b|ab){1,200}c")

    ended = await run(client, desk(slow), in_turns(answer("ab" * 2_000 + "xc")))

    assert ended.result.error is not None
    assert ended.result.error.type == "output_guard_failed"
    assert "'slow'" in ended.result.error.message
    assert b"ababab" not in await stored(client, ended.handle)


def test_wrong_guards_stop_the_process_at_start_up() -> None:
    """A pattern that cannot be used, and two guards of one name, are told with the agent's name."""
    with pytest.raises(ConfigurationError, match=r"'tester'.*'bad'.*without an upper bound"):
        desk(Guard(name="bad", pattern="(a+)+b")).check()
    with pytest.raises(DuplicateNameError, match="two output guards of one name"):
        desk(HOSTS, BLOCKING).check()
