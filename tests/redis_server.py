"""A real Redis on a free loopback port, for tests of what several processes share."""

from __future__ import annotations

import asyncio
import shutil
import signal
from pathlib import Path
from types import TracebackType

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as NotYetThere

from perdure.testing import eventually
from perdure_workers.ports import free_port


class RedisServer:
    """Debian's `redis-server`, which keeps nothing on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self.port = free_port()

    @property
    def url(self) -> str:
        """Its address."""
        return f"redis://127.0.0.1:{self.port}/0"

    async def start(self) -> None:
        """Start it, and wait until it answers."""
        program = shutil.which("redis-server")
        assert program, "these tests need Debian's redis-server: apt-get install redis-server"
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder)]
        self._process = await asyncio.create_subprocess_exec(
            program, "--port", str(self.port), *options, stdout=asyncio.subprocess.DEVNULL
        )
        await eventually(self._answers, what="Redis")

    async def stop(self) -> None:
        """Kill it; what it knew is lost."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def hang(self) -> None:
        """Have it accept connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Have it answer again."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def _answers(self) -> bool:
        async with Redis.from_url(self.url) as client:
            try:
                return bool(await client.ping())
            except NotYetThere:
                return False

    async def __aenter__(self) -> RedisServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()
