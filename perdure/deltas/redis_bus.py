"""A bus through Redis: a stream for each run, in which is what is said in the attempt under way.

Imported only where that is set, as its client is an extra. Where history is encrypted, pieces are too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final
from uuid import uuid4

from google.protobuf.message import DecodeError
from pydantic import ValidationError
from redis.asyncio import Redis
from redis.exceptions import RedisError
from temporalio.api.common.v1 import Payload

from perdure.deltas.delta import Piece
from perdure.deltas.subscriptions import Outbox, Subscriptions
from perdure.encryption import Keyring
from perdure.errors import DecryptionError
from perdure.shared_redis import PATIENCE, PAUSE, Absence, connection_options

MAX_PIECES: Final = 20_000
"""Of one attempt, about; some minutes of a fast model."""
KEPT: Final = timedelta(minutes=10)
"""After the last piece of a run."""
SENT_AT_ONCE: Final = 100
READ_AT_ONCE: Final = 500
PATIENT_READ: Final = timedelta(seconds=2)
"""How long a reader waits for news before it asks again."""


class RedisBus:
    """Connects with the first piece or listener. All runs that a process listens to are read by one command."""

    def __init__(self, url: str, *, prefix: str, keyring: Keyring | None) -> None:
        """Prepare.

        Args:
            url: The Redis, as in `redis://localhost:6379/0`.
            prefix: Of its keys.
            keyring: What pieces are encrypted with; None: they are plain text.
        """
        self._prefix = prefix
        self._keyring = keyring
        self._outbox = Outbox()
        self._news = asyncio.Event()
        self._subscriptions = Subscriptions(self._changed)
        self._bell = f"{prefix}bell:{uuid4().hex}"
        """A stream of this process's own, that ends its wait for news when there is another run to wait for."""
        self._absence = Absence("delta_redis_away", instead="viewers get whole steps")
        self._writing: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        waiting = (PATIENCE + PATIENT_READ).total_seconds()
        self._writer: Redis = Redis.from_url(url, **connection_options())
        self._reader: Redis = Redis.from_url(url, **{**connection_options(), "socket_timeout": waiting})

    def publish(self, run_id: str, piece: Piece) -> None:
        """Have a piece sent."""
        self._outbox.put(run_id, piece)
        self._news.set()
        self._writing = self._writing or asyncio.create_task(self._write(), name="deltas to Redis")

    def listen(self, run_id: str) -> AsyncGenerator[Piece]:
        """Iterate over what Redis has of a run, and what comes."""
        return self._subscriptions.listen(run_id)

    async def close(self) -> None:
        """Disconnect; what was not sent by now is lost."""
        for task in filter(None, (self._writing, self._reading)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._writing = self._reading = None
        await self._writer.aclose()
        await self._reader.aclose()

    def _changed(self) -> None:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read(), name="deltas from Redis")
        self._news.set()
        self._writing = self._writing or asyncio.create_task(self._write(), name="deltas to Redis")

    async def _write(self) -> None:
        runs: list[str] = []
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                while self._outbox:
                    await self._send()
                if runs != self._subscriptions.runs:
                    await self._ring()
                    runs = self._subscriptions.runs
                self._absence.end()
            except (RedisError, OSError) as error:
                self._absence.begin(error)
                await asyncio.sleep(PAUSE.total_seconds())
                self._news.set()

    async def _send(self) -> None:
        async with self._writer.pipeline(transaction=False) as pipeline:
            keys = set()
            for run_id, piece in self._outbox.take(SENT_AT_ONCE):
                key = f"{self._prefix}{run_id}"
                keys.add(key)
                # With an attempt's first piece all before it is dropped, so a stream holds one attempt.
                begins = piece.seq <= 1
                pipeline.xadd(
                    key, {"piece": self._encode(piece)}, maxlen=1 if begins else MAX_PIECES, approximate=not begins
                )
            for key in keys:
                pipeline.expire(key, KEPT)
            await pipeline.execute()

    async def _ring(self) -> None:
        async with self._writer.pipeline(transaction=False) as pipeline:
            pipeline.xadd(self._bell, {"ring": b""}, maxlen=1, approximate=False)
            pipeline.expire(self._bell, KEPT)
            await pipeline.execute()

    async def _read(self) -> None:
        places: dict[str, str] = {}
        rung = "$"
        while True:
            # A run that is new here is read from its beginning.
            places = {run_id: places.get(run_id, "0") for run_id in self._subscriptions.runs}
            keys = {f"{self._prefix}{run_id}": run_id for run_id in places}
            streams: dict[Any, Any] = {self._bell: rung, **{key: places[run_id] for key, run_id in keys.items()}}
            try:
                block = int(PATIENT_READ.total_seconds() * 1000)
                found: Any = await self._reader.xread(streams, count=READ_AT_ONCE, block=block)
            except (RedisError, OSError) as error:
                self._absence.begin(error)
                await asyncio.sleep(PAUSE.total_seconds())
                places = {}  # it may come back with nothing, and count anew
                continue
            self._absence.end()
            for name, entries in _by_stream(found):
                place = entries[-1][0].decode()
                if name == self._bell:
                    rung = place
                elif (run_id := keys[name]) in places:
                    places[run_id] = place
                    self._hear(run_id, entries)

    def _hear(self, run_id: str, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> None:
        for _, fields in entries:
            # Of another version, or of a worker with another key.
            with suppress(ValidationError, DecryptionError, DecodeError, KeyError):
                self._subscriptions.hear(run_id, self._decode(fields[b"piece"]))

    def _encode(self, piece: Piece) -> bytes:
        data = piece.model_dump_json().encode()
        return data if self._keyring is None else self._keyring.encrypt(Payload(data=data)).SerializeToString()

    def _decode(self, data: bytes) -> Piece:
        if self._keyring is not None:
            data = self._keyring.decrypt(Payload.FromString(data)).data
        return Piece.model_validate_json(data)


def _by_stream(found: Any) -> list[tuple[str, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """Return what was read, by the stream's name; the client has it as a list, or by RESP 3 as a mapping."""
    if isinstance(found, dict):
        return [(name.decode(), entries[0]) for name, entries in found.items() if entries and entries[0]]
    return [(name.decode(), entries) for name, entries in found or [] if entries]
