"""One streamed call through an official SDK: bytes out, events in, whatever fails translated by the posture table.

The body goes out as bytes through the SDK's low-level `post`, and events come back as plain dictionaries. The SDKs'
typed methods walk and validate the whole conversation on every call, which costs up to a second of CPU; this way only
the head is ever serialised again, and their authentication, base URL, headers, proxies and error types still apply.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final, Generic, Protocol, TypeVar

import httpx2
from temporalio.exceptions import ApplicationError

from perdure.activities import Finish
from perdure.agent import AgentSpec
from perdure.messages import AssistantMessage, JsonObject
from perdure_activities.providers.encoding import object_of
from perdure_activities.providers.posture import BrokenReplyError, failure, misconfigured
from perdure_activities.providers.provider import ProviderReply

CONNECT_TIMEOUT: Final = timedelta(seconds=10)
DRAIN_TIMEOUT: Final = 0.5
"""Seconds to wait, once the reply is complete, for the response's end, without which its connection is not reused."""
HEADS_KEPT: Final = 64


class EventStream(Protocol):
    """What both SDKs' streams are."""

    async def __anext__(self) -> object: ...

    async def close(self) -> None: ...


class ReplyBuilder(Protocol):
    """Puts a reply together from its events."""

    @property
    def complete(self) -> bool:
        """Whether nothing more is expected."""
        ...

    def feed(self, event: JsonObject) -> None:
        """Take in one event.

        Raises:
            StreamFailedError: The event says that the call failed.
        """
        ...

    def reply(self) -> ProviderReply:
        """Return the reply.

        Raises:
            BrokenReplyError: Its finish marker has not been seen.
        """
        ...


class SdkClient(Protocol):
    """What both SDKs' clients can do."""

    async def close(self) -> None: ...


ClientT = TypeVar("ClientT", bound=SdkClient)


class LazyClient(Generic[ClientT]):
    """An SDK's client, made at its first use: importing an SDK takes seconds and needs no key, a client needs one."""

    def __init__(self, connect: Callable[[], ClientT], *, vendor: str) -> None:
        self._connect = connect
        self._vendor = vendor
        self._client: ClientT | None = None
        self._lock = threading.Lock()

    async def get(self) -> ClientT:
        """Return the client; the first time it is made in a thread, so that heartbeats go on meanwhile.

        Raises:
            ApplicationError: There is no key, or the SDK cannot use what its variables say.
        """
        if self._client is not None:
            return self._client
        return await asyncio.to_thread(self._made)

    async def close(self) -> None:
        """Release the connections, if there are any."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _made(self) -> ClientT:
        with self._lock:
            if self._client is None:
                try:
                    self._client = self._connect()
                except ApplicationError:
                    raise
                except Exception as error:
                    raise misconfigured(self._vendor, error) from None
            return self._client


class Heads:
    """The serialised heads of recent agents' requests.

    Looked up by the spec's identity: finding its digest would cost as much as serialising the head does.
    """

    def __init__(self, build: Callable[[AgentSpec], bytes]) -> None:
        self._build = build
        self._heads: OrderedDict[int, tuple[AgentSpec, bytes]] = OrderedDict()

    def of(self, spec: AgentSpec) -> bytes:
        """Return the head of this agent's requests."""
        kept = self._heads.get(id(spec))
        if kept is not None and kept[0] is spec:
            self._heads.move_to_end(id(spec))
            return kept[1]
        head = self._build(spec)
        self._heads[id(spec)] = (spec, head)
        if len(self._heads) > HEADS_KEPT:
            self._heads.popitem(last=False)
        return head


async def exchange(
    open_stream: Callable[[httpx2.Timeout], Awaitable[EventStream]],
    builder: ReplyBuilder,
    *,
    timeout: timedelta,
    vendor: str,
    secrets: tuple[str, ...] = (),
) -> ProviderReply:
    """Make the call and read its reply to the end.

    Args:
        open_stream: Sends the request with these timeouts and returns the stream of its events.
        builder: Puts the reply together.
        timeout: For all of it.
        vendor: Who is called, for messages.
        secrets: Texts that must not appear in an error.

    Raises:
        ApplicationError: As the posture table has it.
    """
    seconds = timeout.total_seconds()
    # A model may think for minutes without a byte, so only the whole call has a limit, not each silence in it.
    limits = httpx2.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT.total_seconds()))
    try:
        async with asyncio.timeout(seconds):
            stream = await open_stream(limits)
            try:
                await _read(stream, builder)
            finally:
                await stream.close()
        return builder.reply()
    except Exception as error:
        raise failure(error, vendor=vendor, secrets=secrets) from None


def settled(finish: Finish, message: AssistantMessage) -> Finish:
    """Correct a finish by what the reply holds: compatible servers say `stop` with tool calls, and the reverse."""
    if finish not in (Finish.STOP, Finish.TOOL_CALLS):
        return finish
    return Finish.TOOL_CALLS if message.tool_calls else Finish.STOP


async def _read(stream: EventStream, builder: ReplyBuilder) -> None:
    try:
        while not builder.complete:
            event = object_of(await anext(stream))
            try:
                builder.feed(event)
            except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
                raise BrokenReplyError(f"an event has an unexpected form: {error!r}") from error
    except StopAsyncIteration:
        return
    # The reply counts already: whatever goes wrong from here on must not lose it.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(DRAIN_TIMEOUT):
            while True:
                await anext(stream)
