"""Cleaning up behind calls that a run's end cut off: once the function is over, durably, and never behind a result."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest
from temporalio.client import Client, WorkflowFailureError

from perdure import App, Limits, ToolContext
from perdure.contracts import RunStatus
from perdure.events import ToolCleanedUp
from perdure.history import fetch_executions, read_events
from perdure.testing import eventually
from perdure_workers.replay import replay
from tests.harness import (
    Handle,
    InProcessModel,
    agent,
    answer,
    assert_valid,
    in_turns,
    pending,
    serving,
    start,
    transcript,
    wish,
)

BOOK = wish(("look", {"room": "12"}), ("book", {"room": "12"}))


@dataclass
class Hotel:
    """A hotel whose bookings take for ever, and what happened there in order."""

    fails: int = 0
    """So many attempts to give a room back."""
    loses: bool = False
    """The connection breaks instead."""
    happened: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def app(self, *, effect: str = "idempotent", plain: bool = False, limits: Limits | None = None) -> App:
        """An app whose tool books rooms, and gives back those that it holds."""
        app = App()

        def release(ctx: ToolContext, room: str) -> None:
            self.happened.append(f"release {room}")
            self.keys.add(ctx.idempotency_key)
            if ctx.attempt <= self.fails:
                raise ConnectionResetError("the hotel does not answer")

        async def book(ctx: ToolContext, room: str) -> str:
            """Book a room."""
            self._begin(ctx, room)
            try:
                await asyncio.Event().wait()
            finally:
                self.happened.append("booking over")
            return "booked"

        def book_plainly(ctx: ToolContext, room: str) -> str:
            """Book a room."""
            self._begin(ctx, room)
            while not ctx.cancelled:
                time.sleep(0.01)
            self.happened.append("booking over")
            raise ConnectionAbortedError("no longer wanted")

        declare = app.tool(
            name="book", effect="once" if effect == "once" else "idempotent", approval="allow", on_cancel=release
        )
        declare(book_plainly if plain else book)

        @app.tool(on_cancel=release)
        def look(room: str) -> str:
            """Look at a room."""
            return f"{room} has a view"

        app.add(agent(tools=("look", "book"), limits=limits or Limits()))
        return app

    def _begin(self, ctx: ToolContext, room: str) -> None:
        self.happened.append(f"hold {room}")
        self.keys.add(ctx.idempotency_key)
        if self.loses:
            raise ConnectionResetError("connection lost")

    async def holds(self) -> None:
        """Wait until a room is held."""
        await eventually(lambda: self.happened, what="the booking")


async def cancelled(handle: Handle) -> None:
    """Cancel a run, and wait until it is over."""
    await handle.cancel()
    with pytest.raises(WorkflowFailureError):
        await handle.result()


async def clean_ups(client: Client, handle: Handle) -> list[ToolCleanedUp]:
    """Return the events that tell of cleaning up; the run must replay."""
    assert (await replay(await fetch_executions(client, handle.id))).deterministic
    return [event for event in await read_events(client, handle.id) if isinstance(event, ToolCleanedUp)]


@pytest.mark.parametrize("plain", [False, True], ids=["async", "thread"])
async def test_a_cancelled_call_is_cleaned_up_behind(client: Client, *, plain: bool) -> None:
    """With the call's arguments and idempotency key, after its function has ended; a finished call is left alone."""
    hotel = Hotel()
    app = hotel.app(plain=plain)

    async with serving(client, app, InProcessModel(in_turns(BOOK))) as settings:
        handle = await start(client, app, settings)
        await hotel.holds()
        await cancelled(handle)
        told = await clean_ups(client, handle)
        messages = await transcript(handle)

    assert hotel.happened == ["hold 12", "booking over", "release 12"]
    assert len(hotel.keys) == 1
    assert [(event.tool, event.step, event.error) for event in told] == [("book", 3, None)]
    assert_valid(messages)


@pytest.mark.parametrize(("fails", "attempts"), [(1, 2), (9, 3)])
async def test_cleaning_up_is_tried_again_and_holds_no_run_open(client: Client, fails: int, attempts: int) -> None:
    """Three times in all; then the event says what was wrong, and the run is cancelled all the same."""
    hotel = Hotel(fails=fails)
    app = hotel.app()

    async with serving(client, app, InProcessModel(in_turns(BOOK))) as settings:
        handle = await start(client, app, settings)
        await hotel.holds()
        await cancelled(handle)
        [told] = await clean_ups(client, handle)

    assert hotel.happened.count("release 12") == told.attempts == attempts
    assert told.error == (None if fails == 1 else "ConnectionResetError: the hotel does not answer")


async def test_a_call_that_the_deadline_cut_off_is_cleaned_up_behind(client: Client) -> None:
    """Whatever ends the run."""
    hotel = Hotel()
    app = hotel.app(limits=Limits(run_timeout=2))

    async with serving(client, app, InProcessModel(in_turns(BOOK))) as settings:
        handle = await start(client, app, settings)
        result = await handle.result()
        told = await clean_ups(client, handle)

    assert result.status is RunStatus.TIMED_OUT
    assert hotel.happened == ["hold 12", "booking over", "release 12"]
    assert len(told) == 1


async def test_a_call_whose_outcome_is_unknown_is_cleaned_up_behind_at_the_end_only(client: Client) -> None:
    """Not while a human may still say what became of it; but when the run ends without anybody knowing."""
    hotel = Hotel(loses=True)
    app = hotel.app(effect="once")
    script = in_turns(BOOK, BOOK, answer("Booked."))

    async with serving(client, app, InProcessModel(script)) as settings:
        handle = await start(client, app, settings)
        [first] = await pending(handle)
        await handle.signal(
            "approve", {"approval_id": first.approval_id, "decided_by": "ann", "outcome": "done", "result": "room 12"}
        )
        await eventually(lambda: hotel.happened.count("hold 12") == 2, what="the second booking")
        await pending(handle)
        before = list(hotel.happened)
        await cancelled(handle)
        told = await clean_ups(client, handle)

    assert before == ["hold 12", "hold 12"]
    assert hotel.happened == [*before, "release 12"]
    assert [event.step for event in told] == [6]
