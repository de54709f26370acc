"""A server on loopback that takes what is sent to it, and answers as a test wants: well, badly, slowly or for ever."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from standardwebhooks import Webhook

from perdure.testing import eventually

PATIENCE = timedelta(seconds=30)


@dataclass(frozen=True)
class Received:
    """One request."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)

    def verified(self, secret: str) -> Any:
        """The body, once the library of Standard Webhooks has checked its signature."""
        return Webhook(secret).verify(self.body, self.headers)


Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


def status(code: int, *headers: str, body: bytes = b"ok") -> Answering:
    """Answer with a status."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = [f"HTTP/1.1 {code} Said", *headers, f"Content-Length: {len(body)}", "Connection: close"]
        writer.write("\r\n".join([*head, "", ""]).encode() + body)
        await writer.drain()

    return answer


async def drip(writer: asyncio.StreamWriter) -> None:
    """Answer a byte at a time, and never come to an end."""
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Drip: 1\r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def flood(writer: asyncio.StreamWriter) -> None:
    """Answer with a body that does not end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


@dataclass
class Receiver:
    """The server, and what it was sent."""

    port: int = 0
    host: str = "127.0.0.1"
    answers: list[Answering] = field(default_factory=list)
    """Given one after the other; then 200."""
    received: list[Received] = field(default_factory=list)
    written: int = 0
    """Connections whose answer was taken to its end, or broken off."""

    def url(self, path: str = "/hook", *, scheme: str = "http", host: str | None = None) -> str:
        """Return an address of this server."""
        return f"{scheme}://{host or self.host}:{self.port}{path}"

    async def told(self, count: int = 1) -> Sequence[Received]:
        """Wait until so many requests have come."""
        await eventually(lambda: len(self.received) >= count, within=PATIENCE, what=f"{count} deliveries")
        return self.received

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.received.append(Received(head[0], headers, body))
            answer = self.answers.pop(0) if self.answers else status(200)
            await answer(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the caller has heard enough
        finally:
            self.written += 1
            writer.close()


@asynccontextmanager
async def receiving(*answers: Answering, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """Run a server on a free port."""
    receiver = Receiver(answers=list(answers))
    server = await asyncio.start_server(receiver._serve, receiver.host, 0, ssl=tls)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
