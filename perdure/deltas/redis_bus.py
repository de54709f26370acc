"""A bus between the processes of a deployment: a Redis stream for each run, forgotten soon after its last piece.

One connection sends what this process has to say, and one reads all runs that somebody in it listens to. Imported only
where a Redis is configured, as its client is an extra.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final

from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from perdure.deltas.delta import Piece
from perdure.deltas.subscriptions import Outbox, Subscriptions
from perdure.shared_redis import PATIENCE, Absence, connection_options

PREFIX: Final = "perdure:deltas:"
FIELD: Final = b"piece"
KEPT: Final = 4_000
"""Pieces of a run, about: a model that speaks for a hundred seconds."""
KEPT_SECONDS: Final = 600
SENT_AT_ONCE: Final = 100
BLOCK: Final = 0.5
"""Seconds that one reading waits; a run that somebody listens to anew waits so long at most."""
PAUSE: Final = 1.0
"""Seconds between two attempts at a Redis that does not answer."""


class RedisBus:
    """Pieces through Redis. One that is away is told of once in the log, and is asked again every second."""

    def __init__(self, url: str) -> None:
        """Prepare; it connects with the first piece or listener.

        Args:
            url: The Redis, as in `redis://localhost:6379/0`.
        """
        # A reading waits for its answer on purpose, so it has more time than PATIENCE.
        patience = {**connection_options(), "socket_timeout": PATIENCE.total_seconds() + BLOCK}
        self._redis = Redis.from_url(url, **patience)
        self._outbox = Outbox()
        self._subscriptions = Subscriptions(self._wake)
        self._absence = Absence("delta_redis_away", instead="viewers get whole steps")
        self._to_send = asyncio.Event()
        self._to_read = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def publish(self, run_id: str, piece: Piece) -> None:
        """Have a piece sent."""
        self._outbox.put(run_id, piece)
        self._wake()

    def listen(self, run_id: str) -> AsyncGenerator[Piece]:
        """Iterate over what Redis has of a run, and what comes."""
        return self._subscriptions.listen(run_id)

    async def close(self) -> None:
        """Disconnect; what was not sent by now is lost."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        await self._redis.aclose()

    def _wake(self) -> None:
        if not self._tasks:
            loops = {"send deltas": self._send, "read deltas": self._read}
            self._tasks = [asyncio.create_task(self._whenever(loop), name=name) for name, loop in loops.items()]
        self._to_send.set()
        self._to_read.set()

    async def _whenever(self, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
            except (RedisError, OSError, TimeoutError) as error:
                self._absence.begin(error)
                await asyncio.sleep(PAUSE)

    async def _send(self) -> None:
        while True:
            await self._to_send.wait()
            self._to_send.clear()
            while self._outbox:
                async with self._redis.pipeline(transaction=False) as pipe:
                    runs = set()
                    for run_id, piece in self._outbox.take(SENT_AT_ONCE):
                        runs.add(run_id)
                        fields: dict[bytes | str, str] = {FIELD: piece.model_dump_json()}
                        pipe.xadd(PREFIX + run_id, fields, maxlen=KEPT)  # type: ignore[arg-type]  # its dict is invariant
                    for run_id in runs:
                        pipe.expire(PREFIX + run_id, KEPT_SECONDS)
                    await pipe.execute()
                self._absence.end()

    async def _read(self) -> None:
        places: dict[str, bytes | str] = {}
        while True:
            wanted = self._subscriptions.runs
            if not wanted:
                places.clear()
                self._to_read.clear()
                await self._to_read.wait()
                continue
            # From the beginning: a viewer who comes late hears the step under way so far.
            places = {run_id: places.get(run_id, "0") for run_id in wanted}
            streams = {PREFIX + run_id: place for run_id, place in places.items()}
            found: Any = await self._redis.xread(streams, block=int(BLOCK * 1000))  # type: ignore[arg-type]  # as above
            self._absence.end()
            for key, entries in found or ():
                run_id = key.decode().removeprefix(PREFIX)
                for place, fields in entries:
                    places[run_id] = place
                    with contextlib.suppress(ValidationError):  # of another version
                        self._subscriptions.hear(run_id, Piece.model_validate_json(fields[FIELD]))
