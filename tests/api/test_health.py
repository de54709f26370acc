"""The probes, the agents, and the codec of the Temporal Web UI."""

from __future__ import annotations

import base64
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from google.protobuf.json_format import MessageToDict
from temporalio.api.common.v1 import Payload, Payloads
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from perdure.codec import ZstdCodec, data_converter
from perdure.testing import eventually
from perdure_api.pollers import polls
from perdure_workers.deployments import Deployments
from perdure_workers.dev_server import find_temporal
from tests.api.conftest import Api, required
from tests.harness import InProcessModel, answer, in_turns, serving


async def test_ready_means_that_a_run_would_go_on(api: Api) -> None:
    """Without a worker 503 says what is missing; with one it is 200."""
    before = await api.http.get("/readyz")
    async with api.worker(in_turns(answer("hello"))):

        async def ready() -> bool:
            return (await api.http.get("/readyz")).status_code == 200

        after = await eventually(ready, within=timedelta(seconds=10), what="a polling worker")

    assert (before.status_code, after) == (503, True)
    assert before.json()["type"] == "urn:perdure:problem:no-worker"
    assert "perdure worker" in before.json()["detail"]


async def test_what_is_down_is_named_and_since_when(client: Client, tmp_path: Path) -> None:
    """A moment stays while a thing is down; what runs can do without does not make the API unready."""
    (tmp_path / "file").touch()
    settings = required(
        redis_url="redis://:hush@127.0.0.1:1",
        audit_url=(tmp_path / "file" / "none").as_uri(),
        oidc={"issuer": "http://127.0.0.1:1", "audience": "perdure"},
    )
    api = Api(client, settings=settings)
    async with api.http:
        first = await api.http.get("/readyz")
        second = await api.http.get("/readyz")
        async with api.worker(in_turns(answer("hello"))):

            async def ready() -> Any:
                response = await api.http.get("/readyz")
                return response.json() if response.status_code == 200 else {}

            degraded = await eventually(ready, within=timedelta(seconds=10), what="a polling worker")

    assert first.status_code == 503
    assert [one["name"] for one in first.json()["down"]] == ["workers", "redis", "audit", "oidc"]
    assert first.json()["down"] == second.json()["down"]
    assert degraded["down"] == first.json()["down"][1:]
    assert "hush" not in str(degraded)


async def test_a_rate_that_no_worker_knows_is_told(api: Api) -> None:
    """Workers of an older app leave the queue of a tool's new rate to itself; 503 names it, until one serves it."""
    queue = f"{api.settings.task_queue}.tool.hurry"
    script = in_turns(answer("hello"))

    async def answered(status: int) -> Any:
        response = await api.http.get("/readyz")
        return response.json() if response.status_code == status else {}

    async with Api(api.temporal, settings=api.settings).worker(script):
        ready = await eventually(lambda: answered(200), what="a polling worker")

        @api.app.tool(rate="10/s")
        def hurry() -> str:
            """Hurry."""
            return "there"

        unready = await answered(503)
    async with api.worker(script):
        ready_again = await eventually(lambda: answered(200), what="a worker that polls both queues")

    assert ready["rated"] == {}
    assert queue in unready["detail"]
    assert list(ready_again["rated"]) == [queue]


async def test_a_hosts_own_workers_can_be_told_from_others(api: Api) -> None:
    """A container's health check counts the worker beside it and no other's."""
    async with api.worker(in_turns(answer("hello"))):

        async def here() -> bool:
            return await polls(api.temporal, api.settings.task_queue, host=socket.gethostname())

        await eventually(here, within=timedelta(seconds=10), what="a polling worker")
        elsewhere = await polls(api.temporal, api.settings.task_queue, host="elsewhere")

    assert not elsewhere


async def test_a_build_that_nobody_made_current_does_not_make_ready(api: Api) -> None:
    """Its workers poll and get nothing; 503 names it and the command, until it is current."""
    version = {"deployment_name": api.settings.task_queue, "build_id": "b1"}
    model = InProcessModel(in_turns(answer("hello")))
    async with serving(api.temporal, api.app, model, task_queue=api.settings.task_queue, **version):  # type: ignore[arg-type]  # mypy takes them for every option's

        async def named() -> str:
            response = await api.http.get("/readyz")
            detail: str = response.json().get("detail", "")
            return detail if response.status_code == 503 and "perdure deployments current" in detail else ""

        detail = await eventually(named, within=timedelta(seconds=10), what="the build in the answer")
        await Deployments(api.temporal).set_current(api.settings.task_queue, "b1")

        async def ready() -> bool:
            return (await api.http.get("/readyz")).status_code == 200

        assert await eventually(ready, within=timedelta(seconds=20), what="a build that gets new runs")

    assert "those of b1" in detail


