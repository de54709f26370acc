"""Calls to addresses that others chose: to nobody inside, to the address that was checked, and never for long."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from collections.abc import Sequence
from datetime import timedelta

import httpx2
import pytest
import trustme

from perdure import outgoing as module
from perdure.errors import CallbackRefusedError
from perdure.outgoing import NotResolvedError, Outgoing
from tests.receiver import drip, flood, receiving, status

LOOPBACK = [ipaddress.ip_network("127.0.0.1/32")]


class Names:
    """A resolver that answers by a table, one answer after the other, and counts."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Answer."""
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "https://[::1]/", "https://10.1.2.3/", "https://169.254.169.254/latest/meta-data/",
     "https://[::ffff:127.0.0.1]/", "https://[64:ff9b::7f00:1]/", "https://localhost/"],
)  # fmt: skip
async def test_nothing_inside_is_called(url: str) -> None:
    """Addresses are refused whether they are written out or stand behind a name of this machine."""
    with pytest.raises(CallbackRefusedError, match=r"leads to (a|no) \S+ address"):
        await Outgoing().check(url)


async def test_a_name_of_this_machine_with_a_dot_behind_it_is_not_called_either() -> None:
    """Whether the system resolves it or not."""
    with pytest.raises(CallbackRefusedError):
        await Outgoing().check("https://localhost./")


async def test_one_address_inside_is_enough_to_refuse_a_name() -> None:
    """A name with a public and a private address would be a matter of chance."""
    outgoing = Outgoing(resolver=Names(["8.8.8.8", "192.168.0.1"]))

    with pytest.raises(CallbackRefusedError, match=r"'hooks\.example' leads to a private address") as refused:
        await outgoing.check("https://hooks.example/")

    assert "192.168" not in str(refused.value)


async def test_http_is_for_allowed_networks_only() -> None:
    """What goes over the open network is encrypted."""
    outgoing = Outgoing(allowed=LOOPBACK, resolver=Names(["8.8.8.8"]))

    with pytest.raises(CallbackRefusedError, match="by https only"):
        await outgoing.check("http://hooks.example/")
    assert (await outgoing.check("https://hooks.example/")).endpoint.host == "hooks.example"
    assert (await outgoing.check("http://127.0.0.1:9/")).endpoint.port == 9


async def test_a_name_that_leads_nowhere_is_told_from_one_that_cannot_be_resolved_now() -> None:
    """The first is the caller's mistake, the second is tried again."""

    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    async def away(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "try again")

    with pytest.raises(CallbackRefusedError, match="leads nowhere"):
        await Outgoing(resolver=unknown).check("https://hooks.example/")
    with pytest.raises(CallbackRefusedError, match="leads nowhere"):
        await Outgoing(resolver=Names([])).check("https://hooks.example/")
    with pytest.raises(NotResolvedError, match="cannot be resolved now"):
        await Outgoing(resolver=away).check("https://hooks.example/")


async def test_a_rebinding_name_is_called_where_it_was_checked() -> None:
    """The name is resolved once for each call: what it would lead to a moment later does not matter."""
    async with receiving() as receiver:
        names = Names(["127.0.0.1"], ["10.0.0.1"])
        outgoing = Outgoing(allowed=LOOPBACK, resolver=names)

        answer = await outgoing.post(receiver.url(host="rebind.example"), b"{}", {})
        with pytest.raises(CallbackRefusedError, match="a private address"):
            await outgoing.post(receiver.url(host="rebind.example"), b"{}", {})

    assert answer.status == 200
    assert names.asked == ["rebind.example", "rebind.example"]
    [received] = receiver.received
    assert received.headers["host"] == f"rebind.example:{receiver.port}"
    await outgoing.close()


async def test_a_redirect_is_not_followed() -> None:
    """Its target was not checked, and is called by nobody."""
    async with receiving() as inside, receiving(status(302, f"Location: {inside.url()}")) as receiver:
        outgoing = Outgoing(allowed=LOOPBACK)

        answer = await outgoing.post(receiver.url(), b"{}", {})

    assert answer.status == 302
    assert inside.received == []
    await outgoing.close()


async def test_an_answer_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole head, not for each byte of it."""
    monkeypatch.setattr(module, "ANSWER_TIMEOUT", timedelta(milliseconds=300))
    async with receiving(drip) as receiver:
        outgoing = Outgoing(allowed=LOOPBACK)
        began = time.monotonic()

        with pytest.raises((TimeoutError, httpx2.HTTPError)):
            await outgoing.post(receiver.url(), b"{}", {})

    assert time.monotonic() - began < 5
    await outgoing.close()


async def test_an_endless_answer_is_cut_off() -> None:
    """The status counts; of the body a bounded part is read and thrown away."""
    async with receiving(flood) as receiver:
        outgoing = Outgoing(allowed=LOOPBACK)
        began = time.monotonic()

        answer = await outgoing.post(receiver.url(), b"{}", {})

    assert answer.status == 200
    assert time.monotonic() - began < 5
    await outgoing.close()


async def test_tls_keeps_the_name_while_the_connection_goes_to_the_address() -> None:
    """The certificate is checked for the name in the URL, which SNI and Host carry; another one is refused."""
    authority = trustme.CA()
    server, trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("hooks.example").configure_cert(server)
    authority.configure_trust(trusted)
    asked_for: list[str | None] = []
    server.sni_callback = lambda _, name, __: asked_for.append(name)
    async with receiving(tls=server) as receiver:
        outgoing = Outgoing(allowed=LOOPBACK, resolver=Names(["127.0.0.1"]), tls=trusted)

        answer = await outgoing.post(receiver.url("/a?b=c", scheme="https", host="hooks.example"), b"{}", {"X-A": "b"})
        with pytest.raises(httpx2.ConnectError, match="certificate is not valid for"):
            await outgoing.post(receiver.url(scheme="https", host="other.example"), b"{}", {})
        with pytest.raises(httpx2.ConnectError, match="certificate verify failed"):
            await Outgoing(allowed=LOOPBACK).post(receiver.url(scheme="https"), b"{}", {})

    assert answer.status == 200
    assert asked_for[:2] == ["hooks.example", "other.example"]
    [received] = receiver.received
    assert received.line == "POST /a?b=c HTTP/1.1"
    assert received.headers["host"] == f"hooks.example:{receiver.port}"
    assert received.headers["x-a"] == "b"
    await outgoing.close()


async def test_the_next_address_is_tried_where_one_does_not_answer() -> None:
    """As a browser does; all of them were checked."""
    networks = [ipaddress.ip_network("127.0.0.0/8")]
    async with receiving() as receiver:
        outgoing = Outgoing(allowed=networks, resolver=Names(["127.0.0.2", "127.0.0.1"]))

        answer = await outgoing.post(receiver.url(host="two.example"), b"{}", {})

    assert answer.status == 200
    await outgoing.close()


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name once more, and could reach what we may not."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with receiving() as receiver:
        outgoing = Outgoing(allowed=LOOPBACK)

        answer = await outgoing.post(receiver.url(), b"{}", {})

    assert answer.status == 200
    await outgoing.close()
