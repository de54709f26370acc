"""The timeline: everything that happened, in lines that fit, and nothing that a tool wrote acts on the terminal."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from perdure.activities import SkippedModel
from perdure.contracts import RunStatus, Totals, Usage
from perdure.events import RunEvent
from perdure.figures import span
from perdure.history import load, project
from perdure_workers.plain_text import bill, block, call, line, money, tokens
from perdure_workers.timeline import show, watch
from tests.unit.handmade import Handmade, model_call, outcome, reply, wish, words
from tests.unit.test_events import TIMEOUT

HISTORIES = Path(__file__).parents[1] / "replay" / "histories"
HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe[bold red]shout[/bold red]\r\nnext " + 30 * "字"


def stored(name: str) -> list[RunEvent]:
    """Return a stored run's events."""
    return list(project(load((HISTORIES / f"{name}.json").read_text())))


def shown(events: list[RunEvent], *, width: int = 80, colour: bool = False) -> str:
    """Return a timeline as a terminal would get it."""
    written = io.StringIO()
    console = Console(file=written, width=width, force_terminal=colour, color_system="standard" if colour else None)
    show(events, console, now=events[-1].at + timedelta(seconds=90))
    return written.getvalue()


def test_a_timeline_tells_who_steered_the_run() -> None:
    """Pause, message, resume and what had no effect have a line each; the signals behind them have none."""
    text = shown(stored("steered"))

    for piece in (
        "paused     by ann: the amount looks wrong",
        "ignored    a pause of eve",
        "already paused by 'ann'",
        "message    from ann",
        "“Offer a voucher instead.”",
        "the message has no text",
        "resumed    by bob after",
    ):
        assert piece in text, piece
    assert " signal " not in text


def test_a_timeline_tells_why_another_model_answered_and_what_was_cached() -> None:
    """Whoever reads the bill sees which model it is for, why it was not the first, and what the cache spared."""
    history = Handmade()
    scheduled = history.schedule("call_model", model_call(1))
    history.start(scheduled)
    skipped = SkippedModel(model="anthropic:claude", error_type="model_overloaded", why="Overloaded (request r-1)")
    usage = Usage(input_tokens=1000, cache_read_tokens=820, output_tokens=5)
    history.complete(scheduled, reply(words("hello")).model_copy(update={"skipped": (skipped,), "usage": usage}))

    text = " ".join(shown(history.events, width=100).split())

    assert "1.0k→5 tok, 82% cached" in text
    assert "not anthropic:claude: model_overloaded: Overloaded (request r-1)" in text


def test_a_run_can_be_read_from_its_timeline() -> None:
    """Every step, decision, attempt and loss has its line, and the last one has the totals."""
    text = shown(stored("everything"))

    for piece in (
        'find_order(order_id="1042")',
        "attempt 2; before that: ",
        "There is no tool 'guess'.",
        "approval c6-",
        "a decision of eve on nothing-asked",
        "refund_order by ann after",
        ": fair",
        "refund_order by bob after",
        ": too much",
        " lost ",
        "the outcome of refund_order is unknown",
        " completed ",
        "8 steps: 3 model, 5 tool",
        "30→15 tok  unpriced",
        "Your 59.90 are on their way.",
    ):
        assert piece in " ".join(text.split()) or piece in text


@pytest.mark.parametrize("name", ["everything", "cancelled", "failed", "running", "continued"])
@pytest.mark.parametrize("width", [60, 80, 132])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    """What does not fit is cut or wrapped, so that the columns stay columns."""
    text = shown(stored(name), width=width)

    assert max(cell_len(row) for row in text.splitlines()) <= width


def test_what_tools_and_models_write_neither_steers_the_terminal_nor_is_markup() -> None:
    """Escape sequences and direction marks are spelled out; brackets are brackets."""
    history = Handmade()
    history.model_call(1, words(HOSTILE), wish(tool=HOSTILE))
    history.complete(history.tool_call(2), outcome(HOSTILE))
    history.add("workflow_execution_terminated", reason=HOSTILE)

    text = shown(history.events)

    assert all(one.isprintable() or one == "\n" for one in text)
    assert "[bold red]shout" in text
    assert max(cell_len(row) for row in text.splitlines()) <= 80


