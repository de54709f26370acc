"""API keys as an operator has them: made by the command line, taken by an API that is open to a network, revoked."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid
from collections.abc import Mapping
from datetime import timedelta

import httpx2
import pytest
from temporalio.testing import WorkflowEnvironment

from perdure.testing import eventually
from perdure_workers.dev import READY_TIMEOUT, child_environment, perdure_command, probe
from perdure_workers.dev_server import DevServer
from perdure_workers.ports import LOOPBACK, free_port
from perdure_workers.processes import ProcessGroup

pytestmark = pytest.mark.e2e


async def perdure(*arguments: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """Run a command that succeeds, and return what it prints and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_workers.cli", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out.decode(), err.decode()


async def test_a_key_from_its_making_to_its_end(env: WorkflowEnvironment) -> None:
    """No worker is there, and the API listens everywhere: the key is printed once, and works until it is revoked."""
    temporal = env.client.service_client.config.target_host
    org, port = f"acme-{uuid.uuid4().hex[:8]}", free_port()
    environment = {
        **child_environment(DevServer(port=int(temporal.rpartition(":")[2]))),
        "PERDURE_TASK_QUEUE": f"queue-{uuid.uuid4().hex[:12]}",
        "PERDURE_AUTH": "required",
    }
    options = ("--name", "shop", "--org", org, "--role", "support", "--expires", "90d", "--by", "ops")
    async with (
        ProcessGroup() as group,
        httpx2.AsyncClient(base_url=f"http://{LOOPBACK}:{port}", trust_env=False, timeout=20) as http,
    ):
        command = perdure_command("api", "--app", "support_desk", "--host", "0.0.0.0", "--port", str(port))
        api = await group.start("api", command, environment=environment)
        await api.wait_until(probe(f"http://{LOOPBACK}:{port}/healthz"), within=READY_TIMEOUT)

        stranger = await http.get("/v1/runs")
        printed, said = await perdure("keys", "create", *options, environment=environment)
        http.headers["Authorization"] = f"Bearer {printed.strip()}"
        started = await http.post("/v1/runs", json={"agent": "support", "input": "Where is my order?"})
        run = (await http.get(f"/v1/runs/{started.json()['run_id']}/events")).json()["items"][0]

        [key] = await eventually(lambda: _listed(org, environment), what="the key in the list")
        revoking = ("keys", "revoke", str(key["key_id"]), "--reason", "left the company", "--by", "ops")
        await perdure(*revoking, environment=environment)

        async def refused() -> bool:
            return (await http.get("/v1/runs")).status_code == 401

        await eventually(refused, within=timedelta(seconds=10), what="the refusal")
        table, _ = await perdure("keys", "list", "--org", org, environment=environment)
        [after] = await _listed(org, environment)

    assert (stranger.status_code, started.status_code, run["org"], run["user"]) == (401, 202, org, "shop")
    assert printed.count("\n") == 1
    assert "It is not shown again" in said
    assert printed.strip() not in said
    assert (key["state"], key["roles"], key["created_by"], "digest" in key) == ("active", ["support"], "ops", False)
    assert (after["state"], after["ended_because"]) == ("revoked", "by ops: left the company")
    assert "revoked by ops: left the company" in table
    assert not any("login_failed" in line and printed.strip() in line for line in api.tail)


async def test_a_key_is_made_for_programs_too(env: WorkflowEnvironment) -> None:
    """With --json; an operator's key is of no organisation."""
    temporal = env.client.service_client.config.target_host
    environment = child_environment(DevServer(port=int(temporal.rpartition(":")[2])))

    printed, _ = await perdure("keys", "create", "--name", "ops", "--all-orgs", "--json", environment=environment)

    made = json.loads(printed)
    assert made["key"].startswith(f"pdk_{made['key_id']}_")
    assert (made["org"], made["user"], made["scopes"]) == (None, "ops", ["runs:read", "runs:write"])


async def _listed(org: str, environment: Mapping[str, str]) -> list[dict[str, object]]:
    printed, _ = await perdure("keys", "list", "--org", org, "--json", environment=environment)
    found: list[dict[str, object]] = json.loads(printed)
    return found
