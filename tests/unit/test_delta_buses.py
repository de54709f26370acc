"""Buses of deltas between processes: what one process says, the others hear, and a bus that is away stops nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from perdure.deltas import DeltaBus, Piece
from perdure.deltas.opening import delta_bus
from perdure.deltas.redis_bus import RedisBus
from perdure.deltas.socket_bus import SocketBus, hub
from perdure.encryption import Keyring, new_key
from perdure.settings import Settings
from perdure.testing import eventually
from tests.redis_server import RedisServer

RUN = "run-1"
KEYS = Keyring({"k": new_key()}, current="k")


def piece(seq: int, text: str = "", *, step: int = 1, attempt: int = 1) -> Piece:
    """Return a piece of an execution."""
    return Piece(execution_id="e1", step=step, attempt=attempt, seq=seq, text=text)


class Place:
    """Where processes meet: a hub on a socket or a Redis, which can go away and come back."""

    def __init__(self, kind: str, folder: Path) -> None:
        self._kind = kind
        self._socket = folder / "hub.sock"
        self._redis = RedisServer(folder)
        self._up = AsyncExitStack()

    def process(self) -> DeltaBus:
        """Return the bus of one more process."""
        if self._kind == "socket":
            return SocketBus(self._socket)
        return RedisBus(self._redis.url, prefix="deltas:", keyring=KEYS if self._kind == "encrypted" else None)

    async def start(self) -> None:
        """Let it be there."""
        if self._kind == "socket":
            await self._up.enter_async_context(hub(self._socket))
        else:
            await self._redis.start()
            self._up.push_async_callback(self._redis.stop)

    async def stop(self) -> None:
        """Let it be away, with all that it knew."""
        await self._up.aclose()


class Ear:
    """A listener of a process."""

    def __init__(self, bus: DeltaBus) -> None:
        self.heard: list[tuple[int, int, int, str]] = []
        self._task = asyncio.create_task(self._listen(bus))

    async def has(self, text: str) -> None:
        """Wait until it has heard all of a text."""
        await eventually(lambda: "".join(said for *_, said in self.heard).endswith(text), what=text)

    async def close(self) -> None:
        """Stop listening."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _listen(self, bus: DeltaBus) -> None:
        async with aclosing(bus.listen(RUN)) as pieces:
            async for heard in pieces:
                self.heard.append((heard.step, heard.attempt, heard.seq, heard.text))


@pytest.fixture(params=["socket", "redis", "encrypted"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    """A place that is there."""
    place = Place(request.param, tmp_path)
    await place.start()
    yield place
    await place.stop()


@asynccontextmanager
async def processes(place: Place, count: int) -> AsyncIterator[list[DeltaBus]]:
    """Have so many processes."""
    buses = [place.process() for _ in range(count)]
    try:
        yield buses
    finally:
        for bus in buses:
            await bus.close()


async def test_what_a_worker_says_every_api_process_hears(place: Place) -> None:
    """In order, whether it listened before or comes late."""
    async with processes(place, 3) as (worker, early, late):
        first = Ear(early)
        for seq, text in enumerate(("Hel", "lo, ", "world"), 1):
            worker.publish(RUN, piece(seq, text))
        await first.has("Hello, world")
        second = Ear(late)
        await second.has("Hello, world")
        worker.publish(RUN, piece(4, "!"))
        await first.has("world!")
        await second.has("world!")
        for ear in (first, second):
            await ear.close()

    assert [seq for *_, seq, _ in second.heard if seq] == [1, 2, 3, 4]


async def test_another_run_is_not_heard(place: Place) -> None:
    """Each listener has its run only."""
    async with processes(place, 2) as (worker, api):
        ear = Ear(api)
        worker.publish("run-2", piece(1, "secret"))
        worker.publish(RUN, piece(1, "mine"))
        await ear.has("mine")
        await ear.close()

    assert "secret" not in "".join(text for *_, text in ear.heard)


async def test_another_attempt_begins_anew(place: Place) -> None:
    """Whoever listens is told that it has begun, with the pieces of that attempt only behind it."""
    async with processes(place, 2) as (worker, api):
        ear = Ear(api)
        worker.publish(RUN, piece(1, "wrong"))
        await ear.has("wrong")
        worker.publish(RUN, piece(0, attempt=2))
        worker.publish(RUN, piece(1, "right", attempt=2))
        await ear.has("right")
        await ear.close()

    attempts = [attempt for _, attempt, *_ in ear.heard]
    assert attempts == sorted(attempts)
    assert "".join(text for _, attempt, _, text in ear.heard if attempt == 2) == "right"


@pytest.mark.parametrize("kind", ["socket", "redis"])
async def test_a_bus_that_is_away_stops_nobody(kind: str, tmp_path: Path) -> None:
    """What is said meanwhile may be lost; when it is back, the next step is heard."""
    place = Place(kind, tmp_path)
    async with processes(place, 2) as (worker, api):
        ear = Ear(api)
        for seq in range(1, 3_000):
            worker.publish(RUN, piece(seq, "x"))
        await place.start()
        try:

            async def heard() -> bool:
                worker.publish(RUN, piece(1, "there", step=2))
                return any(step == 2 for step, *_ in ear.heard)

            await eventually(heard, what="the next step")
            await place.stop()
            worker.publish(RUN, piece(2, "lost", step=2))
        finally:
            await place.stop()
        await ear.close()


async def test_a_redis_reads_nothing_where_history_is_encrypted(tmp_path: Path) -> None:
    """A piece in Redis is encrypted by the same keys as history; who has none of them hears nothing."""
    async with RedisServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        worker = RedisBus(server.url, prefix="deltas:", keyring=KEYS)
        worker.publish(RUN, piece(1, "a quince"))

        async def stored() -> object:
            return await redis.xrange(f"deltas:{RUN}")

        entries = await eventually(stored, what="the piece in Redis")
        await worker.close()

    assert "quince" not in repr(entries)


async def test_a_stream_in_redis_holds_one_attempt_and_ends(tmp_path: Path) -> None:
    """With its first piece the attempt before is dropped, and all of it some time after the last."""
    async with RedisServer(tmp_path) as server, Redis.from_url(server.url) as redis:
        worker = RedisBus(server.url, prefix="deltas:", keyring=None)
        for seq in range(1, 50):
            worker.publish(RUN, piece(seq, "x"))
        worker.publish(RUN, piece(1, "y", step=2))

        async def one() -> bool:
            return bool(await redis.xlen(f"deltas:{RUN}") == 1 and await redis.xrevrange(f"deltas:{RUN}"))

        await eventually(one, what="the second step alone")
        left = await redis.ttl(f"deltas:{RUN}")
        await worker.close()

    assert 0 < left <= 600


@pytest.mark.parametrize(
    ("values", "expected"), [({}, "None"), ({"delta_socket": "/x"}, "Socket"), ({"redis_url": "redis://r"}, "Redis")]
)
async def test_the_settings_say_which_bus(values: dict[str, str], expected: str) -> None:
    """A socket is for one machine, a Redis for several; without either there are no deltas."""
    bus = delta_bus(Settings.model_validate(values))

    assert type(bus).__name__.startswith(expected)
    if bus is not None:
        await bus.close()


async def test_nobodys_socket_is_opened_by_others(tmp_path: Path) -> None:
    """It is its owner's, and gone with the hub, also where one that was killed has left its own."""
    path = tmp_path / "hub.sock"
    path.touch()

    async with hub(path):
        mode = path.stat().st_mode & 0o777

    assert mode == 0o600
    assert not path.exists()
