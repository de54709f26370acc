"""Limits of requests: on every route, apart for what humans decide, and together over all replicas."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
import structlog.testing
from pydantic import SecretStr
from redis.asyncio import Redis
from temporalio.client import Client

from perdure.errors import SettingsError
from perdure.principal import Principal
from perdure.rate import Rate
from perdure.rate_limits import Act, RateLimits
from perdure.settings import Settings, load_settings
from perdure.testing import eventually
from perdure_api.rate_limiter import Bucket, RateLimiter, rate_limiter
from perdure_api.rate_limits import DECISIONS, buckets
from tests.api.conftest import Api, bearer, required
from tests.api.test_openapi import operations
from tests.harness import answer, in_turns
from tests.redis_server import RedisServer

ROUTES = [(method, path) for method, path, _ in operations() if path.startswith("/v1")]


@pytest.fixture(scope="module")
async def redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    async with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def limited(client: Client, **changes: Any) -> Api:
    """Return an API with limits while it is open: a caller is an address."""
    limits = RateLimits.model_validate({"enabled": True, **changes})
    api = Api(client)
    return Api(client, settings=api.settings.model_copy(update={"rate_limits": limits}))


def key(rate: str) -> dict[str, str]:
    """Return an allowance of that rate for one caller."""
    return {"key": rate}


def test_every_operation_says_that_it_may_refuse() -> None:
    """Whoever reads the document knows of 429, and that it tells when to come back."""
    found = [operation for _, path, operation in operations() if path.startswith("/v1")]

    assert len(found) > 10
    for operation in found:
        refusal = operation["responses"]["429"]
        assert list(refusal["content"]) == ["application/problem+json"]
        assert list(refusal["headers"]) == ["Retry-After"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_is_limited(client: Client, method: str, path: str) -> None:
    """Of two requests within a limit of one the second is refused, before anything else is looked at."""
    api = limited(client, read=key("1/h"), write=key("1/h"), decision=key("1/h"))
    address = re.sub(r"\{\w+\}", "nobody", path)

    async with api.http:
        first = await api.http.request(method, address, json=None if method == "GET" else {"nonsense": 1})
        second = await api.http.request(method, address, json=None if method == "GET" else {"nonsense": 1})

    assert first.status_code != 429
    assert (second.status_code, second.headers["Content-Type"]) == (429, "application/problem+json")
    assert second.json()["type"] == "urn:perdure:problem:rate-limited"
    assert 0 < int(second.headers["Retry-After"]) <= 3600
    written = {(method, path): operation["operationId"] for method, path, operation in operations()}[(method, path)]
    act = "read" if method == "GET" else "decision" if written in DECISIONS else "write"
    assert second.headers["RateLimit-Policy"] == f'"{act}-key";q=1;w=3600'
    assert re.fullmatch(f'"{act}-key";r=0;t=\\d+', second.headers["RateLimit"])


def test_what_is_a_decision_is_said_of_every_route_that_writes() -> None:
    """A new route by which humans step in is put among the decisions, or here."""
    writing = {
        operation["operationId"] for method, path, operation in operations() if path[:3] == "/v1" and method != "GET"
    }

    assert writing - DECISIONS == {
        "startRun",
        "forkRun",
        "retryRuns",
        "giveFeedback",
        "withdrawFeedback",
        "createSchedule",
        "changeSchedule",
        "resumeSchedule",
        "triggerSchedule",
        "backfillSchedule",
        "redeliver",
    }
    assert writing >= DECISIONS


async def test_a_limit_ends_with_its_window(client: Client) -> None:
    """What `Retry-After` says is so: a second later the next request is accepted."""
    api = limited(client, read=key("2/s"))

    async with api.http:

        async def get() -> httpx2.Response:
            return await api.http.get("/v1/agents")

        async def refused() -> httpx2.Response | None:
            response = await get()
            return response if response.status_code == 429 else None

        response = await eventually(refused, what="a refusal")
        await eventually(lambda: _is_ok(get), within=timedelta(seconds=5), what="an accepted request")

    assert response is not None
    assert response.headers["Retry-After"] in ("1", "2")
    assert "2/s" in response.json()["detail"]


async def test_reading_and_starting_never_lock_a_human_out(client: Client) -> None:
    """With the limits of reads and writes used up, a decision is still taken."""
    api = limited(client, read=key("3/h"), write=key("1/h"))

    async with api.http, api.worker(in_turns(answer("hello"))):
        run_id = await api.start()
        reads = [(await api.http.get(f"/v1/runs/{run_id}")).status_code for _ in range(5)]
        start = await api.http.post("/v1/runs", json={"agent": "tester", "input": "go"})
        decision = await api.http.post(
            f"/v1/runs/{run_id}/approvals/c1", json={"decision": "approve", "decided_by": "ann"}
        )

    assert reads == [200, 200, 200, 429, 429]
    assert start.status_code == 429
    assert decision.status_code in (404, 409)


async def test_answers_say_what_is_left(client: Client) -> None:
    """Also those that a route writes itself: a result that was waited for, and a stream, which counts once."""
    api = limited(client, read=key("10/h"))

    async with api.http, api.worker(in_turns(answer("hello"))):
        waited = await api.http.post("/v1/runs?wait=20", json={"agent": "tester", "input": "go"})
        run = waited.json()["run_id"]
        stream = await api.http.get(f"/v1/runs/{run}/events", headers={"Accept": "text/event-stream"})
        listed = await api.http.get("/v1/agents")

    assert waited.headers["RateLimit"].startswith('"write-key";r=599;t=')
    assert stream.text.count("event:") > 2
    assert stream.headers["RateLimit"].startswith('"read-key";r=9;t=')
    assert listed.headers["RateLimit"].startswith('"read-key";r=8;t=')


@pytest.mark.parametrize(
    ("auth", "enabled", "counted"), [("open", None, False), ("required", None, True), ("required", False, False)]
)
async def test_an_open_api_counts_only_if_it_is_told_to(
    client: Client, auth: str, enabled: bool | None, counted: bool
) -> None:
    """On a laptop nothing is in the way; where callers have keys, limits are on unless they are switched off."""
    api = Api(client, settings=required(auth=auth, rate_limits=RateLimits(enabled=enabled)))
    headers = bearer(await api.key("acme")) if auth == "required" else {}

    async with api.http:
        response = await api.http.get("/v1/agents", headers=headers)

    assert response.status_code == 200
    assert ("RateLimit" in response.headers) is counted


def caller(**changes: Any) -> Principal:
    """Return a caller with a key of an organisation."""
    return Principal.model_validate({"user": "ann", "org": "acme", "via": "key", "credential": "k1", **changes})


def counted(principal: Principal | None, act: Act = "read") -> dict[str, tuple[str, ...]]:
    """Return in which buckets a request is counted, and as whose."""
    return {one.policy: one.subject for one in buckets(RateLimits(), act, principal, address="127.0.0.1")}


def test_a_request_counts_for_key_user_and_organisation() -> None:
    """In that order, so that a refusal by a narrow one uses nothing up of a wide one."""
    assert list(counted(caller())) == ["read-key", "read-user", "read-org"]
    assert list(counted(caller(), "decision")) == ["decision-key", "decision-user", "decision-org"]
    assert list(counted(caller(org=None))) == ["read-key", "read-user"]
    assert list(counted(caller(via="oidc", credential="https://id.example"))) == ["read-user", "read-org"]
    assert list(counted(None)) == ["read-key"]


def test_callers_are_told_apart() -> None:
    """Two keys of a user share the user's limit; a user of another organisation or issuer is another one."""
    ann = counted(caller())
    other_key = counted(caller(credential="k2"))
    elsewhere = counted(caller(org="globex"))
    by_token = counted(caller(via="oidc", credential="https://id.example"))
    by_other_token = counted(caller(via="oidc", credential="https://id.other"))

    assert (other_key["read-key"] != ann["read-key"], other_key["read-user"] == ann["read-user"]) == (True, True)
    users = {one["read-user"] for one in (ann, elsewhere, by_token, by_other_token)}
    assert len(users) == 4
    assert elsewhere["read-org"] != ann["read-org"]
    open_caller = caller(via="open", org=None, credential="")
    assert counted(open_caller) == {"read-key": ("address", "127.0.0.1")}


