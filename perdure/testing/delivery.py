"""How an answer, or its fault, goes over the connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from perdure.messages import JsonObject
from perdure.testing.fault import NO_TIME, Fault, FaultKind
from perdure.testing.wire import Answer, Problem, Wire, compact

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

BROKEN_EVENT = b'data: {"type": "broken", "delta": {\n\n'


class Delivery:
    """One request's ASGI channel."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send

    async def body(self) -> bytes | None:
        """Read the request's body; None if the client has gone."""
        chunks: list[bytes] = []
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(chunks)

    async def json(self, status: int, body: JsonObject, *, headers: list[tuple[str, str]] | None = None) -> None:
        """Send a JSON response."""
        encoded = compact(body).encode("utf-8", "replace")
        await self._whole(status, encoded, headers or [])

    async def deliver(self, wire: Wire, answer: Answer | None, fault: Fault | None, *, body: JsonObject) -> None:
        """Send an answer as the fault lets it through; without an answer, the fault is an error.

        The request's body says whether the client wants a stream.
        """
        streamed = body.get("stream") is True
        if fault is not None and fault.kind is FaultKind.HANG:
            await self._hang()
            return
        if answer is not None:
            await asyncio.sleep((answer.turn.delay + (fault.first_byte if fault else NO_TIME)).total_seconds())
        reported = fault is not None and fault.kind is FaultKind.ERROR_EVENT and not streamed
        if fault is not None and (answer is None or reported or fault.kind is FaultKind.STATUS):
            problem = Problem(fault.message, fault.code)
            await self.json(fault.status, wire.error(fault.status, problem), headers=fault.headers())
        elif answer is not None and streamed:
            await self._stream(wire, answer, fault, body)
        elif answer is not None:
            await self._plain(compact(wire.reply(answer)).encode("utf-8", "replace"), fault)

    async def _plain(self, encoded: bytes, fault: Fault | None) -> None:
        match fault.kind if fault else None:
            case FaultKind.DISCONNECT:
                await self._start(200, [("content-length", str(len(encoded)))])
                await self._send(
                    {"type": "http.response.body", "body": encoded[: len(encoded) // 2], "more_body": True}
                )
            case FaultKind.MALFORMED | FaultKind.TRUNCATED:
                await self._whole(200, encoded[: len(encoded) // 2], [])
            case _:
                await self._whole(200, encoded, [])

    async def _stream(self, wire: Wire, answer: Answer, fault: Fault | None, body: JsonObject) -> None:
        streamed = wire.stream(answer, body)
        events = [*streamed.events, *streamed.finish]
        kind = fault.kind if fault else None
        cut = fault.position(len(streamed.events)) if fault else 0
        match kind:
            case FaultKind.DISCONNECT:
                events = events[:cut]
            case FaultKind.MALFORMED:
                events = [*events[:cut], _name_of(events[cut]) + BROKEN_EVENT, *events[cut + 1 :]]
            case FaultKind.TRUNCATED:
                events = streamed.events
            case FaultKind.ERROR_EVENT:
                problem = Problem(fault.message if fault else "", fault.code if fault else None)
                events = [*events[:cut], wire.error_event(problem)]
        await self._start(200, [("content-type", "text/event-stream; charset=utf-8"), ("cache-control", "no-cache")])
        await self._send_events(events, fault.between if fault else NO_TIME)
        # A response that is never completed makes the server drop the connection.
        if kind is not FaultKind.DISCONNECT:
            await self._send({"type": "http.response.body", "body": b""})

    async def _send_events(self, events: list[bytes], between: timedelta) -> None:
        if between <= NO_TIME:
            await self._send({"type": "http.response.body", "body": b"".join(events), "more_body": True})
            return
        for each in events:
            await self._send({"type": "http.response.body", "body": each, "more_body": True})
            await asyncio.sleep(between.total_seconds())

    async def _hang(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def _whole(self, status: int, encoded: bytes, headers: list[tuple[str, str]]) -> None:
        described = [("content-type", "application/json"), ("content-length", str(len(encoded))), *headers]
        await self._start(status, described)
        await self._send({"type": "http.response.body", "body": encoded})

    async def _start(self, status: int, headers: list[tuple[str, str]]) -> None:
        named = [("request-id", "req_scripted"), ("x-request-id", "req_scripted"), *headers]
        encoded = [(name.encode("ascii"), value.encode("ascii")) for name, value in named]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})


def _name_of(event: bytes) -> bytes:
    first, newline, _ = event.partition(b"\n")
    return first + newline if first.startswith(b"event:") else b""
