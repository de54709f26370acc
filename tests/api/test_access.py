"""Who calls: keys and tokens that count, for how long what is known of them is kept, and whom an open API serves."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
import structlog
from starlette.requests import Request
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from perdure.api_key import KeyText, workflow_id
from perdure.codec import data_converter
from perdure.connection import connect
from perdure.encryption import Keyring, new_key
from perdure.principal import Scope
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_api import access, live
from perdure_api.access import authorise
from perdure_api.application import create_app
from perdure_api.keys import Revocation
from perdure_api.logins import LoginFailure
from tests.api.conftest import Api, bearer, required, shop
from tests.api.issuer import TestIssuer, serving_issuer
from tests.harness import in_turns, wish

REVOCATION = Revocation(by="ops", reason="lost")


class Noted:
    """Remembers failed logins."""

    def __init__(self) -> None:
        self.failures: list[LoginFailure] = []

    async def record(self, failure: LoginFailure) -> None:
        """Take note."""
        self.failures.append(failure)


@pytest.fixture
def noted() -> Noted:
    """Whoever is told of failed logins."""
    return Noted()


@pytest.fixture
async def issuer() -> AsyncIterator[TestIssuer]:
    """An issuer of tokens."""
    async with serving_issuer() as issuer:
        yield issuer


def parsed(text: str) -> KeyText:
    """Return a key's parts."""
    key = KeyText.parse(text)
    assert key is not None
    return key


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "192.0.2.1"}, 403),
        ({"Host": "["}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "null"}, 403),
        ({"X-Forwarded-For": "192.0.2.1"}, 403),
        ({"Forwarded": "for=192.0.2.1"}, 403),
    ],
)
async def test_an_open_api_serves_this_machine_only(api: Api, headers: dict[str, str], status: int) -> None:
    """A Host or Origin that is anything else, even no address at all, or a proxy's header is answered 403."""
    response = await api.http.get("/v1/agents", headers=headers)

    assert response.status_code == status


async def test_who_has_a_key_may_be_anywhere(client: Client) -> None:
    """The probes, and the documents, need none."""
    api = Api(client, settings=required())
    key = await api.key("acme")
    transport = httpx2.ASGITransport(app=api.asgi)

    async with httpx2.AsyncClient(transport=transport, base_url="https://perdure.example") as http:
        agents = await http.get("/v1/agents", headers={**bearer(key), "Origin": "https://console.example"})
        open_ones = [await http.get(path) for path in ("/healthz", "/docs", "/openapi.json")]

    assert [response.status_code for response in (agents, *open_ones)] == [200] * 4


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_the_scheme_is_read_as_http_has_it(keyed: Api, scheme: str) -> None:
    """Its case, and blanks behind it, mean nothing."""
    response = await keyed.http.get("/v1/agents", headers={"Authorization": f"{scheme} {await keyed.key('acme')}"})

    assert response.status_code == 200