def test_a_lost_worker_shows_as_a_second_attempt() -> None:
    """A crash that Temporal healed is still told."""
    history = Handmade()
    history.model_call(1, wish())
    scheduled = history.tool_call(2)
    history.start(scheduled, attempt=2, last_failure=TIMEOUT)
    history.complete(scheduled, outcome("found"))

    assert "attempt 2; before that: the worker was lost" in shown(history.events)


def test_open_steps_of_a_run_that_goes_on_are_shown_with_their_age() -> None:
    """Whoever looks sees what the run is waiting for."""
    rows = [row for row in shown(stored("running")).splitlines() if " waiting " in row]

    assert len(rows) == 1
    assert rows[0].endswith("for 1 m 30 s")


def test_colour_is_an_addition() -> None:
    """The words are the same with and without it."""
    coloured = shown(stored("everything"), colour=True)

    assert "\x1b[" in coloured
    assert "approved" in coloured


async def test_watching_prints_events_as_they_come_and_returns_the_end() -> None:
    """Without a terminal there is no moving line, only the timeline."""
    events = stored("everything")
    written = io.StringIO()

    async def coming() -> AsyncIterator[RunEvent]:
        for event in events:
            yield event

    status = await watch(coming(), Console(file=written, width=80))

    assert status is RunStatus.COMPLETED
    assert written.getvalue() == shown(events)


@given(st.text(max_size=300), st.integers(min_value=1, max_value=80))
def test_any_text_becomes_one_printable_line(text: str, limit: int) -> None:
    """Whatever it is, and at most as long as asked for, spelling out aside."""
    one = line(text, limit)

    assert one.isprintable()
    assert "\n" not in one


def test_a_block_keeps_its_lines() -> None:
    """An answer is read as it was written, but for what would act on the terminal."""
    assert block("one\ttwo\r\n\x1b[31mthree") == "one two\n\\x1b[31mthree"


@pytest.mark.parametrize(
    ("time", "words"),
    [
        (timedelta(milliseconds=31), "31 ms"),
        (timedelta(milliseconds=999.6), "1.0 s"),
        (timedelta(seconds=59.96), "1 m 00 s"),
        (timedelta(minutes=2, seconds=5), "2 m 05 s"),
        (timedelta(minutes=59, seconds=59.7), "1 h 00 m"),
        (timedelta(hours=3, minutes=12), "3 h 12 m"),
        (timedelta(days=2, hours=4), "2 d 4 h"),
        (timedelta(seconds=-1), "0 ms"),
    ],
)
def test_durations_have_the_units_that_matter(time: timedelta, words: str) -> None:
    """Short ones are exact, long ones readable."""
    assert span(time) == words


def test_numbers_and_calls_are_short() -> None:
    """Tokens in thousands, money with the digits that count, arguments as one would write them."""
    assert tokens(Usage(input_tokens=1234, output_tokens=42)) == "1.2k→42 tok"
    assert tokens(Usage(input_tokens=999_960, output_tokens=2_500_000)) == "1.0M→2.5M tok"
    assert (money(None), money(Decimal("0.00421")), money(Decimal("1234.5"))) == ("unpriced", "$0.0042", "$1,234.50")
    assert call("refund", {"amount": 5, "note": "a\nb"}) == 'refund(amount=5, note="a\\nb")'


def test_a_bill_never_hides_that_something_has_no_price() -> None:
    """Unpriced is not free."""
    assert bill(Totals(cost_usd=Decimal("0.5"))) == "$0.5000"
    assert bill(Totals(cost_usd=Decimal("0.5"), unpriced_calls=1)) == "at least $0.5000"
    assert bill(Totals(unpriced_calls=1)) == "unpriced"
