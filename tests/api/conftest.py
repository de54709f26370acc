"""A shop's app behind the API: over ASGI, or by a real server; with a worker or without one."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx2
import pytest
import uvicorn
from fastapi import FastAPI
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment

from perdure import App, Limits, ToolContext
from perdure.codec import data_converter
from perdure.deltas import DeltaBus
from perdure.principal import Scope
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_api.application import create_app
from perdure_api.keys import ApiKeys, NewKey
from perdure_api.logins import LoginFailures
from perdure_workers.dev_server import find_temporal, server_arguments
from tests.harness import InProcessModel, Script, agent, serving


def shop(**changes: Any) -> App:
    """An app whose agent may look orders up, and refund them after an approval."""
    app = App()

    @app.tool(effect="once", approval="ask")
    async def refund(ctx: ToolContext, order: str, amount: int) -> str:
        """Pay back."""
        return f"refunded {amount} for {order}"

    @app.tool()
    def look(order: str) -> str:
        """Look an order up."""
        return f"{order} is paid"

    app.add(agent(tools=("refund", "look"), **changes))
    return app


@dataclass
class Api:
    """The API of one task queue."""

    temporal: Client
    app: App = field(default_factory=shop)
    settings: Settings = field(default_factory=lambda: Settings(task_queue=f"queue-{uuid.uuid4().hex[:12]}"))
    login_failures: LoginFailures | None = None
    deltas: DeltaBus | None = None
    http: httpx2.AsyncClient = field(init=False)
    asgi: FastAPI = field(init=False)

    def __post_init__(self) -> None:
        self.asgi = create_app(
            self.app, self.settings, client=self.temporal, login_failures=self.login_failures, deltas=self.deltas
        )
        transport = httpx2.ASGITransport(app=self.asgi, raise_app_exceptions=False)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://localhost")

    async def start(self, **fields: Any) -> str:
        """Start a run and return its id."""
        response = await self.http.post("/v1/runs", json={"agent": "tester", "input": "go", **fields})
        assert response.status_code == 202, response.text
        run_id: str = response.json()["run_id"]
        return run_id

    @property
    def keys(self) -> ApiKeys:
        """The keys that it takes."""
        return ApiKeys(self.temporal, task_queue=self.settings.task_queue)

    async def key(self, org: str | None, **changes: Any) -> str:
        """Make a key of ann with every scope, but for these changes, and return it as its holder sends it."""
        new = NewKey.model_validate({"name": "ann", "org": org, "scopes": tuple(Scope), **changes})
        key, _ = await self.keys.create(new, by="the test")
        return key.text

    async def get(self, path: str, **query: Any) -> Any:
        """Return what a path answers, which must be a success."""
        response = await self.http.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()

    async def started(self) -> int:
        """Return how many runs the task queue has ever been given, by visibility."""
        queue = self.settings.task_queue
        return (await self.temporal.count_workflows(f"WorkflowType = 'AgentRun' AND TaskQueue = '{queue}'")).count

    async def listed(self, count: int = 1, **query: Any) -> list[dict[str, Any]]:
        """Wait until so many runs are listed, and return them."""

        async def page() -> list[dict[str, Any]]:
            items: list[dict[str, Any]] = (await self.get("/v1/runs", **query))["items"]
            return items if len(items) >= count else []

        return await eventually(page, what=f"{count} runs in the list")

    async def approval(self, run_id: str) -> dict[str, Any]:
        """Wait until the run asks a human, and return the question."""

        async def asked() -> dict[str, Any]:
            pending = (await self.get(f"/v1/runs/{run_id}"))["pending_approvals"]
            return pending[0] if pending else {}

        return await eventually(asked, within=timedelta(seconds=20), what="the approval")

    async def ended(self, run_id: str) -> dict[str, Any]:
        """Wait until the run is over, and return it."""

        async def over() -> dict[str, Any]:
            run: dict[str, Any] = await self.get(f"/v1/runs/{run_id}")
            return run if run["ended_at"] else {}

        return await eventually(over, within=timedelta(seconds=20), what="the run's end")

    @asynccontextmanager
    async def worker(self, model: Script | InProcessModel) -> AsyncIterator[None]:
        """Run a worker whose model answers by a script, or is one of its own."""
        queue = self.settings.task_queue
        model = model if isinstance(model, InProcessModel) else InProcessModel(model)
        async with serving(self.temporal, self.app, model, task_queue=queue, cached_runs=100, deltas=self.deltas):
            yield

    @asynccontextmanager
    async def server(self) -> AsyncIterator[tuple[uvicorn.Server, str, asyncio.Task[None]]]:
        """Serve the API by a real HTTP server on loopback."""
        server = uvicorn.Server(uvicorn.Config(self.asgi, log_level="error", timeout_graceful_shutdown=10))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await eventually(lambda: server.started, what="the server")
                yield server, f"http://127.0.0.1:{listener.getsockname()[1]}", serving
            finally:
                server.should_exit = True
                await serving


def bearer(text: str) -> dict[str, str]:
    """Return the header in which a key or token is sent."""
    return {"Authorization": f"Bearer {text}"}


def required(**changes: Any) -> Settings:
    """Return the settings of an API that asks who calls, with a task queue of its own."""
    return Settings(**{"auth": "required", "task_queue": f"queue-{uuid.uuid4().hex[:12]}", **changes})


@pytest.fixture
async def keyed(client: Client) -> AsyncIterator[Api]:
    """The shop's API, for who has a key."""
    api = Api(client, settings=required())
    async with api.http:
        yield api


@pytest.fixture
async def api(client: Client) -> AsyncIterator[Api]:
    """The shop's API; nobody serves its runs unless the test starts a worker."""
    api = Api(client)
    async with api.http:
        yield api


@pytest.fixture
async def restless() -> AsyncIterator[Api]:
    """The API of the shop before a server that suggests continue-as-new every other step; runs may take many."""
    suggestions = {"limit.historyCount.suggestContinueAsNew": "20", "history.continueAsNewMinInterval": '"10ms"'}
    options = [part for name, value in suggestions.items() for part in ("--dynamic-config-value", f"{name}={value}")]
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=find_temporal(),
        dev_server_extra_args=[*server_arguments(), *options],
        dev_server_log_level="error",
        data_converter=data_converter(),
    ) as env:
        api = Api(env.client, app=shop(limits=Limits(max_steps=500)))
        async with api.http:
            yield api