async def test_a_revoked_key_stops_working(keyed: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once where nobody has just asked for it, elsewhere when what was kept of it is old."""
    text = await keyed.key("acme")
    known = await keyed.http.get("/v1/agents", headers=bearer(text))

    await keyed.keys.revoke(parsed(text).key_id, REVOCATION)
    replica = Api(keyed.temporal, settings=keyed.settings)
    async with replica.http:
        elsewhere = await replica.http.get("/v1/agents", headers=bearer(text))

    async def refused() -> bool:
        return (await keyed.http.get("/v1/agents", headers=bearer(text))).status_code == 401

    began = time.monotonic()
    await eventually(refused, within=access.KEYS_KEPT_FOR + timedelta(seconds=2), what="the refusal")
    assert (known.status_code, elsewhere.status_code) == (200, 401)
    assert "revoked" in elsewhere.json()["detail"]
    assert time.monotonic() - began <= access.KEYS_KEPT_FOR.total_seconds() + 1


async def test_an_expired_key_stops_working_though_it_is_kept(keyed: Api) -> None:
    """Its end is part of what is known of it."""
    text = await keyed.key("acme", expires="3s")
    first = await keyed.http.get("/v1/agents", headers=bearer(text))

    async def refused() -> str:
        response = await keyed.http.get("/v1/agents", headers=bearer(text))
        detail: str = response.json().get("detail", "")
        return detail if response.status_code == 401 else ""

    said = await eventually(refused, within=timedelta(seconds=20), what="the refusal")
    assert (first.status_code, said) == (200, "the API key has expired")


async def test_a_flood_of_one_key_asks_temporal_once(keyed: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A known key as an unknown one, whatever secrets come with it, at once and one after the other."""
    asked: list[str] = []
    describe = type(keyed.temporal.workflow_service).describe_workflow_execution

    async def counting(self: Any, request: Any, **options: Any) -> Any:
        asked.append(request.execution.workflow_id)
        return await describe(self, request, **options)

    monkeypatch.setattr(type(keyed.temporal.workflow_service), "describe_workflow_execution", counting)
    known, unknown = await keyed.key("acme"), KeyText.new()
    texts = [known, unknown.text, *(KeyText(unknown.key_id, KeyText.new().secret).text for _ in range(3))] * 10

    responses = await asyncio.gather(*(keyed.http.get("/v1/agents", headers=bearer(text)) for text in texts))
    later = [await keyed.http.get("/v1/agents", headers=bearer(text)) for text in texts]

    assert sorted(asked) == sorted([workflow_id(parsed(known).key_id), workflow_id(unknown.key_id)])
    assert [response.status_code for response in responses] == [response.status_code for response in later]
    assert [response.status_code for response in responses].count(200) == 10


async def test_without_temporal_or_issuer_nobody_is_refused_but_nobody_served(issuer: TestIssuer) -> None:
    """Whether a key or token counts cannot be told: 503, and the client tries again."""
    lazy = await connect(Settings(), address="127.0.0.1:1", lazy=True)
    app = create_app(shop(), required(oidc=issuer.settings()), client=lazy)
    issuer.broken = True

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://localhost") as http:
        by_key = await http.get("/v1/agents", headers=bearer(KeyText.new().text))
        by_token = await http.get("/v1/agents", headers=bearer(issuer.token()))
        garbage = await http.get("/v1/agents", headers=bearer("garbage"))

    assert [by_key.status_code, by_token.status_code, garbage.status_code] == [503, 503, 401]
    assert by_key.json()["type"] == "urn:perdure:problem:server-unreachable"
    assert by_token.json()["type"] == "urn:perdure:problem:issuer-unreachable"
    assert by_key.headers["Retry-After"] == by_token.headers["Retry-After"] == "1"


async def test_a_key_whose_record_cannot_be_read_tells_nothing_of_the_keys_there_are(
    env: WorkflowEnvironment, noted: Noted
) -> None:
    """It may well count: that is the operator's mistake, not a failed login."""
    client = await env.connect_client(data_converter=data_converter(keyring=Keyring({"lost-2025": new_key()})))
    text = await Api(client, settings=required()).key("acme")
    api = Api(env.client, settings=required(), login_failures=noted)

    async with api.http:
        response = await api.http.get("/v1/agents", headers=bearer(text))

    assert (response.status_code, response.json()["type"]) == (502, "urn:perdure:problem:perdure")
    assert "lost-2025" not in response.text
    assert noted.failures == []


async def test_failed_logins_are_told(client: Client, issuer: TestIssuer, noted: Noted) -> None:
    """With reason, key and address; a request without a key is no login, and a lack of scopes no failure."""
    api = Api(client, settings=required(oidc=issuer.settings()), login_failures=noted)
    key = parsed(await api.key("acme", scopes=["audit:read"]))
    revoked = parsed(await api.key("acme"))
    await api.keys.revoke(revoked.key_id, REVOCATION)
    expired = parsed(await api.key("acme", expires="0.01s"))
    unknown = KeyText.new()
    tried = {
        "garbage": ("malformed", ""),
        "pdk_garbage": ("malformed", ""),
        unknown.text: ("unknown_key", unknown.key_id),
        KeyText(key.key_id, unknown.secret).text: ("wrong_secret", key.key_id),
        revoked.text: ("revoked_key", revoked.key_id),
        expired.text: ("expired_key", expired.key_id),
        issuer.token(exp=1): ("expired_token", issuer.url),
        issuer.token(aud="nobody"): ("invalid_token", issuer.url),
    }

    async with api.http:
        for text in tried:
            assert (await api.http.get("/v1/agents", headers=bearer(text))).status_code == 401
        await api.http.get("/v1/agents")
        await api.http.get("/v1/agents", headers=bearer(key.text))

    assert [(failure.reason, failure.credential) for failure in noted.failures] == list(tried.values())
    assert {failure.address for failure in noted.failures} == {"127.0.0.1"}
    assert [failure.org for failure in noted.failures] == [None, None, None, "acme", "acme", "acme", None, None]


async def test_tokens_are_refused_where_no_issuer_is_configured(
    client: Client, issuer: TestIssuer, noted: Noted
) -> None:
    """However well they are signed."""
    api = Api(client, settings=required(), login_failures=noted)

    async with api.http:
        response = await api.http.get("/v1/agents", headers=bearer(issuer.token()))

    assert (response.status_code, noted.failures[0].reason) == (401, "tokens_not_accepted")


async def test_no_secret_is_logged(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """The log has the key's id and the reason, and neither answers nor log have what was sent."""
    api = Api(client, settings=required())
    key = parsed(await api.key("acme"))
    sent = [KeyText(key.key_id, KeyText.new().secret).text, "pdk_garbage-garbage", "eyJhbGciOiJub25lIn0.eyJhIjoxfQ."]

    with structlog.testing.capture_logs() as logged:
        async with api.http:
            answers = [await api.http.get("/v1/agents", headers=bearer(text)) for text in sent]

    failed = [entry for entry in logged if entry["event"] != "request"]
    assert [(entry["event"], entry["log_level"]) for entry in failed] == [("login_failed", "warning")] * 3
    assert (failed[0]["reason"], failed[0]["credential"]) == ("wrong_secret", key.key_id)
    told = json.dumps(logged) + "".join(answer.text for answer in answers) + "".join(capsys.readouterr())
    assert not any(text.rpartition("_")[2] in told for text in sent)


async def test_a_known_key_costs_far_less_than_a_millisecond(keyed: Api) -> None:
    """Who calls is known at once, in at least half of a thousand requests."""
    request = Request(
        {"type": "http", "headers": [(b"authorization", bearer(await keyed.key("acme"))["Authorization"].encode())]}
    )
    await authorise(keyed.asgi.state.access, request, Scope.RUNS_READ)

    took: list[float] = []
    for _ in range(1001):
        began = time.perf_counter()
        await authorise(keyed.asgi.state.access, request, Scope.RUNS_READ)
        took.append(time.perf_counter() - began)

    assert sorted(took)[500] < 0.0005


async def test_a_stream_ends_when_its_caller_may_no_longer_listen(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A revoked key follows nothing for long; the client that comes back is told why."""
    monkeypatch.setattr(access, "KEYS_KEPT_FOR", timedelta(0))
    monkeypatch.setattr(live, "AUTHORISED_SECONDS", 0.2)
    api = Api(client, settings=required())
    text = await api.key("acme")
    headers = {**bearer(text), "Accept": "text/event-stream"}
    async with api.http, api.worker(in_turns(wish(("refund", {"order": "o1", "amount": 5})))):
        api.http.headers.update(bearer(text))
        run_id = await api.start()
        await api.approval(run_id)
        async with api.server() as (_, url, _), httpx2.AsyncClient(trust_env=False) as http:
            async with http.stream("GET", f"{url}/v1/runs/{run_id}/events", headers=headers, timeout=20) as response:
                lines = response.aiter_lines()
                seen = [line async for line in _until(lines, "approval.asked")]
                await api.keys.revoke(parsed(text).key_id, REVOCATION)
                async with asyncio.timeout(10):
                    rest = [line async for line in lines]
            again = await http.get(f"{url}/v1/runs/{run_id}/events", headers=headers)

    assert response.status_code == 200
    assert any("run.started" in line for line in seen)
    assert not any("run.ended" in line for line in rest)
    assert again.status_code == 401


async def _until(lines: AsyncIterator[str], kind: str) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        if line == f"event: {kind}":
            return
