"""Events: as a list with a cursor, and as a stream of a real server that is followed, left, resumed and shut down."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from perdure.messages import Message
from perdure_activities.providers.provider import ProviderReply
from tests.api.conftest import Api
from tests.harness import answer, in_turns, turn, wish

STREAM = {"Accept": "text/event-stream"}
LOOK = wish(("look", {"order": "o1"}))
REFUND = wish(("refund", {"order": "o1", "amount": 5}))


class Stream:
    """The messages of an event stream, one by one."""

    def __init__(self, response: httpx2.Response) -> None:
        self._messages = aiter(httpx2.EventSource(response))

    async def until(self, kind: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the ids and contents of the next events, up to one of this kind."""
        found: list[tuple[str, dict[str, Any]]] = []
        while not found or found[-1][1]["kind"] != kind:
            async with asyncio.timeout(20):
                message = await anext(self._messages)
            if message.data:
                found.append((message.id or "", json.loads(message.data)))
                assert message.event == found[-1][1]["kind"]
        return found

    async def rest(self) -> list[dict[str, Any]]:
        """Return the contents of the events up to the stream's end."""
        async with asyncio.timeout(20):
            return [json.loads(message.data) async for message in self._messages if message.data]


@asynccontextmanager
async def streaming(url: str, run_id: str, **headers: str) -> AsyncIterator[Stream]:
    """Open the stream of a run's events."""
    async with (
        httpx2.AsyncClient(trust_env=False) as http,
        http.stream("GET", f"{url}/v1/runs/{run_id}/events", headers={**STREAM, **headers}, timeout=30) as response,
    ):
        assert response.status_code == 200
        yield Stream(response)


async def test_a_list_goes_on_behind_a_cursor(api: Api) -> None:
    """`after` leaves out what the caller has, with the same ids each time."""
    async with api.worker(in_turns(LOOK, answer("It is paid."))):
        run_id = await api.start()
        await api.ended(run_id)

    events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]
    later = (await api.get(f"/v1/runs/{run_id}/events", after=events[2]["id"]))["items"]
    none = (await api.get(f"/v1/runs/{run_id}/events", after=events[-1]["id"]))["items"]

    assert [event["kind"] for event in events] == [
        "run.started",
        "model.called",
        "model.replied",
        "tool.called",
        "tool.finished",
        "model.called",
        "model.replied",
        "run.ended",
    ]
    assert (later, none) == (events[3:], [])


async def test_a_stream_follows_a_run_to_its_end(api: Api) -> None:
    """Past events come first, the others as they happen; then the stream ends by itself."""
    go_on = asyncio.Event()

    async def script(messages: list[Message]) -> ProviderReply:
        if turn(messages) == 0:
            return LOOK
        await go_on.wait()
        return answer("It is paid.")

    async with api.worker(script), api.server() as (_, url, _):
        run_id = await api.start()
        async with streaming(url, run_id) as stream:
            before = await stream.until("tool.finished")
            go_on.set()
            after = await stream.rest()

    events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]
    assert [event for _, event in before] + after == events
    assert after[-1]["kind"] == "run.ended"


async def test_a_client_resumes_where_it_was(api: Api) -> None:
    """With Last-Event-ID nothing is missed and nothing comes twice, during the run and after it."""
    async with api.worker(in_turns(REFUND, answer("done"))), api.server() as (_, url, _):
        run_id = await api.start()
        async with streaming(url, run_id) as stream:
            first = await stream.until("approval.asked")
        asked = first[-1][1]
        decision = {"decision": "approve", "decided_by": "ann"}
        await api.http.post(f"/v1/runs/{run_id}/approvals/{asked['approval_id']}", json=decision)
        async with streaming(url, run_id, **{"Last-Event-ID": first[-1][0]}) as stream:
            second = await stream.rest()
        async with streaming(url, run_id, **{"Last-Event-ID": first[1][0]}) as stream:
            replayed = await stream.rest()

    events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]
    assert [event for _, event in first] + second == events
    assert replayed == events[2:]


async def test_a_client_that_has_everything_is_told_to_stay_away(api: Api) -> None:
    """204, by which a browser's EventSource stops coming back."""
    async with api.worker(in_turns(answer("hello"))):
        run_id = await api.start()
        await api.ended(run_id)
    events = (await api.get(f"/v1/runs/{run_id}/events"))["items"]

    response = await api.http.get(f"/v1/runs/{run_id}/events", headers={**STREAM, "Last-Event-ID": events[-1]["id"]})

    assert response.status_code == 204


@pytest.mark.parametrize("headers", [{}, STREAM], ids=["list", "stream"])
@pytest.mark.parametrize("wrong", ["x", "1", "0.0x", "-1.2", "0.99999999999999999999"])
async def test_an_id_of_no_event_is_refused_before_a_stream_starts(
    api: Api, headers: dict[str, str], wrong: str
) -> None:
    """A wrong Last-Event-ID or `after` is a problem with a status."""
    run_id = await api.start()

    by_query = await api.http.get(f"/v1/runs/{run_id}/events", params={"after": wrong}, headers=headers)
    by_header = await api.http.get(f"/v1/runs/{run_id}/events", headers={**headers, "Last-Event-ID": wrong})

    assert (by_query.status_code, by_header.status_code) == (422, 422)
    assert by_query.headers["Content-Type"] == "application/problem+json"


async def test_a_stream_of_no_run_is_not_found(api: Api) -> None:
    """An unknown run is a problem, not an empty stream."""
    response = await api.http.get("/v1/runs/run-0/events", headers=STREAM)

    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"


async def test_an_idle_stream_does_not_hold_up_the_shutdown(api: Api) -> None:
    """A server with an open stream of a waiting run stops at once."""
    async with api.worker(in_turns(REFUND)), api.server() as (server, url, serving):
        run_id = await api.start()
        async with streaming(url, run_id) as stream:
            await stream.until("approval.asked")
            began = time.monotonic()
            server.should_exit = True
            await stream.rest()
            await serving

    assert time.monotonic() - began < 3
