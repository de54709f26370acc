"""What both of OpenAI's wire formats share: the SDK's client, and how a call is sent through it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

import httpx2

from perdure_activities.providers.encoding import to_json
from perdure_activities.providers.exchange import EventStream, LazyClient, ReplyBuilder, exchange
from perdure_activities.providers.posture import missing_key
from perdure_activities.providers.provider import PromptCache, ProviderReply

if TYPE_CHECKING:
    from openai import AsyncOpenAI

VENDOR: Final = "OpenAI"

_OWN_HOSTS: Final = (".openai.com", ".openai.azure.com")


class OpenAIClient:
    """Sends calls with the SDK's client, which `OPENAI_API_KEY`, `OPENAI_BASE_URL` and its other variables set up."""

    def __init__(self) -> None:
        self._client = LazyClient(_connect, vendor=VENDOR)

    async def speaks_to_openai(self) -> bool:
        """Tell whether OpenAI's own service answers, and not a compatible server."""
        host = (await self._client.get()).base_url.host
        return host.endswith(_OWN_HOSTS)

    async def call(self, path: str, body: bytes, builder: ReplyBuilder, *, timeout: timedelta) -> ProviderReply:
        """Send the body and read the reply.

        Raises:
            ApplicationError: As the posture table has it.
        """
        from openai import AsyncStream

        client = await self._client.get()

        async def open_stream(limits: httpx2.Timeout) -> EventStream:
            return await client.post(
                path,
                cast_to=object,
                content=body,
                options={"timeout": limits},
                stream=True,
                stream_cls=AsyncStream[object],
            )

        host = client.base_url.host
        vendor = VENDOR if host.endswith(_OWN_HOSTS) else f"{VENDOR}-compatible server {host!r}"
        return await exchange(open_stream, builder, timeout=timeout, vendor=vendor, secrets=(client.api_key,))

    async def close(self) -> None:
        """Release connections."""
        await self._client.close()


def cache_key(cache: PromptCache | None) -> bytes:
    """Return the field that names what a request belongs to, to follow a list in its body.

    OpenAI caches by itself. The key only has requests of one beginning reach the same machine.
    """
    return b"" if cache is None else b',"prompt_cache_key":' + to_json(cache.key)


def _connect() -> AsyncOpenAI:
    from openai import AsyncOpenAI, OpenAIError

    try:
        return AsyncOpenAI(max_retries=0)
    except OpenAIError:
        raise missing_key(VENDOR, "OPENAI_API_KEY (to any value for a server that needs none)") from None
