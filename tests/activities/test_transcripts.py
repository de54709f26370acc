"""What a worker remembers of conversations: right or not at all, and within its memory."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from temporalio.client import Client

from perdure.contracts import ModelCall, ResultReference, TailMessage
from perdure.messages import Message, ToolMessage, ToolResult, UserMessage, digest_of
from perdure_activities.transcripts import Conversation, Transcripts, last_fitting

RUN = "run-1"
texts = st.lists(st.text(max_size=5), max_size=8)


def spoken(text: str) -> Message:
    """A message."""
    return UserMessage(text=text)


def encode(message: Message) -> bytes:
    """Write a message; one without text has nothing to say to this provider."""
    assert isinstance(message, UserMessage | ToolMessage)
    return (message.text if isinstance(message, UserMessage) else message.results[0].content).encode()


@given(before=texts, kept=st.integers(0, 8), after=texts)
def test_a_conversation_shortened_and_continued_is_as_if_never_longer(
    before: list[str], kept: int, after: list[str]
) -> None:
    """Bytes and digests after truncate and append are those of the remaining messages."""
    conversation = Conversation("test", encode)
    for text in before:
        conversation.append(spoken(text))

    conversation.truncate(kept)
    for text in after:
        conversation.append(spoken(text))

    remaining = [*before[:kept], *after]
    assert len(conversation) == len(remaining)
    assert conversation.items() == b",".join(text.encode() for text in remaining if text)
    for length in range(len(remaining) + 1):
        assert conversation.digest(length) == digest_of(spoken(text) for text in remaining[:length])


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

    asked = await transcripts.take(RUN, first, client=client, execution_id="", wire="w", encode=encode)
    transcripts.put(RUN, asked)
    transcripts.remember_result(RUN, "c1", "found", is_error=False)
    answered = await transcripts.take(RUN, second, client=client, execution_id="", wire="w", encode=encode)
    transcripts.put(RUN, answered)
    again = await transcripts.take(RUN, second, client=client, execution_id="", wire="w", encode=encode)

    assert answered.items() == b"q,found"
    assert again.items() == b"q,found"
    assert transcripts.queries == 0


async def test_memory_is_bounded(client: Client) -> None:
    """The conversation used least recently is given up first."""
    transcripts = Transcripts(max_bytes=3_000)
    for run in ("run-1", "run-2", "run-3"):
        conversation = Conversation("w", encode)
        conversation.append(spoken("x" * 1_000))
        transcripts.put(run, conversation)
    for number in range(100):
        transcripts.remember_result("run-1", f"c{number}", "y" * 100, is_error=False)

    assert list(transcripts._conversations) == ["run-2", "run-3"]
    assert len(transcripts._results) == 3


@pytest.mark.parametrize(("limit", "fitting"), [(10, 1), (40, 2), (10_000, 3)])
def test_what_is_adopted_at_once_fits(limit: int, fitting: int) -> None:
    """The last messages that fit, and at least one."""
    assert last_fitting([spoken("a" * 8)] * 3, max_bytes=limit) == fitting
