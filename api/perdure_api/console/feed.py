"""The feed of a run's page: what its events change on it, as fragments of HTML in an event stream.

Fragments follow from the events alone. A browser that comes back names the last event it had, here or at another
replica, and gets what changed since.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import structlog
from fastapi import Request, Response
from sse_starlette import ServerSentEvent

from perdure.deltas import DELTA, AttemptReset, Delta
from perdure.errors import PerdureError
from perdure.events import RUN_EVENT, EventId
from perdure.principal import Scope
from perdure_api.access import permit
from perdure_api.console.console_route import logged_in
from perdure_api.console.rendering import fragment, surroundings
from perdure_api.console.story import Story
from perdure_api.feeds import Feeds, Told
from perdure_api.gateway import Gateway
from perdure_api.live import event_source, until, until_over
from perdure_api.runs import check_event_id

log = structlog.get_logger(__name__)

RETRY_MILLISECONDS: Final = 500
TOGETHER_SECONDS: Final = 0.03
"""After each message; what comes meanwhile is the next one."""
OVER: Final = "over"
"""The message after which a browser does not come back."""


async def run_feed(request: Request, gateway: Gateway, feeds: Feeds, run_id: str, *, after: str | None) -> Response:
    """Return the stream of a run.

    Raises:
        RunNotFoundError: There is no such run.
        InvalidInputError: `after` is no event's id.
    """
    check_event_id(after)
    detail = await gateway.runs.get(run_id)
    stopping = asyncio.Event()
    return event_source(
        _messages(_Page(surroundings(request), detail, Story()), request, feeds, after, stopping=stopping),
        stopping=stopping,
    )


@dataclass
class _Page:
    """The page that a browser has, and what is to be changed on it."""

    surroundings: dict[str, Any]
    run: Any
    story: Story
    _known: set[str] = field(default_factory=set)
    """Keys of entries that it has by the events so far."""
    _anew: bool = False
    """Whether its whole timeline is to be replaced."""
    _spoken: dict[str, str] = field(default_factory=dict)

    def take(self, batch: list[Told], *, seen: EventId | None) -> dict[str, bool]:
        """Take in what is told, and return the entries that it changes behind the event that was seen.

        With each comes whether the page has it already.
        """
        changed: dict[str, bool] = {}
        for told in batch:
            if told.id is None:
                changed |= self._hear(told)
                continue
            is_new = seen is None or told.id > seen
            # Of what a retry withdraws the page may have steps that the story does not have.
            self._anew = self._anew or (is_new and told.kind == "run.reset")
            for key in self.story.add(RUN_EVENT.validate_json(told.data)):
                self._spoken.pop(key, None)  # the event has all of it
                if is_new:
                    changed.setdefault(key, key in self._known)
                self._known.add(key)
        return changed

    def _hear(self, told: Told) -> dict[str, bool]:
        """Take in a piece of what the model is saying; what an attempt before said is withdrawn."""
        if told.kind == DELTA:
            delta = Delta.model_validate_json(told.data)
            key = f"step-{delta.step}"
            self._spoken[key] = self._spoken.get(key, "") + delta.text
            return {}
        key = f"step-{AttemptReset.model_validate_json(told.data).step}"
        self._spoken.pop(key, None)
        return {key: True} if key in self._known else {}

    def update(self, changed: dict[str, bool]) -> str:
        """Return what puts changed entries in their places, adds what was said, and brings the rest up to date."""
        if self._anew:
            self._anew, changed = False, {}
            parts = [self._render("feed_timeline.html", window=self.story.window())]
        else:
            parts = []
        parts += [
            self._render("feed_entry.html", key=key, entry=self.story.entry(key), known=known)
            for key, known in changed.items()
        ]
        parts += [self._render("feed_text.html", key=key, text=text) for key, text in self._spoken.items()]
        self._spoken.clear()
        return "".join(parts)

    def head(self) -> str:
        """Return what brings status, totals and buttons up to date."""
        return self._render("feed_head.html")

    def _render(self, template: str, **values: Any) -> str:
        return fragment(self.surroundings, template, run=self.run, story=self.story, **values)


async def _messages(
    page: _Page, request: Request, feeds: Feeds, after: str | None, *, stopping: asyncio.Event
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(comment="the feed of a run's page", retry=RETRY_MILLISECONDS)

    async def ask() -> None:
        permit(await logged_in(request), Scope.RUNS_READ)

    seen = EventId.parse(after) if after else None
    greeted = False
    try:
        over = until_over(ask, stopping=stopping)
        batches = feeds.batches(page.run.run_id)
        async with aclosing(batches), aclosing(until(over, batches)) as ongoing:
            async for batch in ongoing:
                changed = page.take(batch, seen=seen)
                if not greeted and (seen is None or EventId.parse(page.story.last_id) >= seen):
                    # What the page shows of what is under way may be older than the connection, its form's token too.
                    greeted, changed = True, dict.fromkeys(page.story.open_steps(), True) | changed
                if not greeted:
                    await asyncio.sleep(0)  # a long run's past does not hold the others up
                    continue
                if all(told.id is None for told in batch):
                    yield ServerSentEvent(data=page.update(changed))
                else:
                    yield ServerSentEvent(id=page.story.last_id, data=page.update(changed) + page.head())
                await asyncio.sleep(TOGETHER_SECONDS)
        if not stopping.is_set():
            yield ServerSentEvent(event=OVER, data=OVER)
    except PerdureError as error:
        log.warning("run_feed_broke", run_id=page.run.run_id, error=str(error))
