"""`perdure api` as a process: what is open when it is asked to stop."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta

import httpx2
import pytest
from temporalio.testing import WorkflowEnvironment

from perdure_workers.dev import child_environment, start_api
from perdure_workers.dev_server import DevServer
from perdure_workers.ports import LOOPBACK, free_port
from perdure_workers.processes import ProcessGroup

pytestmark = pytest.mark.e2e


async def test_a_stopping_api_lets_its_event_streams_end(env: WorkflowEnvironment) -> None:
    """A client whose run waits sees the stream end, instead of breaking off when the grace is over."""
    temporal = env.client.service_client.config.target_host
    server = DevServer(port=int(temporal.rpartition(":")[2]))
    environment = {**child_environment(server), "PERDURE_TASK_QUEUE": f"queue-{uuid.uuid4().hex[:12]}"}
    port = free_port()
    async with (
        ProcessGroup() as group,
        httpx2.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, timeout=20) as http,
    ):
        child = await start_api(group, port=port, app="support_desk", environment=environment)
        run = (await http.post("/v1/runs", json={"agent": "support", "input": "Where is my order?"})).json()
        stream = {"Accept": "text/event-stream"}
        async with http.stream("GET", f"/v1/runs/{run['run_id']}/events", headers=stream) as response:
            lines = response.aiter_lines()
            begun = await anext(lines)

            stopping = asyncio.create_task(child.stop(grace=timedelta(seconds=30)))
            rest = [begun, *[line async for line in lines]]
            code = await stopping

    assert "event: run.started" in rest
    assert code == 0, child.tail
