"""A loopback HTTP server that replays literal bodies: what a vendor's server sent, down to the byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self

from perdure.agent import AgentSpec
from perdure.tool import ToolSpec

FIND_ORDER = ToolSpec(
    name="find_order",
    description="Find an order.",
    input_schema={"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
)


@dataclass(frozen=True)
class Answer:
    """One response, and how its connection ends."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    then: Literal["end", "abort", "hang"] = "end"
    """`end` the body properly; `abort` the connection within it; `hang` until the client leaves."""


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Which connection it came over."""

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class WireServer:
    """Answers each request with the next of its answers, the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self._connections = 0
        self._open: set[asyncio.StreamWriter] = set()
        self.requests: list[Request] = []
        self.asked = asyncio.Event()
        """A request is being answered."""
        self.left = asyncio.Event()
        """The client closed the connection of a hanging answer."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """The server's address."""
        port = self._server.sockets[0].getsockname()[1]
        return f"http://127.0.0.1:{port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        self._connections += 1
        connection = self._connections
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._answer_one(reader, writer, connection=connection):
                pass
        self._open.discard(writer)
        writer.close()

    async def _answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, connection: int) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(Request(head[0].split(" ")[1], headers, body, connection))
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        sent = {"content-type": "text/event-stream", "transfer-encoding": "chunked", **answer.headers}
        lines = [f"HTTP/1.1 {answer.status} Status", *(f"{name}: {value}" for name, value in sent.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n")
        if answer.body:
            writer.write(f"{len(answer.body):x}\r\n".encode() + answer.body + b"\r\n")
        await writer.drain()
        self.asked.set()
        if answer.then == "abort":
            return False
        if answer.then == "hang":
            await reader.read()
            self.left.set()
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def sse(*events: dict[str, Any], named: bool = False) -> bytes:
    """Spell events as a vendor does: with their type as the event's name, or with data only."""
    lines = []
    for event in events:
        name = f"event: {event['type']}\n" if named else ""
        lines.append(f"{name}data: {json.dumps(event)}\n\n")
    return "".join(lines).encode()


def spec_of(model: str, *, tools: Iterable[ToolSpec] = (), **fields: Any) -> AgentSpec:
    """Return an agent with this model."""
    return AgentSpec(name="support", version="1", model=model, tools=tuple(tools), **fields)


def ignore(text: str) -> None:
    """Take a delta nobody wants."""
