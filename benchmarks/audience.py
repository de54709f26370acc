"""Viewers of an event stream over HTTP, who note how long each word was on its way."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from benchmarks.speaker import told

READ_WITHIN = 60.0
"""Seconds in which something must come: a word, or the ping between two."""


@dataclass
class Viewer:
    """One connection, read line by line: a client library would cost more than what it is to measure."""

    url: str
    delays: list[float] = field(default_factory=list)
    """Seconds between a word and its arrival."""
    kinds: Counter[str] = field(default_factory=Counter)
    """How many messages of each kind came."""
    _rest: str = ""

    async def watch(self) -> None:
        """Read until the stream ends."""
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)
        with closing(writer):
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            # HTTP 1.0, so that the answer comes without chunks.
            writer.write(f"GET {target} HTTP/1.0\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode())
            status = await reader.readline()
            if b" 200 " not in status:
                raise RuntimeError(f"{self.url} answered {status.decode()!r}")
            kind = ""
            while line := await asyncio.wait_for(reader.readline(), READ_WITHIN):
                arrived = time.time()
                name, _, value = line.decode().rstrip("\r\n").partition(": ")
                if name == "event":
                    kind = value
                    self.kinds[kind] += 1
                elif name == "data" and kind == "delta":
                    self._take(json.loads(value)["text"], arrived)

    def _take(self, text: str, arrived: float) -> None:
        """Note the delays of the words that are complete now."""
        *words, self._rest = (self._rest + text).split(" ")
        self.delays += [arrived - told(word) for word in words]


class Audience:
    """All who watch one stream."""

    def __init__(self, url: str, *, viewers: int) -> None:
        self.viewers = [Viewer(url) for _ in range(viewers)]

    async def watch(self) -> None:
        """Read all streams until they end."""
        async with asyncio.TaskGroup() as group:
            for viewer in self.viewers:
                group.create_task(viewer.watch())

    @property
    def delays(self) -> list[float]:
        """Of every word at every viewer, in seconds, the shortest first."""
        return sorted(delay for viewer in self.viewers for delay in viewer.delays)
