"""Calls to addresses that others chose: resolved, checked, and made to the very address that was checked.

A name that is resolved a second time may lead elsewhere (DNS rebinding), so it is resolved once: the connection goes to
the checked address, while `Host` and TLS keep the name. Redirects are not followed, and proxies that the environment
names are not used. Not for workflow code.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import httpx2

from perdure.endpoint import Address, Endpoint, Network, is_in, parse_endpoint, why_not
from perdure.errors import CallbackRefusedError

RESOLVE_TIMEOUT: Final = timedelta(seconds=5)
CONNECT_TIMEOUT: Final = timedelta(seconds=5)
ANSWER_TIMEOUT: Final = timedelta(seconds=20)
"""From the first byte sent to the last of the answer's head, however slowly it drips."""
BODY_TIMEOUT: Final = timedelta(seconds=2)
MAX_BODY_BYTES: Final = 64 * 1024
"""Of the answer's body, which is read and thrown away so that the receiver can finish."""
MAX_ADDRESSES: Final = 4
"""Addresses of one name that are tried."""

Resolver = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a name. Raises `OSError`."""


@dataclass(frozen=True)
class Checked:
    """A URL that may be called, and where."""

    endpoint: Endpoint
    addresses: tuple[Address, ...]


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]


class NotResolvedError(Exception):
    """A name could not be resolved, for now."""


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system for a name's addresses."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


class Outgoing:
    """Makes calls, to where they are allowed."""

    def __init__(
        self,
        *,
        allowed: Sequence[Network] = (),
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Set the bounds.

        Args:
            allowed: Networks that may be called although they are not public; only they may be called without TLS.
            resolver: Finds a name's addresses.
            tls: Certificates to trust; default: those that httpx2 trusts, or `SSL_CERT_FILE`.
        """
        self._allowed = tuple(allowed)
        self._resolve = resolver
        self._tls = tls
        self._http: httpx2.AsyncClient | None = None

    async def check(self, url: str) -> Checked:
        """Find out where a URL leads.

        Raises:
            CallbackRefusedError: Where we do not call, or nowhere.
            NotResolvedError: Nobody can tell for now.
        """
        try:
            endpoint = parse_endpoint(url)
        except ValueError as error:
            raise CallbackRefusedError(str(error)) from error
        addresses = await self._addresses(endpoint)
        for address in addresses:
            # One forbidden address is enough: which of them is called would be chance.
            if problem := why_not(address, self._allowed):
                # The address itself is not told: callers could ask so for what the names inside lead to.
                raise CallbackRefusedError(
                    f"{endpoint.host!r} leads to {problem}, which is not in PERDURE_CALLBACK_ALLOWED_NETWORKS"
                )
            if endpoint.scheme == "http" and not is_in(address, self._allowed):
                raise CallbackRefusedError(
                    f"{endpoint.host!r} is called by https only, as it is not in PERDURE_CALLBACK_ALLOWED_NETWORKS"
                )
        return Checked(endpoint, addresses)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Check the URL and send a body to it.

        Raises:
            CallbackRefusedError: As `check`.
            NotResolvedError: As `check`.
            httpx2.HTTPError: Nothing answered, or no HTTP.
            TimeoutError: It took too long.
        """
        checked = await self.check(url)
        *others, last = checked.addresses[:MAX_ADDRESSES]
        for address in others:
            with contextlib.suppress(httpx2.ConnectError, httpx2.ConnectTimeout):
                return await self._post(checked.endpoint, address, body, headers)
        return await self._post(checked.endpoint, last, body, headers)

    async def close(self) -> None:
        """Release the client."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _addresses(self, endpoint: Endpoint) -> tuple[Address, ...]:
        with contextlib.suppress(ValueError):
            return (ipaddress.ip_address(endpoint.host),)
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT.total_seconds()):
                found = await self._resolve(endpoint.host, endpoint.port)
        except socket.gaierror as error:
            if error.errno == socket.EAI_AGAIN:
                raise NotResolvedError(f"the name {endpoint.host!r} cannot be resolved now") from error
            raise CallbackRefusedError(f"the name {endpoint.host!r} leads nowhere") from error
        except (OSError, TimeoutError, UnicodeError) as error:
            raise NotResolvedError(f"the name {endpoint.host!r} cannot be resolved now") from error
        addresses = tuple(dict.fromkeys(ipaddress.ip_address(text.partition("%")[0]) for text in found))
        if not addresses:
            raise CallbackRefusedError(f"the name {endpoint.host!r} leads nowhere")
        return addresses

    async def _post(self, endpoint: Endpoint, address: Address, body: bytes, headers: Mapping[str, str]) -> Answer:
        request = self._client().build_request(
            "POST",
            endpoint.at(address),
            content=body,
            headers={**headers, "Host": endpoint.authority},
            extensions={"sni_hostname": endpoint.host},
        )
        async with asyncio.timeout(ANSWER_TIMEOUT.total_seconds()):
            response = await self._client().send(request, stream=True)
        try:
            with contextlib.suppress(httpx2.HTTPError, TimeoutError):  # the status is known, and counts
                async with asyncio.timeout(BODY_TIMEOUT.total_seconds()):
                    await _discard(response)
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers)

    def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            self._http = httpx2.AsyncClient(
                verify=httpx2.create_ssl_context() if self._tls is None else self._tls,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx2.Timeout(ANSWER_TIMEOUT.total_seconds(), connect=CONNECT_TIMEOUT.total_seconds()),
                # A connection is to an address; kept, it could serve another name at the same one.
                limits=httpx2.Limits(max_keepalive_connections=0),
            )
        return self._http


async def _discard(response: httpx2.Response) -> None:
    read = 0
    async for piece in response.aiter_raw():
        read += len(piece)
        if read > MAX_BODY_BYTES:
            return
