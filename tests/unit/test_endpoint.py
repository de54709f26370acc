"""URLs that others choose: which are read at all, and which networks they may lead to."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.endpoint import parse_endpoint, why_not

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


@pytest.mark.parametrize(
    ("url", "host", "port", "target", "authority"),
    [
        ("https://hooks.example.com/a/b?c=d&e", "hooks.example.com", 443, "/a/b?c=d&e", "hooks.example.com"),
        ("https://Hooks.Example.com", "hooks.example.com", 443, "/", "hooks.example.com"),
        ("https://h.example:8443/x", "h.example", 8443, "/x", "h.example:8443"),
        ("http://10.0.0.7:80/x", "10.0.0.7", 80, "/x", "10.0.0.7"),
        ("https://[2606:4700::1111]/x", "2606:4700::1111", 443, "/x", "[2606:4700::1111]"),
        ("https://xn--exmple-cua.com/", "xn--exmple-cua.com", 443, "/", "xn--exmple-cua.com"),
        ("https://my_service.internal./", "my_service.internal.", 443, "/", "my_service.internal."),
    ],
)
def test_usual_urls_are_read(url: str, host: str, port: int, target: str, authority: str) -> None:
    """Host, port, path and query are as they were meant, and the header names the host."""
    endpoint = parse_endpoint(url)

    assert (endpoint.host, endpoint.port, endpoint.target, endpoint.authority) == (host, port, target, authority)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "ASCII"),
        ("ftp://example.com/", "https"),
        ("file:///etc/passwd", "https"),
        ("gopher://example.com:11211/", "https"),
        ("//example.com/", "https"),
        ("example.com/hook", "https"),
        ("https:///hook", "no name"),
        ("https://user:pass@example.com/", "user name"),
        ("https://127.0.0.1@example.com/", "user name"),
        ("https://example.com\\@127.0.0.1/", "backslash"),
        ("https://exam ple.com/", "space"),
        ("https://example.com/a\r\nHost: evil", "space"),
        ("https://example.com/\x00", "space"),
        ("https://exämple.com/", "ASCII"),
        ("https://\uff11\uff12\uff17.0.0.1/", "ASCII"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com:0/", "port"),
        ("https://example.com:99999/", "port"),
        ("https://example.com:8a/", "port"),
        ("https://ex%61mple.com/", "no name"),
        ("https://127.0.0.1%2f@example.com/", "user name"),
        ("https://127.1/", "no IPv4 address in its usual form"),
        ("https://2130706433/", "no IPv4 address in its usual form"),
        ("https://0x7f000001/", "no IPv4 address in its usual form"),
        ("https://0x7f.0.0.1/", "no IPv4 address in its usual form"),
        ("https://0177.0.0.1/", "no IPv4 address in its usual form"),
        ("https://127.0.0.1./", "no IPv4 address in its usual form"),
        ("https://1.2.3.4.5/", "no IPv4 address in its usual form"),
        ("https://[fe80::1%25eth0]/", "no IPv6 address|no readable host"),
        ("https://[::1/", "no readable host"),
        ("https://[127.0.0.1]/", "no IPv6 address|no readable host"),
        ("https://a..b/", "no name"),
        ("https://-a.example/", "no name"),
        ("https://" + "a" * 3000, "characters"),
    ],
)
def test_urls_that_can_be_understood_in_two_ways_are_not_read(url: str, why: str) -> None:
    """Refused rather than interpreted, and the message says what is wrong."""
    with pytest.raises(ValueError, match=why):
        parse_endpoint(url)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.0.1", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
        "169.254.169.254", "100.64.0.1", "100.127.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "198.18.0.1",
        "198.51.100.1", "203.0.113.9", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::1", "::", "::127.0.0.1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:0a00:0001::1",
        "2001:0:7f00:1::", "2001:db8::1", "fe80::1", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1",
        "100::1", "3fff::1", "5f00::1", "4000::1", "::ffff:0:127.0.0.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_out_of_bounds(address: str) -> None:
    """In every form that leads to them, IPv6 ones that carry an IPv4 address included."""
    assert why_not(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "192.169.0.1", "223.255.255.255",
     "2606:4700::1111", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)  # fmt: skip
def test_public_addresses_are_in_bounds(address: str) -> None:
    """Also behind a translator of addresses, where a host has IPv6 only."""
    assert why_not(ipaddress.ip_address(address)) is None


@given(st.ip_addresses(v=4))
def test_no_form_of_an_address_gets_past_its_plain_one(address: ipaddress.IPv4Address) -> None:
    """Mapped and translated forms are judged as the address they lead to; relics that lead to any are refused."""
    number = int(address)
    plain = why_not(address) is None

    for prefix in ("::ffff:0:0", "64:ff9b::"):
        assert (why_not(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number)) is None) == plain
    assert why_not(ipaddress.IPv6Address((0x2002 << 112) | (number << 80)))
    assert why_not(ipaddress.IPv6Address(number))


@given(st.ip_addresses())
def test_whatever_the_standard_library_calls_private_is_out_of_bounds(address: ipaddress.IPv4Address) -> None:
    """Our table is no narrower than its, of whichever version."""
    if address.is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        meant = getattr(address, "ipv4_mapped", None)
        assert why_not(address) or (meant is not None and not meant.is_private)


def test_allowed_networks_are_exceptions() -> None:
    """Only what lies in them, in any form."""
    assert why_not(ipaddress.ip_address("127.0.0.1"), LOOPBACK) is None
    assert why_not(ipaddress.ip_address("::ffff:127.0.0.1"), LOOPBACK) is None
    assert why_not(ipaddress.ip_address("10.0.0.1"), LOOPBACK)
    assert why_not(ipaddress.ip_address("::1"), LOOPBACK)
