"""Messages, digests and cutting: small pure parts that everything stands on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.activities import call_digest
from perdure.contracts import cut
from perdure.messages import (
    MESSAGE,
    AssistantMessage,
    Message,
    OpaquePart,
    TextPart,
    ToolCallPart,
    ToolMessage,
    ToolResult,
    UserMessage,
    canonical,
    digest_of,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), json_values, max_size=3)
parts = st.one_of(
    st.builds(TextPart, text=st.text()),
    st.builds(ToolCallPart, id=st.text(), name=st.text(), arguments=objects, malformed=st.none() | st.text()),
    st.builds(OpaquePart, wire=st.text(), data=objects),
)
messages = st.one_of(
    st.builds(UserMessage, text=st.text()),
    st.builds(AssistantMessage, parts=st.lists(parts, max_size=4).map(tuple)),
    st.builds(
        ToolMessage,
        results=st.lists(
            st.builds(ToolResult, call_id=st.text(), content=st.text(), is_error=st.booleans()), max_size=3
        ).map(tuple),
    ),
)


@given(message=messages)
def test_a_message_survives_its_journey(message: Message) -> None:
    """Through JSON a message comes back equal, and with the same canonical form."""
    travelled = MESSAGE.validate_json(message.model_dump_json())

    assert travelled == message
    assert canonical(travelled) == canonical(message)


@given(conversation=st.lists(messages, min_size=1, max_size=6), data=st.data())
def test_the_digest_sees_every_change(conversation: list[Message], data: st.DataObject) -> None:
    """Leaving out, changing or moving a message changes the digest; folding in pieces does not."""
    digest = digest_of(conversation)
    middle = data.draw(st.integers(0, len(conversation)))
    other = data.draw(messages.filter(lambda message: canonical(message) != canonical(conversation[-1])))

    assert digest_of(conversation[middle:], start=digest_of(conversation[:middle])) == digest
    assert digest_of(conversation[:-1]) != digest
    assert digest_of([*conversation[:-1], other]) != digest


@given(text=st.text(), limit=st.integers(256, 2000), copies=st.integers(1, 200))
def test_a_cut_text_fits_and_says_so(text: str, limit: int, copies: int) -> None:
    """Within the limit nothing changes; beyond it the text is a prefix with a marker, and fits."""
    whole = text * copies

    shortened = cut(whole, limit)

    assert len(shortened.encode()) <= limit
    if len(whole.encode("utf-8", "replace")) > limit:
        assert "bytes left out" in shortened
        assert whole.startswith(shortened.partition("\n[… cut")[0])


def test_a_lone_surrogate_cannot_stop_a_run() -> None:
    """Text that UTF-8 cannot carry becomes text that it can."""
    assert cut("a\ud800b", 100) == "a?b"


@given(arguments=objects)
def test_a_call_is_identified_by_its_content(arguments: dict[str, object]) -> None:
    """The order of keys does not matter, the tool and every value do."""
    reordered = dict(reversed(arguments.items()))

    assert call_digest("pay", arguments) == call_digest("pay", reordered)
    assert call_digest("pay", arguments) != call_digest("play", arguments)
    assert call_digest("pay", arguments) != call_digest("pay", {**arguments, "more": 1, "and": 2})
