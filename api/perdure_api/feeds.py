"""A run's events and deltas for many viewers: this process reads each once, and every viewer takes what it wants.

Whatever the number of viewers, Temporal is asked by one long poll for each run that anybody watches, the bus is
listened to once, and each event is written as JSON once. A viewer has a place in what there is, and no queue: one that
is slow costs no memory, and gets what it missed of a text as one delta.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Final, NamedTuple

import structlog
from temporalio.client import Client

from perdure import history
from perdure.deltas import ATTEMPT_RESET, DELTA, AttemptReset, Delta, DeltaBus, Speech
from perdure.deltas.speech import Voice
from perdure.events import EventId, ModelCalled, ModelFailed, ModelReplied, RunEnded, RunEvent, RunReset
from perdure.redaction import SECRETS, Redactor
from perdure_api.rpc import temporal_errors

log = structlog.get_logger(__name__)

MAX_BATCH: Final = 200
"""Events that a viewer takes at once, so that a long run's past does not hold the others up."""
_STEP_ENDS: Final = frozenset({"model.replied", "model.failed", "model.cancelled", "run.reset", "run.ended"})


class Told(NamedTuple):
    """An event or a delta as viewers get it."""

    id: EventId | None
    """None for a delta and a reset, which nobody can come back to."""
    kind: str
    data: str
    """It as JSON."""


class _Feed:
    """One run's events so far, what its model is saying, and the tasks that wait for more."""

    def __init__(self, client: Client, run_id: str, redactor: Redactor, deltas: DeltaBus | None) -> None:
        self.viewers = 0
        self.told: list[Told] = []
        self.speech = Speech()
        self.news = asyncio.Event()
        self._step: int | None = None
        """The model call under way, by the events."""
        self._client = client
        self._run_id = run_id
        self._redactor = redactor
        self._last: tuple[Voice, int, Told] | None = None
        self._reading = asyncio.create_task(self._read(), name=f"events of {run_id}")
        self._reading.add_done_callback(lambda _: self._announce())
        self._tasks = [self._reading]
        if deltas is not None:
            self._tasks.append(asyncio.create_task(self._listen(deltas), name=f"deltas of {run_id}"))

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self._reading.done()

    @property
    def voice(self) -> Voice | None:
        """Who speaks, if the events have it by now that this step is under way."""
        voice = self.speech.voice
        return voice if voice is not None and voice.step == self._step else None

    def failure(self) -> BaseException | None:
        """Return why it is over, if that is not the run's end."""
        return None if self._reading.cancelled() else self._reading.exception()

    def spoken(self, voice: Voice, place: int) -> Told:
        """Return what was said from that piece on, as one delta."""
        pieces = self.speech.pieces
        if self._last is None or self._last[:2] != (voice, place) or len(pieces) - place > 1:
            text = "".join(piece.text for piece in pieces[place:])
            delta = Delta(step=voice.step, attempt=voice.attempt, seq=len(pieces), text=text)
            told = Told(None, DELTA, delta.model_dump_json())
            if len(pieces) - place > 1:
                return told
            self._last = (voice, place, told)  # the same for all who keep up
        return self._last[2]

    async def close(self) -> None:
        """Read no further."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, Exception):  # viewers were told what went wrong
                await task

    async def _read(self) -> None:
        with temporal_errors(run_id=self._run_id):
            async for event in history.follow_events(self._client, self._run_id, redactor=self._redactor):
                self._take(event)
                self.told.append(Told(EventId.parse(event.id), event.kind, event.model_dump_json()))
                self._announce()

    def _take(self, event: RunEvent) -> None:
        match event:
            case ModelCalled():
                self._step = event.step
            case ModelReplied(step=int(step)) | ModelFailed(step=int(step)):
                self._step = None
                self.speech.end(step)
            case RunReset():
                self._step = None
                self.speech.retire(event.execution_id)
            case RunEnded():
                self._step = None

    async def _listen(self, deltas: DeltaBus) -> None:
        try:
            async with aclosing(deltas.listen(self._run_id)) as pieces:
                async for piece in pieces:
                    if self.speech.add(piece) and self.voice is not None:
                        self._announce()
        except Exception as error:  # whatever is wrong with a bus, viewers get the events
            log.warning("deltas_broke", run_id=self._run_id, error=repr(error))

    def _announce(self) -> None:
        self.news.set()
        self.news = asyncio.Event()


class _Ear:
    """What one viewer has heard of the step under way."""

    def __init__(self, feed: _Feed) -> None:
        self._feed = feed
        self._voice: Voice | None = None
        self._place = 0
        self._heard: int | None = None
        """The step of which something was shown that has not ended."""

    def forget(self) -> None:
        """Take note that the step ended: the event has all of it."""
        self._heard = None

    def next(self) -> Told | None:
        """Return what comes next, if there is anything by now."""
        voice = self._feed.voice
        if voice is None:
            return None
        if voice != self._voice:
            self._voice, self._place = voice, 0
            if self._heard == voice.step:
                self._heard = None
                reset = AttemptReset(step=voice.step, attempt=voice.attempt)
                return Told(None, ATTEMPT_RESET, reset.model_dump_json())
        end = len(self._feed.speech.pieces)
        if self._place == end:
            return None
        told, self._place, self._heard = self._feed.spoken(voice, self._place), end, voice.step
        return told


class _Viewer:
    """One viewer's place in a feed."""

    def __init__(self, feed: _Feed, *, deltas: bool) -> None:
        self._feed = feed
        self._place = 0
        self._ear = _Ear(feed) if deltas else None

    def rest(self) -> list[Told]:
        """Return what there is behind the place, and go on from there; nothing said comes before a past event."""
        batch = self._feed.told[self._place : self._place + MAX_BATCH]
        self._place += len(batch)
        if self._ear is None:
            return batch
        if any(told.kind in _STEP_ENDS for told in batch):
            self._ear.forget()
        if self._place == len(self._feed.told):
            while spoken := self._ear.next():
                batch.append(spoken)
        return batch


