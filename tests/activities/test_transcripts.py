"""What a worker remembers of conversations: right or not at all, and within its memory."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.client import Client
from temporalio.exceptions import ApplicationError

from perdure import App
from perdure.activities import ModelCall, ResultReference, TailMessage
from perdure.agent import AgentSpec
from perdure.messages import (
    AssistantMessage,
    Message,
    TextPart,
    ToolCallPart,
    ToolMessage,
    ToolResult,
    UserMessage,
    digest_of,
)
from perdure.settings import Settings
from perdure_activities.conversation import IDLE_REPLIES, Conversation, TranscriptError
from perdure_activities.providers.provider import ProviderReply
from perdure_activities.transcripts import (
    Transcripts,
    last_fitting,
)
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from tests.harness import InProcessModel, agent, answer, start, transcript, wish

RUN = "run-1"
texts = st.lists(st.text(max_size=5), max_size=8)


def spoken(text: str) -> Message:
    """A message."""
    return UserMessage(text=text)


def reply(*ids: str, text: str = "") -> AssistantMessage:
    """A reply with calls of these ids."""
    calls = [ToolCallPart(id=id_, name="look") for id_ in ids]
    return AssistantMessage(parts=(TextPart(text=text), *calls))


def encode(message: Message) -> bytes:
    """Write a message; one without text has nothing to say to this provider."""
    return (message.results[0].content if isinstance(message, ToolMessage) else message.text).encode()


def loud(message: Message) -> bytes:
    """Write a message in another way."""
    return encode(message) + b"!"


def written(messages: Sequence[Message]) -> Conversation:
    """A conversation of these messages, in one wire form."""
    conversation = Conversation()
    conversation.write("test", encode, ())
    for message in messages:
        conversation.append(message)
    return conversation


def look(at: int) -> str:
    """Look."""
    return f"seen {at}"


async def taken(transcripts: Transcripts, call: ModelCall, client: Client) -> bytes:
    """Take the conversation of a model call, put it back, and return what the model would be sent."""
    conversation = transcripts.take(RUN)
    await transcripts.complete(conversation, RUN, call, client=client, execution_id="", wire="w", encode=encode)
    transcripts.put(RUN, conversation)
    return conversation.items("w")


@given(before=texts, kept=st.integers(0, 8), after=texts)
def test_a_conversation_shortened_and_continued_is_as_if_never_longer(
    before: list[str], kept: int, after: list[str]
) -> None:
    """Bytes and digests after truncate and append are those of the remaining messages."""
    conversation = written(())
    for text in before:
        conversation.append(spoken(text))
    conversation.write("loud", loud, [spoken(text) for text in before])

    conversation.truncate(kept)
    for text in after:
        conversation.append(spoken(text))

    remaining = [*before[:kept], *after]
    assert len(conversation) == len(remaining)
    assert conversation.items("test") == b",".join(text.encode() for text in remaining if text)
    assert conversation.items("loud") == b",".join(f"{text}!".encode() for text in remaining)
    for length in range(len(remaining) + 1):
        assert conversation.digest(length) == digest_of(spoken(text) for text in remaining[:length])


def test_a_wire_form_is_made_of_the_conversations_own_messages_only() -> None:
    """Messages of another digest never stand for it, whatever wire form they would be written in."""
    conversation = written([spoken("a"), spoken("b")])

    for others in ([spoken("a")], [spoken("a"), spoken("c")], [spoken("a"), spoken("b"), spoken("b")]):
        with pytest.raises(TranscriptError, match="no 2 messages"):
            conversation.write("loud", loud, others)

    assert not conversation.is_written("loud")


def test_a_wire_form_that_nobody_asks_for_any_more_is_given_up() -> None:
    """A run that fell back to another provider for a while does not carry its wire form for good."""
    conversation = written([spoken("a")])
    conversation.write("loud", loud, [spoken("a")])

    kept = []
    for _ in range(IDLE_REPLIES + 1):
        assert conversation.is_written("test")
        conversation.hear(reply())
        kept.append("loud" in conversation._renderings)

    assert kept == [True] * IDLE_REPLIES + [False]
    assert conversation.is_written("test")


def test_what_the_call_before_consisted_of_is_known() -> None:
    """Up to the last reply, which that call brought, everything was sent before: what a provider may have cached."""
    conversation = written([spoken("question")])
    sent = [conversation.sent("test")]
    conversation.append(reply(text="answer"))
    conversation.append(spoken("and"))
    conversation.append(spoken("now"))
    sent.append(conversation.sent("test"))
    conversation.append(reply(text="then"))
    sent.append(conversation.sent("test"))

    items = conversation.items("test")
    assert sent[0] == 0
    assert items[: sent[1]] == b"question"
    assert items[: sent[2]] == b"question,answer,and,now"


def test_calls_of_one_id_in_several_replies_get_ids_of_their_own() -> None:
    """A server that counts its calls from zero can be followed by one that refuses a conversation with repeated ids."""
    conversation = written([spoken("go")])

    heard = [conversation.hear(reply("call_0", "call_1")) for _ in range(2)]
    heard.append(conversation.hear(reply("toolu_1", "toolu_1")))

    ids = [[call.id for call in message.tool_calls] for message in heard]
    assert ids[0] == ["call_0", "call_1"]
    assert ids[2][0] == "toolu_1"
    every = [id_ for some in ids for id_ in some]
    assert len(set(every)) == len(every)
    conversation.truncate(2)
    assert conversation.hear(reply("call_0", "call_1")) == heard[1]


async def test_a_run_changes_its_provider_back_and_forth_for_one_query(client: Client) -> None:
    """The second wire form is read from the workflow once; then both grow by what is new, and the digest is one."""
    app, seen = App(), dict[str, list[bytes]](plain=[], loud=[])
    app.tool()(look)
    app.add(agent(name="tester", model="plain:m", fallbacks=("loud:m",), tools=("look",)))
    replies = 6

    class Wire(InProcessModel):
        """Answers every other step: the plain one the even ones."""

        def __init__(self, wire: str) -> None:
            super().__init__(lambda messages: answer(""))
            self.wire = wire

        def encode(self, message: Message) -> bytes:
            mark = b"!" if self.wire == "loud" else b""
            return mark + message.model_dump_json().encode()

        async def call(self, spec: AgentSpec, messages: bytes, **rest: Any) -> ProviderReply:
            seen[self.wire].append(messages)
            turn = messages.count(b'"role":"assistant"')
            if (turn % 2 == 1) == (self.wire == "plain"):
                raise ApplicationError("busy", type="model_overloaded")
            return answer("done") if turn == replies - 1 else wish(("look", {"at": turn}))

    settings = Settings(task_queue=f"queue-{uuid.uuid4().hex}", shutdown_grace_seconds=0, breaker_window=0)
    plugin = Perdure(app, settings=settings, providers={"plain": Wire("plain"), "loud": Wire("loud")})
    async with build_worker(client, settings, plugin):
        handle = await start(client, app, settings)
        result = await handle.result()
        messages = await transcript(handle)

    assert result.output == "done"
    assert plugin.transcripts.queries == 1
    assert len(seen["plain"]) == replies
    assert seen["loud"][-1] == b",".join(b"!" + message.model_dump_json().encode() for message in messages[:-1])
    assert seen["plain"][-1] == b",".join(message.model_dump_json().encode() for message in messages[:-1])


def model_call(messages: list[Message], tail: tuple[TailMessage, ...]) -> ModelCall:
    """A call about these messages."""
    return ModelCall(
        step=1,
        agent="a",
        version="1",
        spec_digest="",
        length=len(messages),
        digest=digest_of(messages),
        tail=tail,
        timeout=timedelta(seconds=1),
    )


async def test_a_result_that_ran_here_is_remembered_not_sent(client: Client) -> None:
    """The next model call names the result, and the conversation is complete without a Query."""
    transcripts = Transcripts(max_bytes=10_000)
    question, result = UserMessage(text="q"), ToolMessage(results=(ToolResult(call_id="p1", content="found"),))
    first = model_call([question], (TailMessage(message=question),))
    reference = TailMessage(results=(ResultReference(call_id="c1", provider_id="p1"),))
    second = model_call([question, result], (reference,))

    await taken(transcripts, first, client)
    transcripts.remember_result(RUN, "c1", "found", is_error=False)
    answered = await taken(transcripts, second, client)
    again = await taken(transcripts, second, client)

    assert answered == b"q,found"
    assert again == b"q,found"
    assert transcripts.queries == 0


async def test_memory_is_bounded(client: Client) -> None:
    """The conversation used least recently is given up first."""
    transcripts = Transcripts(max_bytes=3_000)
    for run in ("run-1", "run-2", "run-3"):
        conversation = written([spoken("x" * 1_000)])
        transcripts.put(run, conversation)
    for number in range(100):
        transcripts.remember_result("run-1", f"c{number}", "y" * 100, is_error=False)

    assert list(transcripts._conversations) == ["run-2", "run-3"]
    assert len(transcripts._results) == 3


@pytest.mark.parametrize(("limit", "fitting"), [(10, 1), (40, 2), (10_000, 3)])
def test_what_is_adopted_at_once_fits(limit: int, fitting: int) -> None:
    """The last messages that fit, and at least one."""
    assert last_fitting([spoken("a" * 8)] * 3, max_bytes=limit) == fitting
