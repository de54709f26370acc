"""Output guards over a stream: the same outcome however the text is cut, and nothing of a match gets through."""

from __future__ import annotations

import time

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perdure.guard import KEYS, Guard
from perdure.guard_pattern import compiled
from perdure.stream_guard import GuardTimeoutError, StreamGuard, matches

KEY = "sk-" + "ant-api03-A1b2C3d4E5f6G7h8J9k0"


def streamed(guards: list[Guard], pieces: list[str]) -> tuple[str, str]:
    """Return what a stream lets through, and which guard blocks it."""
    stream = StreamGuard(guards)
    passed = "".join([*(stream.feed(piece) for piece in pieces), stream.flush()])
    return ("", stream.blocked_by) if stream.blocked_by else (passed, "")


def cut(text: str, places: list[int]) -> list[str]:
    """Cut a text at these places."""
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


ATOMS = st.sampled_from(["a", "b", "[ab]", "[^a]", ".", r"\d", r"\b", r"\B", "-", "ab"])
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda two: f"(?:{two[0]}|{two[1]})"),
        st.tuples(inner, st.sampled_from(["?", "{1,3}", "{0,2}", "??", "{2}", "{1,2}+"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
        st.tuples(ATOMS.filter(lambda atom: atom not in (r"\b", r"\B")), st.sampled_from(["+", "*", "+?", "++"])).map(
            lambda two: f"(?:{two[0]}){two[1]}"
        ),
    ),
    max_leaves=5,
)


def guard_of(pattern: str) -> Guard:
    """Return a guard of the pattern, or of a plain one if it is not taken."""
    try:
        compiled(pattern)
    except ValueError:
        pattern = "a{1,3}b"
    return Guard(name="g", pattern=pattern)


@settings(max_examples=600)
@given(PATTERNS, st.text("ab-1 ", max_size=25), st.lists(st.integers(0, 25), max_size=6))
@example("abab|ab", "ab-abab", [4])
@example(r"\bab\b", "abba ab", [2, 6])
@example(r".\B", "bab", [1])
@example("a.*b|-", "a-1b", [2])
def test_any_split_of_any_text_gives_what_the_whole_gives(pattern: str, text: str, places: list[int]) -> None:
    """A match that is spread over pieces is masked as if it had come at once, and so is everything else."""
    guard = guard_of(pattern)
    whole = compiled(guard.pattern).sub(lambda _: guard.mask, text)

    assert streamed([guard], cut(text, places)) == (whole, "")
    assert streamed([guard], list(text)) == (whole, "")


@given(st.lists(PATTERNS, min_size=1, max_size=3), st.text("ab-1 ", max_size=20), st.lists(st.integers(0, 20)))
def test_any_split_gives_the_same_through_several_guards(patterns: list[str], text: str, places: list[int]) -> None:
    """Masks and blocks of a chain of guards do not depend on the pieces either."""
    chain = [
        guard_of(pattern).model_copy(update={"name": f"g{place}", "action": "block" if place == 2 else "mask"})
        for place, pattern in enumerate(patterns)
    ]

    assert streamed(chain, cut(text, places)) == streamed(chain, [text])


@given(st.lists(st.integers(0, 200), max_size=10), st.text(max_size=30), st.text(max_size=30))
def test_a_split_key_is_caught(places: list[int], before: str, after: str) -> None:
    """Wherever a key is cut, nothing of it gets through."""
    text = f"{before} {KEY} {after}"

    passed, _ = streamed([KEYS], cut(text, places))

    assert passed == f"{before} [masked: keys] {after}"


def test_text_is_held_back_only_where_a_match_may_begin() -> None:
    """What cannot become a match is passed on at once, and a beginning that leads nowhere right behind it."""
    stream = StreamGuard([Guard(name="g", pattern=r"sk-[a-z]{3,}")])

    assert stream.feed("hello ") == "hello "
    assert stream.feed("ask") == "a"
    assert stream.feed("-x") == ""
    assert stream.feed("! and") == "sk-x! and"
    assert stream.feed(" sk-abc") == " "
    assert stream.feed("def") == ""
    assert stream.feed(".") == "[masked: g]."
    assert stream.flush() == ""


def test_a_blocked_text_shows_nothing_more() -> None:
    """From the match on nothing is passed, and the guard is named."""
    stream = StreamGuard([Guard(name="hosts", pattern=r"\w+\.internal", action="block")])

    shown = stream.feed("see db.inter") + stream.feed("nal and more") + stream.feed(" of it") + stream.flush()

    assert shown == "see "
    assert stream.blocked_by == "hosts"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("(", "no regular expression"),
        ("a**", "no regular expression"),
        ("(a+)+", "without an upper bound"),
        ("((?:ab*){2,})", "without an upper bound"),
        ("(?:(?:a+)b)*", "without an upper bound"),
        ("(?=a)b", "looks at what is around"),
        ("(?<!a)b", "looks at what is around"),
        ("(a)(?(1)b|c)", "looks at what is around"),
        ("^a", "depends on where"),
        ("a$", "depends on where"),
        (r"a\Z", "depends on where"),
        (r"(a)\1", "back reference"),
        ("(?P<x>a)(?P=x)", "looks at what is around"),
        ("a*", "empty text"),
        ("a|", "empty text"),
        (r"\b", "empty text"),
        (r"(?:\ba?)", "empty text"),
        ("(?#x)a", "comments"),
        ("(?x)a", "looks at what is around"),
    ],
)
def test_patterns_that_cannot_be_judged_in_pieces_or_in_time_are_refused(pattern: str, why: str) -> None:
    """With words that say what would have to change."""
    with pytest.raises(ValueError, match=why):
        compiled(pattern)


@pytest.mark.parametrize(
    "pattern",
    [r"\bsk-[\w-]{20,}\b", r"(?i)secret", r"[^\]()*+]{3}\(", r"(?P<n>a)b?", r"[]a]+x", r"\^\$\\1", "(?:a|b){1,5}c+",
     r"(?>a+)b", r"\d{4}(?: \d{4}){3}", KEYS.pattern],
)  # fmt: skip
def test_usual_patterns_are_taken(pattern: str) -> None:
    """What stands in a class or behind a backslash is no construct."""
    assert compiled(pattern).pattern == pattern


def test_a_slow_pattern_is_given_up() -> None:
    """A pattern that would take for ever ends in an error instead of holding the process up."""
    guard = Guard(name="slow", pattern="(?:a|b|ab){1,200}c")

    began = time.monotonic()
    with pytest.raises(GuardTimeoutError, match="'slow' took longer"):
        matches(guard, "ab" * 2_000 + "xc")

    assert time.monotonic() - began < 60


def test_regex_finds_what_it_found_before() -> None:
    """The library's partial matches, which holding back relies on: every beginning of a match is one."""
    pattern = regex.compile(r"\bab{2,3}(?:c|de)\b")

    assert all(pattern.fullmatch("abbde"[:end], partial=True) for end in range(1, 6))
    assert pattern.fullmatch("abd", partial=True) is None
