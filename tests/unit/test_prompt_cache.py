"""The scripted vendor's cache: what is found again is what the vendors' rules let be found."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.testing.prompt_cache import LOOKBACK, Block, PromptCache

SIZE = len('{"n":100}')


def prompt(length: int, *marks: int) -> list[Block]:
    """So many blocks of one size, with a mark on these."""
    return [Block({"n": 100 + number}, marked=number in marks) for number in range(length)]


def test_what_ended_at_a_mark_is_found_again() -> None:
    """A longer prompt finds the beginning that was marked; one that differs anywhere in it does not."""
    cache = PromptCache()
    first = cache.marked(prompt(3, 2), scope="m")
    longer = cache.marked(prompt(5, 4), scope="m")
    other = cache.marked([Block({"n": 999}), *prompt(5, 4)[1:]], scope="m")
    elsewhere = cache.marked(prompt(5, 4), scope="another model")

    assert (first.known, first.kept) == (0, 3 * SIZE)
    assert (longer.known, longer.kept) == (3 * SIZE, 5 * SIZE)
    assert other.known == elsewhere.known == 0


def test_a_beginning_too_far_before_the_mark_is_not_found() -> None:
    """As at Anthropic; a second mark, where the first one was, finds it all the same."""
    cache = PromptCache()
    cache.marked(prompt(1, 0), scope="m")

    near = cache.marked(prompt(LOOKBACK + 1, LOOKBACK), scope="m")
    cache = PromptCache()
    cache.marked(prompt(1, 0), scope="m")
    far = cache.marked(prompt(LOOKBACK + 2, LOOKBACK + 1), scope="m")
    cache = PromptCache()
    cache.marked(prompt(1, 0), scope="m")
    twice = cache.marked(prompt(LOOKBACK + 2, 0, LOOKBACK + 1), scope="m")

    assert (near.known, far.known, twice.known) == (SIZE, 0, SIZE)


@given(before=st.integers(0, 30), now=st.integers(0, 30))
def test_without_marks_the_longest_beginning_is_found(before: int, now: int) -> None:
    """As at OpenAI, however far back it ends."""
    cache = PromptCache()
    cache.longest(prompt(before), scope="m")

    assert cache.longest(prompt(now), scope="m").known == min(before, now) * SIZE
