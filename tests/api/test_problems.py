"""Errors: every one is a problem (RFC 9457) with its right status, and none tells internals."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
from temporalio.client import Client

from perdure.connection import connect
from perdure.errors import PerdureError
from perdure.settings import Settings
from perdure_api.agents import Agents
from perdure_api.application import create_app
from perdure_api.problems import STATUSES
from tests.api.conftest import Api, shop


def over_asgi(app: Any, *, base_url: str = "http://localhost") -> httpx2.AsyncClient:
    """Return a client of an application in this process."""
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app, raise_app_exceptions=False), base_url=base_url)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing/here", 404),
        ("GET", "/v1", 404),
        ("DELETE", "/v1/runs", 405),
        ("PUT", "/healthz", 405),
        ("GET", "/codec/decode", 405),
    ],
)
async def test_what_is_not_there_is_a_problem(api: Api, method: str, path: str, status: int) -> None:
    """Unknown paths and methods answer like everything else."""
    response = await api.http.request(method, path)

    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["status"] == status
    assert path in response.json()["detail"]


async def test_a_problem_names_each_wrong_field(api: Api) -> None:
    """All mistakes of a request come in one answer, each with its place."""
    response = await api.http.post("/v1/runs", json={"agent": "a b", "limits": {"max_steps": 0}, "colour": "red"})

    fields = {error["field"] for error in response.json()["errors"]}
    assert fields == {"body.agent", "body.input", "body.limits.max_steps", "body.colour"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"agent":', "body.9: is not JSON: Expecting value"),
        (b'"text"', "body: must be a JSON object, sent with 'Content-Type: application/json'"),
        (b'{"agent":"tester","input":""}', "body.input: String should have at least 1 character"),
        (b'{"agent":"tester","input":"a\\u0000b"}', "body.input: holds a control character such as NUL"),
        (b'{"agent":"tester","input":"a","user":"\\"ann\\""}', "body.user: runs cannot be found by it; write one line"),
    ],
)
async def test_a_problem_says_what_would_be_right(api: Api, body: bytes, said: str) -> None:
    """A refusal is in words; no pattern has to be read for it."""
    response = await api.http.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})

    assert response.status_code == 422
    assert response.json()["detail"].startswith(said)


async def test_a_body_is_not_read_beyond_its_limit(api: Api) -> None:
    """A body that does not declare its size is refused when it is too long, without its end being waited for."""
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while True:
            sent += 65_536
            yield b"x" * 65_536

    async with asyncio.timeout(10):
        response = await api.http.post("/v1/runs", content=endless(), headers={"Content-Type": "application/json"})

    assert response.status_code == 413
    assert sent < 6_000_000
    assert await api.started() == 0


async def test_a_mistake_of_the_server_tells_nothing_of_its_insides(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that nobody foresaw is a 500 without its message."""

    def broken(_: Any) -> Any:
        raise ValueError("the password is xyzzy")

    monkeypatch.setattr(Agents, "list", broken)

    response = await api.http.get("/v1/agents")

    assert response.status_code == 500
    assert response.headers["Content-Type"] == "application/problem+json"
    assert "xyzzy" not in response.text


def test_every_error_of_ours_has_a_status() -> None:
    """Each class of the error tree finds its row in the table."""

    def tree(kind: type[PerdureError]) -> list[type[PerdureError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]

    assert all(any(parent in STATUSES for parent in kind.__mro__) for kind in tree(PerdureError))


async def test_an_open_api_answers_this_machine_only(client: Client) -> None:
    """A web page that rebinds its name to loopback, or posts from its own origin, gets 403 and starts nothing."""
    api = Api(client)
    body = {"agent": "tester", "input": "go"}

    async with over_asgi(api.asgi, base_url="http://evil.example:8000") as rebound, api.http as http:
        responses = [
            await rebound.post("/v1/runs", json=body),
            await http.post("/v1/runs", json=body, headers={"Origin": "http://evil.example"}),
            await http.post("/v1/runs", json=body, headers={"Origin": "null"}),
        ]
        own = await http.get("/v1/agents", headers={"Origin": "http://localhost"})

    assert {response.status_code for response in responses} == {403}
    assert own.status_code == 200
    assert await api.started() == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no address:7233"])
async def test_without_temporal_the_api_says_so(address: str) -> None:
    """It starts, is alive, is not ready, and answers 503 where it needs Temporal; agents need none."""
    lazy = await connect(Settings(), address=address, lazy=True)
    app = create_app(shop(), Settings(), client=lazy)

    async with over_asgi(app) as http, app.router.lifespan_context(app):
        statuses = {
            path: (await http.get(path)).status_code
            for path in ("/healthz", "/readyz", "/v1/agents", "/v1/runs", "/v1/runs/run-0", "/v1/approvals")
        }
        start = await http.post("/v1/runs", json={"agent": "tester", "input": "go"})
        down = [(await http.get("/readyz")).json()["down"] for _ in range(2)]

    assert [one["name"] for one in down[0]] == ["temporal"]
    assert down[0][0]["since"] == down[1][0]["since"]
    assert statuses == {
        "/healthz": 200,
        "/readyz": 503,
        "/v1/agents": 200,
        "/v1/runs": 503,
        "/v1/runs/run-0": 503,
        "/v1/approvals": 503,
    }
    assert (start.status_code, start.json()["type"]) == (503, "urn:perdure:problem:server-unreachable")