async def test_keys_share_the_limits_of_their_user_and_organisation(client: Client) -> None:
    """A user's second key does not help the user, nor a second user the organisation; another one goes on."""
    limits = RateLimits.model_validate({"read": {"key": "2/h", "user": "3/h", "org": "5/h"}})
    api = Api(client, settings=required(rate_limits=limits))
    keys = {
        "ann": await api.key("acme", user="ann"),
        "ann again": await api.key("acme", user="ann"),
        "bob": await api.key("acme", user="bob"),
        "bob again": await api.key("acme", user="bob"),
        "elsewhere": await api.key("globex", user="ann"),
    }

    async with api.http:

        async def answers(name: str, count: int) -> list[httpx2.Response]:
            return [await api.http.get("/v1/agents", headers=bearer(keys[name])) for _ in range(count)]

        responses = [
            *await answers("ann", 3),
            *await answers("ann again", 2),
            *await answers("bob", 2),
            *await answers("bob again", 1),
            *await answers("elsewhere", 1),
        ]

    told = [re.findall(r"\((.*?)\)", one.json()["detail"]) if one.status_code == 429 else [] for one in responses]
    assert told == [[], [], ["read-key"], [], ["read-user"], [], [], ["read-org"], []]
    policy = '"read-key";q=2;w=3600, "read-user";q=3;w=3600, "read-org";q=5;w=3600'
    assert {one.headers["RateLimit-Policy"] for one in responses} == {policy}


