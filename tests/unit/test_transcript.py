"""The workflow's side of the conversation: pages, what is carried along, what is taken over."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.activities import TranscriptPage, TranscriptRequest
from perdure.messages import Message, UserMessage, digest_of
from perdure_workflows.state import TranscriptState
from perdure_workflows.transcript import ADOPT_AFTER, MAX_CARRIED_BYTES, Transcript

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def transcript_of(texts: list[str]) -> Transcript:
    """A transcript of user messages."""
    transcript = Transcript(TranscriptState())
    for text in texts:
        transcript.append(UserMessage(text=text))
    return transcript


@given(texts=st.lists(st.text(max_size=40), max_size=12), page_bytes=st.integers(1, 200))
def test_pages_put_together_are_the_transcript(texts: list[str], page_bytes: int) -> None:
    """However small the pages, each has a message, and together they are all messages in order."""
    transcript = transcript_of(texts)
    messages: list[Message] = []

    while len(messages) < transcript.length:
        page = transcript.page(TranscriptRequest(start=len(messages), max_bytes=page_bytes))
        assert page.messages
        messages += page.messages

    assert messages == [UserMessage(text=text) for text in texts]
    assert transcript.digest == digest_of(messages)


def test_a_small_transcript_is_carried_and_a_large_one_pointed_to() -> None:
    """Continue-as-new takes along what is cheap, and says where the rest is."""
    small, large = transcript_of(["hi"]), transcript_of(["x" * MAX_CARRIED_BYTES])

    carried = Transcript(small.carried(execution_id="e1", now=NOW))
    left = Transcript(large.carried(execution_id="e1", now=NOW))

    assert (carried.base, carried.length, carried.digest) == (0, 1, small.digest)
    assert (left.base, left.length, left.digest) == (1, 1, large.digest)
    assert [(segment.execution_id, segment.start, segment.end) for segment in left.segments] == [("e1", 0, 1)]
    assert left.adoption_due == NOW + ADOPT_AFTER
    assert carried.adoption_due is None


def test_messages_of_an_earlier_execution_are_not_invented() -> None:
    """A page that starts before this execution's own messages is empty and says who has them."""
    later = Transcript(transcript_of(["x" * MAX_CARRIED_BYTES]).carried(execution_id="e1", now=NOW))
    later.append(UserMessage(text="mine"))

    page = later.page(TranscriptRequest(start=0))

    assert page.messages == ()
    assert (page.base, page.length) == (1, 2)
    assert page.segments[0].execution_id == "e1"


def test_adopted_messages_join_seamlessly_or_not_at_all() -> None:
    """Pages are taken over from the last to the first; one that does not fit is an error."""
    first = transcript_of(["a" * MAX_CARRIED_BYTES, "b"])
    later = Transcript(first.carried(execution_id="e1", now=NOW))
    a, b = first.page(TranscriptRequest(start=0, max_bytes=10**9)).messages

    with pytest.raises(ValueError, match="do not end at 2"):
        later.adopt(TranscriptPage(start=0, messages=(a,), length=2))
    later.adopt(TranscriptPage(start=1, messages=(b,), length=2))
    later.adopt(TranscriptPage(start=0, messages=(a,), length=2))

    assert (later.base, later.segments, later.adoption_due) == (0, (), None)
    assert digest_of(later.page(TranscriptRequest(start=0, max_bytes=10**9)).messages) == first.digest
