"""A bus between the processes of one machine: a hub on a Unix socket, in memory, and its clients.

Messages are lines of JSON: a client sends `{"run": …, "piece": …}` to publish, `{"listen": …}` and `{"leave": …}`; the
hub sends `{"run": …, "piece": …}`. Who may open the socket is trusted, so it is its owner's only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from perdure.deltas.delta import Piece
from perdure.deltas.memory import MemoryBus
from perdure.deltas.subscriptions import Outbox, Subscriptions
from perdure.shared_redis import Absence

MAX_LINE: Final = 8 * 1024 * 1024
"""Bytes of a message."""
PAUSE: Final = 0.5
"""Seconds between two attempts to reach the hub."""
SENT_AT_ONCE: Final = 100


@asynccontextmanager
async def hub(path: Path) -> AsyncIterator[None]:
    """Serve a hub for the length of a block; of each run it keeps what is said at the moment."""
    bus = MemoryBus()
    guests: set[asyncio.Task[None]] = set()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = asyncio.current_task()
        if guest is not None:
            guests.add(guest)
            guest.add_done_callback(guests.discard)
        with contextlib.suppress(ConnectionError, ValueError, KeyError, asyncio.CancelledError):
            await _Guest(bus, reader, writer).serve()

    with _listener(path) as listener:
        server = await asyncio.start_unix_server(receive, sock=listener, limit=MAX_LINE)
        try:
            yield
        finally:
            server.close()
            for guest in list(guests):
                guest.cancel()
            await asyncio.gather(*guests, return_exceptions=True)


@contextlib.contextmanager
def _listener(path: Path) -> Iterator[socket.socket]:
    path.unlink(missing_ok=True)  # left by one that was killed
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o600)  # before it listens, so that nobody else was let in
        listener.setblocking(False)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


class _Guest:
    """One client of the hub."""

    def __init__(self, bus: MemoryBus, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._bus = bus
        self._reader = reader
        self._writer = writer
        self._listening: dict[str, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        try:
            while line := await self._reader.readline():
                self._take(json.loads(line))
        finally:
            for task in self._listening.values():
                task.cancel()
            await asyncio.gather(*self._listening.values(), return_exceptions=True)
            self._writer.close()

    def _take(self, message: dict[str, Any]) -> None:
        if "piece" in message:
            self._bus.publish(message["run"], Piece.model_validate(message["piece"]))
        elif "listen" in message:
            run_id = message["listen"]
            if run_id not in self._listening:
                self._listening[run_id] = asyncio.create_task(self._pass_on(run_id))
        elif task := self._listening.pop(message["leave"], None):
            task.cancel()

    async def _pass_on(self, run_id: str) -> None:
        with contextlib.suppress(ConnectionError):
            async with aclosing(self._bus.listen(run_id)) as pieces:
                async for piece in pieces:
                    self._writer.write(_line(run=run_id, piece=piece.model_dump()))
                    await self._writer.drain()  # one that is slow reads on where it was


class SocketBus:
    """A client of a hub. It connects with the first piece or listener, and again whenever the hub comes back."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outbox = Outbox()
        self._subscriptions = Subscriptions(self._wake)
        self._news = asyncio.Event()
        self._absence = Absence("delta_hub_away", instead="viewers get whole steps")
        self._connection: asyncio.Task[None] | None = None

    def publish(self, run_id: str, piece: Piece) -> None:
        """Have a piece sent."""
        self._outbox.put(run_id, piece)
        self._wake()

    def listen(self, run_id: str) -> AsyncGenerator[Piece]:
        """Iterate over what the hub has of a run, and what comes."""
        return self._subscriptions.listen(run_id)

    async def close(self) -> None:
        """Disconnect; what was not sent by now is lost."""
        if self._connection is not None:
            self._connection.cancel()
            await asyncio.gather(self._connection, return_exceptions=True)
            self._connection = None

    def _wake(self) -> None:
        if self._connection is None and (self._outbox or self._subscriptions.runs):
            self._connection = asyncio.create_task(self._stay_connected(), name="delta hub")
        self._news.set()

    async def _stay_connected(self) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._path, limit=MAX_LINE)
            except OSError as error:
                self._absence.begin(error)
            else:
                self._absence.end()
                await self._serve(reader, writer)
            await asyncio.sleep(PAUSE)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks = [asyncio.create_task(self._send(writer)), asyncio.create_task(self._receive(reader))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        told: set[str] = set()
        while True:
            self._news.clear()
            wanted = set(self._subscriptions.runs)
            for run_id in wanted - told:
                writer.write(_line(listen=run_id))
            for run_id in told - wanted:
                writer.write(_line(leave=run_id))
            told = wanted
            while self._outbox:
                for run_id, piece in self._outbox.take(SENT_AT_ONCE):
                    writer.write(_line(run=run_id, piece=piece.model_dump()))
                await writer.drain()
            await writer.drain()
            await self._news.wait()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            with contextlib.suppress(ValidationError):  # of another version
                self._subscriptions.hear(message["run"], Piece.model_validate(message["piece"]))


def _line(**message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"