class Feeds:
    """The feeds of one process."""

    def __init__(self, client: Client, *, redactor: Redactor = SECRETS, deltas: DeltaBus | None = None) -> None:
        self._client = client
        self._redactor = redactor
        self._deltas = deltas
        self._feeds: dict[str, _Feed] = {}

    @property
    def watched(self) -> list[str]:
        """The runs that somebody follows here."""
        return list(self._feeds)

    async def follow(self, run_id: str, *, after: str | None = None, deltas: bool = True) -> AsyncGenerator[Told]:
        """Iterate over a run's events, past ones first and then as they happen, until it ends.

        Args:
            run_id: A run that the caller may see.
            after: An event's id; only later ones are yielded.
            deltas: Also yield what the model says in the step under way: so far, then as it comes, and that an attempt
                at it is withdrawn.

        Raises:
            PerdureError: The history can be read no longer; the next viewer starts anew.
        """
        seen = EventId.parse(after) if after else None
        async with aclosing(self.batches(run_id, deltas=deltas)) as batches:
            async for batch in batches:
                for told in batch:
                    if seen is None or told.id is None or told.id > seen:
                        yield told

    async def batches(self, run_id: str, *, deltas: bool = True) -> AsyncGenerator[list[Told]]:
        """Iterate over all that there is for a viewer each time that it asks, until the run ends; raises as `follow`.

        However late it asks, what was said meanwhile is one delta.
        """
        feed = self._join(run_id)
        viewer = _Viewer(feed, deltas=deltas)
        try:
            while True:
                if batch := viewer.rest():
                    yield batch
                elif feed.over:
                    break
                else:
                    await feed.news.wait()
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
            feed = self._feeds[run_id] = _Feed(self._client, run_id, self._redactor, self._deltas)
        feed.viewers += 1
        return feed

    async def _leave(self, run_id: str, feed: _Feed) -> None:
        feed.viewers -= 1
        if feed.viewers == 0:
            if self._feeds.get(run_id) is feed:
                del self._feeds[run_id]
            await feed.close()
