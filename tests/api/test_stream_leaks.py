"""A thousand viewers come and go: neither tasks nor connections nor memory are left of them."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from contextlib import aclosing
from urllib.parse import urlsplit

from temporalio.client import Client

from perdure.deltas import MemoryBus
from perdure.testing import eventually
from tests.api.conftest import Api
from tests.api.test_stream import feeds, until
from tests.harness import Stage

AT_ONCE = 25
ONCE = 3
"""Tasks that the first viewer starts for all: sse-starlette's watch over the shutdown, and the test's own."""
KEPT_BYTES = 300
"""That a viewer may leave behind on average; a viewer that leaked would be some ten thousand."""


def request(run_id: str) -> bytes:
    """Return what asks for the stream."""
    return f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()


async def come_and_go(url: str, run_id: str) -> None:
    """Open the stream, read the first delta, and hang up as a browser does that is closed."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(request(run_id))
        async with asyncio.timeout(30):
            await reader.readuntil(b"event: delta")
    finally:
        writer.close()


async def crowd(url: str, run_id: str, *, count: int) -> None:
    """Have that many viewers come and go, some at a time."""
    for _ in range(count // AT_ONCE):
        await asyncio.gather(*(come_and_go(url, run_id) for _ in range(AT_ONCE)))


async def test_a_thousand_viewers_leave_nothing_behind(client: Client) -> None:
    """After them there are as many tasks and connections as before, no feed, and hardly more memory."""
    api = Api(client, deltas=MemoryBus())
    stage = Stage("It ", "is paid.")
    stage.cues[0].set()
    async with api.http, api.worker(stage.model), api.server() as (server, url, _):
        run_id = await api.start()
        async with aclosing(feeds(api).follow(run_id)) as stream:
            await until(stream, "delta")
        tasks = len(asyncio.all_tasks()) + ONCE
        await crowd(url, run_id, count=100)  # what is made once

        async def quiet() -> bool:
            gone = not server.server_state.connections and not feeds(api).watched
            return gone and len(asyncio.all_tasks()) <= tasks

        await eventually(quiet, what="the end of the first viewers")
        gc.collect()
        tracemalloc.start()
        memory = tracemalloc.get_traced_memory()[0]
        await crowd(url, run_id, count=1000)
        await eventually(quiet, what="the end of all viewers")
        gc.collect()
        left = tracemalloc.get_traced_memory()[0] - memory
        tracemalloc.stop()
        stage.cues[1].set()
        stage.curtain.set()
        await api.ended(run_id)

    assert left < 1000 * KEPT_BYTES


async def test_a_server_with_open_streams_stops_in_time(client: Client) -> None:
    """Fifty viewers of a model in the middle of a reply do not hold a shutdown up."""
    api = Api(client, deltas=MemoryBus())
    stage = Stage("It ", "is paid.")
    stage.cues[0].set()
    async with api.http, api.worker(stage.model), api.server() as (server, url, serving):
        run_id = await api.start()
        place = urlsplit(url)
        streams = [await asyncio.open_connection(place.hostname, place.port) for _ in range(50)]
        for reader, writer in streams:
            writer.write(request(run_id))
            await reader.readuntil(b"event: delta")
        began = time.monotonic()
        server.should_exit = True
        await serving
        took = time.monotonic() - began
        for reader, writer in streams:
            await reader.read()
            writer.close()
        stage.cues[1].set()
        stage.curtain.set()

    assert took < 3