async def test_who_is_refused_uses_up_nothing_of_the_others() -> None:
    """A user who goes on after being refused leaves the organisation's limit alone."""
    limiter = RateLimiter()
    narrow = Bucket("read-user", ("ann",), Rate.model_validate("2/h"))
    wide = Bucket("read-org", ("acme",), Rate.model_validate("4/h"))

    verdicts = [await limiter.count([narrow, wide]) for _ in range(50)]
    left = await limiter.count([wide])

    assert [verdict.refused for verdict in verdicts] == [False] * 2 + [True] * 48
    assert (left.refused, left.standings[0].remaining) == (False, 1)


async def test_replicas_count_together(client: Client, redis: RedisServer) -> None:
    """Behind a load balancer a limit is one limit, and what Redis holds tells nobody who called."""
    one = limited(client, read=key("3/h"))
    shared = one.settings.model_copy(update={"redis_url": SecretStr(redis.url)})
    replicas = [Api(client, settings=shared), Api(client, settings=shared)]

    statuses = []
    for number in range(5):
        statuses.append((await replicas[number % 2].http.get("/v1/agents")).status_code)
    for replica in replicas:
        await replica.asgi.state.rate_limiter.close()
    async with Redis.from_url(redis.url) as store:
        keys = [key.decode() async for key in store.scan_iter()]

    assert [key for key in keys if "127.0.0.1" in key or not key.startswith(f"perdure:{shared.task_queue}:")] == []
    assert statuses == [200, 200, 200, 429, 429]


async def test_without_its_redis_a_replica_counts_alone(tmp_path: Any) -> None:
    """Redis may hang and come back: requests are answered and still limited, and the log says so once."""
    bucket = [Bucket("read-key", ("k1",), Rate.model_validate("3/h"))]
    async with RedisServer(tmp_path) as redis:
        limiter = rate_limiter(Settings(redis_url=SecretStr(redis.url)))
        shared = [(await limiter.count(bucket)).refused for _ in range(4)]
        redis.hang()
        with structlog.testing.capture_logs() as logged:
            alone = [(await limiter.count(bucket)).refused for _ in range(5)]
        redis.go_on()

        async def together() -> bool:
            return (await limiter.count(bucket)).refused and not limiter.absence.lasts

        await eventually(together, within=timedelta(seconds=15), what="the shared count")
        await limiter.close()

    assert shared == [False, False, False, True]
    assert alone == [False, False, False, True, True]
    assert [line["event"] for line in logged] == ["rate_limits_not_shared"]


async def test_an_address_that_is_no_redis_stops_the_start(client: Client) -> None:
    """A mistake in the setting is told at once, and not with the first request."""
    with pytest.raises(SettingsError, match="PERDURE_REDIS_URL"):
        rate_limiter(Settings(redis_url=SecretStr("postgres://localhost")))


def test_limits_are_set_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One limit is changed or switched off by its own variable; the others stay; a wrong one is named."""
    monkeypatch.setenv("PERDURE_RATE_LIMITS__WRITE__USER", "20/m")
    monkeypatch.setenv("PERDURE_RATE_LIMITS__WRITE__ORG", "off")
    limits = load_settings().rate_limits
    monkeypatch.setenv("PERDURE_RATE_LIMITS__READ__KEY", "many")

    assert (str(limits.write.user), limits.write.org, limits.write.key) == ("20/m", None, RateLimits().write.key)
    assert limits.read == RateLimits().read
    with pytest.raises(SettingsError, match="PERDURE_RATE_LIMITS__READ__KEY"):
        load_settings()


async def _is_ok(get: Any) -> bool:
    return bool((await get()).status_code == 200)
