"""Redaction of texts in pieces: however a text is cut, nothing is seen that the redacted whole does not begin with."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.redaction import SECRETS
from perdure.secret_forms import FORMS
from perdure.stream_redaction import StreamRedactor

KEY = "sk-ant-abcdefghij0123456789"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow-IBAAK\nabc+/=\n-----END RSA PRIVATE KEY-----"
SECRET_TEXTS = (
    KEY,
    PEM,
    "pdk_acme_abcdefgh12345",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "sk-proj1234567890abcdefghij",
    "ghp_" + "a1" * 18,
    "github_pat_" + "b2" * 18,
    "glpat-abcdefgh12345678",
    "AKIAIOSFODNN7EXAMPLE",
    "xoxb-1234567890-abc",
    "https://hooks.slack.com/services/T000/B000/XXXX",
    "AIza" + "c3" * 18,
    "ya29.abcdefghij0123456789",
    "sk_live_abcdefgh123",
    "npm_" + "d4" * 18,
    "hf_" + "e5" * 18,
    "pypi-" + "f6" * 21,
    "hvs.abcdefghij0123456789",
    "eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.abc-def",
    "Authorization: Bearer abcdef0123456789",
    "cookie: session=abc; theme=dark\n",
    "postgres://ann:hunter2@db.local/shop",
    "password: hunter2!",
    "password = 'two words'",
    'api_key="abc def\\"ghi"',
    '{"token": "abc\\n", "amount": 3}',
    "{'client_secret': 'x y z'}",
    r"{\"secret\": \"deep\"}",
    '"pin": 1234',
    "4111 1111 1111 1111",
    "5500-0000-0000-0004",
    "378282246310005.",
)
FRAGMENTS = st.one_of(
    st.sampled_from(SECRET_TEXTS),
    st.sampled_from(SECRET_TEXTS).flatmap(lambda text: st.integers(0, len(text)).map(lambda end: text[:end])),
    st.sampled_from(
        (
            " ",
            "\n",
            "\t",
            "\x1c",
            '"',
            "'",
            "\\",
            ":",
            "=",
            "-",
            ".",
            ",",
            "@",
            "/",
            "2",
            "49",
            "\u017f",
            "\u212a",
            "\u0130",
        )
    ),
    st.sampled_from(
        ("hello ", "token", "cookie", "COOKIE", "bearer ", "bEaRer ", "the key is ", "https://", "a" * 130)
    ),
    st.text(alphabet="ab1 -_.:=\"'\\\n/@4", max_size=12),
)
TEXTS = st.lists(FRAGMENTS, max_size=8).map("".join)


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    """A text in pieces."""
    text = draw(TEXTS)
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=12)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def check(pieces: list[str]) -> None:
    """Feed the pieces, and compare what was passed on with the redacted whole, at each of them."""
    whole = "".join(pieces)
    stream = StreamRedactor()
    passed = list(accumulate((stream.feed(piece) for piece in pieces), initial=""))
    complete = passed[-1] + stream.flush()

    assert complete == SECRETS.redact(whole)
    for text in (*accumulate(pieces), *(whole + more for more in ("", KEY, "\n", " x", '"'))):
        # What is seen of a beginning must hold for every text that begins so.
        if len(text) >= len(whole):
            assert SECRETS.redact(text).startswith(passed[-1])


@settings(max_examples=1500, deadline=None)
@given(cut_texts())
@example(["bEARer abcdefghijkl1", " earer"])
@example(["eyJ", "hbGciOiJIUzI1", "."])
@example(["Authorization: "])
def test_what_is_seen_of_a_text_in_pieces_is_a_beginning_of_the_redacted_whole(pieces: list[str]) -> None:
    """The pieces joined are the redaction of the whole once it is complete, and a prefix of it before."""
    check(pieces)


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_a_secret_is_not_seen_at_any_cut(text: str) -> None:
    """Whatever a secret's form, it may come letter by letter, or in two pieces anywhere."""
    said = f"It is {text} and that is all."
    check(list(said))
    for place in range(len(said)):
        check([said[:place], said[place:]])


def test_prose_is_hardly_held_back() -> None:
    """Of words that are no secret, two letters at most are held back, as they might begin one."""
    stream = StreamRedactor()
    said = shown = ""

    for piece in ("The order", " left on", " Monday: ", "it is", " there, at", " https://example.org/", " by now."):
        said += piece
        shown += stream.feed(piece)
        assert len(said) - len(shown) <= 2


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_every_form_has_an_example(form: object) -> None:
    """A form that is added is tried in pieces too."""
    assert any(hint in text for text in SECRET_TEXTS for hint in form.hints)  # type: ignore[attr-defined]
