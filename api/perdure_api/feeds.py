"""A run's events for many viewers: this process reads the run's history once, and each viewer takes what it wants.

Whatever the number of viewers, Temporal is asked by one long poll for each run that anybody watches, and each event is
written as JSON once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import NamedTuple

from temporalio.client import Client

from perdure import history
from perdure.events import EventId
from perdure.redaction import SECRETS, Redactor
from perdure_api.rpc import temporal_errors


class Told(NamedTuple):
    """An event as viewers get it."""

    id: EventId
    kind: str
    data: str
    """The event as JSON."""


class _Feed:
    """One run's events so far, and the task that waits for more."""

    def __init__(self, client: Client, run_id: str, redactor: Redactor) -> None:
        self.viewers = 0
        self.told: list[Told] = []
        self.news = asyncio.Event()
        self._client = client
        self._run_id = run_id
        self._redactor = redactor
        self._reading = asyncio.create_task(self._read(), name=f"events of {run_id}")
        self._reading.add_done_callback(lambda _: self._announce())

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self._reading.done()

    def failure(self) -> BaseException | None:
        """Return why it is over, if that is not the run's end."""
        return None if self._reading.cancelled() else self._reading.exception()

    async def close(self) -> None:
        """Read no further."""
        self._reading.cancel()
        with suppress(asyncio.CancelledError, Exception):  # viewers were told what went wrong
            await self._reading

    async def _read(self) -> None:
        with temporal_errors(run_id=self._run_id):
            async for event in history.follow_events(self._client, self._run_id, redactor=self._redactor):
                self.told.append(Told(EventId.parse(event.id), event.kind, event.model_dump_json()))
                self._announce()

    def _announce(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class Feeds:
    """The feeds of one process."""

    def __init__(self, client: Client, *, redactor: Redactor = SECRETS) -> None:
        self._client = client
        self._redactor = redactor
        self._feeds: dict[str, _Feed] = {}

    async def follow(self, run_id: str, *, after: str | None = None) -> AsyncIterator[Told]:
        """Iterate over a run's events, past ones first and then as they happen, until it ends.

        Args:
            run_id: A run that the caller may see.
            after: An event's id; only later ones are yielded.

        Raises:
            PerdureError: The history can be read no longer; the next viewer starts anew.
        """
        seen = EventId.parse(after) if after else None
        feed = self._join(run_id)
        try:
            place = 0
            while place < len(feed.told) or not feed.over:
                if place == len(feed.told):
                    await feed.news.wait()
                    continue
                told = feed.told[place]
                place += 1
                if seen is None or told.id > seen:
                    yield told
            if failure := feed.failure():
                raise failure
        finally:
            await self._leave(run_id, feed)

    async def close(self) -> None:
        """Read no further for anybody."""
        feeds, self._feeds = list(self._feeds.values()), {}
        for feed in feeds:
            await feed.close()

    def _join(self, run_id: str) -> _Feed:
        feed = self._feeds.get(run_id)
        if feed is None or feed.over:
            feed = self._feeds[run_id] = _Feed(self._client, run_id, self._redactor)
        feed.viewers += 1
        return feed

    async def _leave(self, run_id: str, feed: _Feed) -> None:
        feed.viewers -= 1
        if feed.viewers == 0:
            if self._feeds.get(run_id) is feed:
                del self._feeds[run_id]
            await feed.close()
