"""Look-ups that are shared while they run and kept for a moment."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure_api.lookups import Lookups

LONG = timedelta(hours=1)


class Source:
    """Something slow to ask, which a test holds back and lets go."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.failure: Exception | None = None

    async def __call__(self, question: str) -> str:
        """Answer when the test lets it."""
        self.asked.append(question)
        await self.go.wait()
        if self.failure:
            raise self.failure
        return f"{question}!"


async def test_a_question_is_asked_once_at_a_time_and_its_answer_kept() -> None:
    """A flood of the same question reaches the source once, and so do later ones."""
    source = Source()
    lookups = Lookups(source, kept_for=LONG)
    source.go.clear()

    waiting = [asyncio.create_task(lookups.find("a")) for _ in range(100)]
    await asyncio.sleep(0)
    source.go.set()
    answers = {*await asyncio.gather(*waiting), await lookups.find("a")}

    assert (answers, source.asked) == ({"a!"}, ["a"])


async def test_an_old_answer_is_looked_up_anew() -> None:
    """After its time, or for who wants a newer one."""
    source = Source()
    fleeting, lasting = Lookups(source, kept_for=timedelta(0)), Lookups(source, kept_for=LONG)

    for lookups in (fleeting, lasting):
        await lookups.find("a")
        await lookups.find("a")
    await lasting.find("a", not_before=float("inf"))

    assert source.asked == ["a", "a", "a", "a"]


async def test_a_failure_is_for_all_who_waited_and_is_not_kept() -> None:
    """The next caller asks again."""
    source = Source()
    lookups = Lookups(source, kept_for=LONG)
    source.failure = OSError("away")

    failed = await asyncio.gather(*(lookups.find("a") for _ in range(3)), return_exceptions=True)
    source.failure = None

    assert [str(error) for error in failed] == ["away"] * 3
    assert await lookups.find("a") == "a!"
    assert source.asked == ["a", "a"]


async def test_a_caller_who_leaves_does_not_take_the_answer_along() -> None:
    """The look-up goes on for the others, also when the one left who began it."""
    source = Source()
    lookups = Lookups(source, kept_for=LONG)
    source.go.clear()

    first, second = asyncio.create_task(lookups.find("a")), asyncio.create_task(lookups.find("a"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    source.go.set()

    assert first.cancelled()
    assert (await second, source.asked) == ("a!", ["a"])


async def test_what_is_kept_is_bounded_and_what_is_used_stays() -> None:
    """A flood of other questions drives out those that nobody asks any more, and not the one in use."""
    source = Source()
    lookups = Lookups(source, kept_for=LONG, max_kept=10)

    await lookups.find("used")
    for number in range(100):
        await lookups.find(f"unknown {number}")
        await lookups.find("used")
    await lookups.find("unknown 0")

    assert source.asked.count("used") == 1
    assert source.asked.count("unknown 0") == 2


@pytest.mark.filterwarnings("error")
async def test_a_failure_that_nobody_waits_for_is_quiet() -> None:
    """A look-up whose callers have all left may fail without a word."""
    source = Source()
    lookups = Lookups(source, kept_for=LONG)
    source.failure = OSError("away")
    source.go.clear()

    caller = asyncio.create_task(lookups.find("a"))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    source.go.set()
    await asyncio.sleep(0)
    source.failure = None

    assert await lookups.find("a") == "a!"
