"""The scripted model as an HTTP server on loopback: requests in, scripted answers and faults out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Generator
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any, Final

import uvicorn
from pydantic import TypeAdapter, ValidationError

from perdure.activities import Finish
from perdure.errors import ConfigurationError
from perdure.messages import JsonObject
from perdure.testing.anthropic_messages import AnthropicMessages
from perdure.testing.delivery import Delivery, Receive, Send
from perdure.testing.fault import Fault
from perdure.testing.openai_chat import OpenAIChat
from perdure.testing.openai_responses import OpenAIResponses
from perdure.testing.prompt_cache import PromptCache
from perdure.testing.script import Script, ScriptedRequest, ScriptFunction, Turn
from perdure.testing.wire import Answer, Problem, Wire

REMEMBERED_REQUESTS: Final = 1_000
REMEMBERED_CONVERSATIONS: Final = 10_000

_BODY: Final[TypeAdapter[JsonObject]] = TypeAdapter(JsonObject)
_WIRES: Final[dict[str, Wire]] = {
    "/v1/messages": AnthropicMessages(),
    "/v1/responses": OpenAIResponses(),
    "/v1/chat/completions": OpenAIChat(),
}


@dataclass(frozen=True)
class RecordedRequest:
    """One request that the scripted model got."""

    wire: str
    model: str
    turn: int
    """Index of the reply it asked for."""
    attempt: int
    """How often exactly this request had come before."""
    stream: bool
    size: int
    """Bytes."""
    fault: str | None
    """The kind of fault it met."""


class Requests:
    """What the model was asked: totals, and the latest requests."""

    def __init__(self) -> None:
        self.count = 0
        self.per_model: Counter[str] = Counter()
        self.recent: deque[RecordedRequest] = deque(maxlen=REMEMBERED_REQUESTS)

    def add(self, request: RecordedRequest) -> None:
        """Record a request."""
        self.count += 1
        self.per_model[request.model] += 1
        self.recent.append(request)

    def summary(self) -> JsonObject:
        """Return the record as JSON; the server also answers it to `GET /requests`."""
        recent = [asdict(request) for request in self.recent]
        return {"count": self.count, "per_model": dict(self.per_model), "recent": recent}


class ScriptedModel:
    """A model vendor on loopback whose answers come from a script, for the official SDKs and whoever speaks as they do.

    script = Script([Turn(calls=[Call("find_order", {"order_id": 7})]), Turn("Your order has left.")])
    async with ScriptedModel(script) as model:
        for name, value in model.environment().items():
            monkeypatch.setenv(name, value)
        …
        assert model.requests.count == 2
    """

    def __init__(self, script: Script | ScriptFunction, *, port: int = 0) -> None:
        """Prepare a server; it listens inside `async with`.

        Args:
            script: What it answers.
            port: Where it listens on 127.0.0.1; 0 takes a free port.
        """
        self._script = script if isinstance(script, Script) else Script(script)
        self._port = port
        self._attempts = _Attempts()
        self._cache = PromptCache()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.requests = Requests()

    @property
    def url(self) -> str:
        """Address without a path: Anthropic's base URL; OpenAI's is this and `/v1`."""
        return f"http://127.0.0.1:{self._port}"

    def environment(self) -> dict[str, str]:
        """Return the variables that make the official SDKs talk to this server."""
        return {
            "ANTHROPIC_BASE_URL": self.url,
            "ANTHROPIC_API_KEY": "scripted",
            "OPENAI_BASE_URL": f"{self.url}/v1",
            "OPENAI_API_KEY": "scripted",
        }

    async def __aenter__(self) -> ScriptedModel:
        listener = _listen(self._port)
        self._port = listener.getsockname()[1]
        # The log set-up, like the signals, belongs to whoever runs the process.
        config = uvicorn.Config(
            self._serve,
            log_config=None,
            access_log=False,
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,
            date_header=False,
            http="h11",
            loop="asyncio",
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="scripted model")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None and self._serving is not None:
            self._server.end()
            await self._serving
            await asyncio.gather(*self._server.server_state.tasks, return_exceptions=True)

    async def _serve(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        delivery = Delivery(receive, send)
        path = scope["path"]
        if scope["method"] == "GET" and path == "/requests":
            await delivery.json(200, self.requests.summary())
            return
        wire = _WIRES.get(path)
        if wire is None or scope["method"] != "POST":
            known = ", ".join(_WIRES)
            message = f"{scope['method']} {path} is nothing the scripted model answers; it takes POST {known}"
            await delivery.json(404, _WIRES["/v1/messages"].error(404, Problem(message)))
            return
        raw = await delivery.body()
        if raw is not None:
            await self._answer(wire, raw, delivery)

    async def _answer(self, wire: Wire, raw: bytes, delivery: Delivery) -> None:
        key = hashlib.blake2b(wire.name.encode() + raw, digest_size=16).hexdigest()
        attempt = self._attempts.next(key)
        decided = self._decide(wire, raw)
        turn, body = decided.turn, decided.body
        fault = turn.faults[attempt] if attempt < len(turn.faults) else None
        answer = None
        if decided.problem is None:
            usage = turn.usage or wire.usage(body, len(raw), turn, self._cache)
            answer = Answer(turn=turn, model=decided.model, key=key, usage=usage, created=int(time.time()))
        else:
            fault = Fault.bad_request(decided.problem.message, code=decided.problem.code)
        self.requests.add(
            RecordedRequest(
                wire=wire.name,
                model=decided.model,
                turn=decided.index,
                attempt=attempt,
                stream=body.get("stream") is True,
                size=len(raw),
                fault=fault.kind.value if fault else None,
            )
        )
        await delivery.deliver(wire, answer, fault, body=body)

    def _decide(self, wire: Wire, raw: bytes) -> _Decision:
        try:
            body = _BODY.validate_json(raw)
        except ValidationError as error:
            return _Decision(problem=Problem(f"the body is no JSON object: {error.errors()[0]['msg']}"))
        try:
            if objection := wire.objection(body):
                return _Decision(body=body, problem=Problem(objection))
            request = ScriptedRequest(
                lambda: tuple(wire.messages(body)),
                model=str(body.get("model")),
                instructions=wire.instructions(body),
                tools=wire.tools(body),
                turn=wire.turns(body),
                wire=wire.name,
                body=body,
            )
        except (TypeError, KeyError, AttributeError) as error:
            return _Decision(body=body, problem=Problem(f"the body is not in the form of {wire.name}: {error!r}"))
        try:
            turn = self._script.answer(request)
        except ConfigurationError as error:
            return _Decision(body=body, index=request.turn, problem=Problem(str(error)))
        except Exception as error:  # a script may raise anything, and its author has to read it
            return _Decision(body=body, index=request.turn, problem=Problem(f"the script raised {error!r}"))
        return _Decision(body=body, index=request.turn, turn=turn, problem=_unspeakable(wire, turn))


@dataclass(frozen=True)
class _Decision:
    """What the script has to say to a request, or why the vendor refuses it."""

    body: JsonObject = field(default_factory=dict)
    index: int = 0
    turn: Turn = field(default_factory=Turn)
    problem: Problem | None = None

    @property
    def model(self) -> str:
        return str(self.body.get("model"))


def _unspeakable(wire: Wire, turn: Turn) -> Problem | None:
    if turn.finish is None or turn.finish in wire.finishes:
        return None
    if turn.finish is Finish.CONTEXT_WINDOW:
        message = "Your input exceeds the context window of this model. Please adjust your input and try again."
        return Problem(message, code="context_length_exceeded")
    return Problem(f"the script wants finish {turn.finish.value!r}, which {wire.name} has no word for")


def _listen(port: int) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is spelled out; with it each answer takes 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(512)
    except BaseException:
        listener.close()
        raise
    return listener


class _Server(uvicorn.Server):
    """Leaves the process's signals alone, and waits for its end instead of looking for it ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._end = asyncio.Event()

    def end(self) -> None:
        self._end.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        await self._end.wait()


class _Attempts:
    """Counts how often each request came; forgets the ones not seen for longest."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, int] = OrderedDict()

    def next(self, key: str) -> int:
        attempt = self._seen.pop(key, 0)
        self._seen[key] = attempt + 1
        if len(self._seen) > REMEMBERED_CONVERSATIONS:
            self._seen.popitem(last=False)
        return attempt
