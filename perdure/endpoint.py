"""Addresses that we are asked to call: how their URLs are read, and which networks are out of bounds. Pure.

A URL that two readers could understand differently is refused rather than interpreted.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL: Final = 2048
_PLAIN: Final = re.compile(r"[!-~]+")
_NAME: Final = re.compile(
    r"(?=.{1,253}\.?$)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
_NUMERIC: Final = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)\.?")
"""Names that end like this are read as IPv4 addresses by some, in decimal, octal or hexadecimal."""


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


# IANA's special-purpose registries, https://www.iana.org/assignments/iana-ipv4-special-registry and -ipv6-; a table of
# our own, as the standard library's answers differ between Python's versions.
OUT_OF_BOUNDS: Final[dict[str, tuple[Network, ...]]] = {
    "loopback": _networks("127.0.0.0/8", "::1/128"),
    "private": _networks("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10"),
    "shared": _networks("100.64.0.0/10"),
    "link-local": _networks("169.254.0.0/16", "fe80::/10"),
    "multicast": _networks("224.0.0.0/4", "ff00::/8"),
    "unspecified": _networks("0.0.0.0/8", "::/128"),
    "reserved": _networks(
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "2001::/23",  # Teredo and other protocols' own
        "2001:db8::/32",
        "2002::/16",  # 6to4, which leads to any IPv4 address
        "2620:4f:8000::/48",
        "3fff::/20",
    ),
}
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


@dataclass(frozen=True)
class Endpoint:
    """A URL, taken apart."""

    scheme: Literal["http", "https"]
    host: str
    """A name, or an address without brackets; lower case."""
    port: int
    target: str
    """Path and query, as they are sent."""

    @property
    def authority(self) -> str:
        """What the header `Host` says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def at(self, address: Address) -> str:
        """Return the URL with an address in the host's place."""
        host = f"[{address}]" if address.version == 6 else str(address)
        return f"{self.scheme}://{host}:{self.port}{self.target}"


_PORTS: Final = {"http": 80, "https": 443}


def parse_endpoint(url: str) -> Endpoint:
    """Take a URL apart.

    Raises:
        ValueError: It is none that is called, whoever asks; the message says why.
    """
    if len(url) > MAX_URL:
        raise ValueError(f"the URL has {len(url):,} characters; at most {MAX_URL:,} are taken")
    if not _PLAIN.fullmatch(url) or "\\" in url:
        raise ValueError(
            "the URL holds a space, a backslash or a character beyond ASCII; write names as xn--… and paths as %…"
        )
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ValueError(f"the URL has no readable host: {error}") from error
    if parts.scheme not in _PORTS:
        raise ValueError(f"the URL begins with {parts.scheme!r}; write https://…")
    if "@" in parts.netloc:
        raise ValueError("the URL holds a user name or password; deliveries are signed instead")
    if parts.fragment or "#" in url:
        raise ValueError("the URL has a fragment, which is never sent")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return Endpoint(scheme, _host(parts), _port(parts), target)


def why_not(address: Address, allowed: Iterable[Network] = ()) -> str | None:
    """Say what kind of address is out of bounds; None if it may be called.

    Args:
        address: As a name was resolved.
        allowed: Networks that may be called all the same.
    """
    if is_in(address, allowed):
        return None
    kind = next((kind for kind, networks in OUT_OF_BOUNDS.items() if is_in(address, networks)), None)
    if kind is not None:
        return f"a {kind} address"
    meant = _meant(address)
    return "no public address" if meant.version == 6 and meant not in _GLOBAL_V6 else None


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Whether an address leads into one of these networks."""
    meant = _meant(address)
    return any(meant.version == network.version and meant in network for network in networks)


def _meant(address: Address) -> Address:
    """Return the address that a connection ends at: forms of IPv6 that carry an IPv4 address lead to that."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def _host(parts: SplitResult) -> str:
    try:
        host = (parts.hostname or "").lower()
    except ValueError as error:
        raise ValueError(f"the URL has no readable host: {error}") from error
    if parts.netloc.startswith("["):
        if "%" in host:
            raise ValueError("the URL's host is no IPv6 address: it names an interface of ours")
        try:
            return str(ipaddress.IPv6Address(host))
        except ValueError as error:
            raise ValueError(f"the URL's host is no IPv6 address: {error}") from error
    if _NUMERIC.fullmatch(host):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError as error:
            raise ValueError(f"the URL's host {host!r} is no IPv4 address in its usual form") from error
    if not _NAME.fullmatch(host):
        raise ValueError(f"the URL's host {host!r} is no name")
    return host


def _port(parts: SplitResult) -> int:
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError("the URL's port is no number up to 65535") from error
    if port == 0:
        raise ValueError("the URL's port is 0, which nothing listens on")
    return port or _PORTS[parts.scheme]


def _checked(url: str) -> str:
    parse_endpoint(url)
    return url


EndpointUrl = Annotated[str, Field(min_length=1, max_length=MAX_URL), AfterValidator(_checked)]
"""A URL that can be called as far as its text tells; where it leads is checked when it is."""
