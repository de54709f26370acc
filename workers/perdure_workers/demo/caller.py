"""The demo as a caller of the HTTP API: start a run, follow its events, decide. What any client can do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final

import httpx2

from perdure.errors import PerdureError
from perdure.events import RUN_EVENT, RunEnded, RunEvent
from perdure.messages import JsonObject

TIMEOUT: Final = timedelta(seconds=30)


class Caller:
    """A client of one API."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def start(self, *, agent: str, text: str, user: str) -> str:
        """Start a run and return its id."""
        answer = await self._client.post("/v1/runs", json={"agent": agent, "input": text, "user": user})
        run_id: object = _content(answer)["run_id"]
        return str(run_id)

    async def events(self, run_id: str) -> AsyncIterator[RunEvent]:
        """Iterate over a run's events until it ends; a stream that breaks off is taken up where it was."""
        headers = {"Accept": "text/event-stream"}
        while True:
            async with self._client.stream("GET", f"/v1/runs/{run_id}/events", headers=headers, timeout=None) as answer:
                if answer.is_error:
                    await answer.aread()
                    _content(answer)
                async for message in httpx2.EventSource(answer):
                    if not message.data:
                        continue
                    event = RUN_EVENT.validate_json(message.data)
                    headers["Last-Event-ID"] = event.id
                    yield event
                    if isinstance(event, RunEnded):
                        return

    async def decide(self, run_id: str, approval_id: str, *, approve: bool, by: str, reason: str) -> None:
        """Approve or reject a call."""
        decision = {"decision": "approve" if approve else "reject", "decided_by": by, "reason": reason}
        _content(await self._client.post(f"/v1/runs/{run_id}/approvals/{approval_id}", json=decision))


@asynccontextmanager
async def caller(api_url: str) -> AsyncIterator[Caller]:
    """Open a client of the demo's own API, which is open."""
    async with httpx2.AsyncClient(base_url=api_url, timeout=TIMEOUT.total_seconds(), trust_env=False) as client:
        yield Caller(client)


def _content(answer: httpx2.Response) -> JsonObject:
    if answer.is_error:
        request = answer.request
        raise PerdureError(
            f"the API answered {request.method} {request.url.path} with {answer.status_code}: {answer.text}"
        )
    content: JsonObject = answer.json()
    return content