async def test_a_probe_that_waits_for_a_worker_does_not_fill_the_log(api: Api) -> None:
    """Not to be ready yet is an answer, and no event: the log of a starting deployment stays readable."""
    with structlog.testing.capture_logs() as logged:
        response = await api.http.get("/readyz")

    assert response.status_code == 503
    assert logged == []


async def test_alive_needs_nobody(api: Api) -> None:
    """The process answers by itself."""
    response = await api.http.get("/healthz")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_agents_are_listed_with_their_tools(api: Api) -> None:
    """A caller sees what can be started, and what each tool does outside."""
    [agent] = (await api.get("/v1/agents"))["items"]

    assert (agent["name"], agent["version"], agent["default"]) == ("tester", "1", True)
    assert (agent["model"], agent["fallbacks"]) == ("in-process:scripted", [])
    assert [(tool["name"], tool["effect"], tool["approval"]) for tool in agent["tools"]] == [
        ("refund", "once", "ask"),
        ("look", "read", "allow"),
    ]


async def test_the_codec_unpacks_what_was_compressed(api: Api) -> None:
    """The Web UI, on an origin of its own, gets plain payloads; those that were plain stay as they are."""
    large = Payload(metadata={"encoding": b"json/plain"}, data=b'"' + b"x" * 50_000 + b'"')
    small = Payload(metadata={"encoding": b"json/plain"}, data=b'"y"')
    packed = await ZstdCodec().encode([large, small])

    response = await api.http.post(
        "/codec/decode",
        json=MessageToDict(Payloads(payloads=packed)),
        headers={"Origin": "http://127.0.0.1:8233", "X-Namespace": "default"},
    )

    assert len(packed[0].data) < 1000
    assert response.json() == MessageToDict(Payloads(payloads=[large, small]))
    assert response.headers["Access-Control-Allow-Origin"] == "*"


async def test_the_codec_alone_is_open_to_other_origins(api: Api) -> None:
    """A browser may call the codec from the Web UI's page, and nothing else from there."""
    preflight = {
        "Origin": "http://127.0.0.1:8233",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,x-namespace",
    }

    codec = await api.http.options("/codec/decode", headers=preflight)
    runs = await api.http.options("/v1/runs", headers=preflight)

    assert codec.status_code == 200
    assert "x-namespace" in codec.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Origin" not in runs.headers


BOMB = base64.b64encode(b"\x28\xb5\x2f\xfd\x00\x00\x00").decode()
WRONG: list[Any] = [
    {"payloads": [{"data": "not base64!"}]},
    {"payloads": [{"metadata": {"encoding": "YmluYXJ5L3BlcmR1cmUtenN0ZA=="}, "data": BOMB}]},
    {"payloads": ["text"]},
    {"payloads": [{"surprise": 1}]},
    {"payload": []},
    [],
]


@pytest.mark.parametrize("body", WRONG)
async def test_the_codec_refuses_what_is_damaged(api: Api, body: Any) -> None:
    """Anything but payloads is a problem."""
    response = await api.http.post("/codec/decode", json=body)

    assert response.status_code == 422
    assert response.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(("size", "count"), [(40_000_000, 1), (9_000_000, 2)])
async def test_the_codec_does_not_unpack_without_bounds(api: Api, size: int, count: int) -> None:
    """Small payloads that would fill the memory, or keep everybody else waiting, are refused."""
    [packed] = await ZstdCodec().encode([Payload(data=b"\0" * size)])

    response = await api.http.post("/codec/decode", json=MessageToDict(Payloads(payloads=[packed] * count)))

    assert response.status_code == 413


async def test_runs_can_be_started_on_a_fresh_server_before_any_worker() -> None:
    """The API registers what runs are found by as soon as Temporal answers."""
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=find_temporal(), dev_server_log_level="error", data_converter=data_converter()
    ) as env:
        api = Api(env.client)
        async with api.http, api.asgi.router.lifespan_context(api.asgi):
            run_id = await eventually(api.start, what="a started run")
            [run] = await api.listed(agent="tester")

    assert run["run_id"] == run_id
