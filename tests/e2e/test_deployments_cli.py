"""`perdure deployments` as a program: what an operator sees and does between two builds."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from temporalio.client import Client

from perdure import App
from perdure.testing import eventually
from tests.harness import InProcessModel, agent, in_turns, pending, serving, start, wish

pytestmark = pytest.mark.e2e


async def perdure(client: Client, *arguments: str) -> tuple[int | None, str, str]:
    """Run a command without a terminal; return its code and what it says to whom."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "perdure_workers.cli", *arguments),
        *("--address", client.service_client.config.target_host),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


def builds(shown: str) -> dict[str, tuple[str, float]]:
    """Return state and part of new runs by build, of what `show --json` prints."""
    deployment: dict[str, Any] = json.loads(shown)
    return {build["build_id"]: (build["status"], build["percent"]) for build in deployment["builds"]}


async def test_an_operator_ramps_and_moves(client: Client) -> None:
    """Nothing changes without a yes; then new runs are split, and an open one can be moved."""
    name = f"shop-{uuid.uuid4().hex[:8]}"
    app = App()

    @app.tool(effect="once", approval="ask")
    def pay(order: str) -> str:
        """Pay."""
        return "paid"

    app.add(agent(tools=("pay",)))
    here = ("--deployment", name)
    version: dict[str, Any] = {"task_queue": name, "deployment_name": name}
    async with AsyncExitStack() as held:
        for build in ("v1", "v2"):
            model = InProcessModel(in_turns(wish(("pay", {"order": "A1"}))))
            settings = await held.enter_async_context(serving(client, app, model, **version, build_id=build))
        current = await perdure(client, "deployments", "current", "v1", "--yes", *here)
        run = await start(client, app, settings)
        await pending(run)
        refused = await perdure(client, "deployments", "ramp", "v2", "--percent", "25", *here)
        ramped = await perdure(client, "deployments", "ramp", "v2", "--percent", "25", "--yes", "--json", *here)
        query = f"WorkflowId = '{run.id}' AND TemporalWorkerDeploymentVersion = '{name}:v1'"
        move = ("deployments", "move", "--to", "v2", "--query", query, *here)

        async def counted() -> str:
            _, _, said = await perdure(
                client, "deployments", "move", "--to", "v2", "--query", query, "--dry-run", *here
            )
            return said if "1 would be moved" in said else ""

        dry = await eventually(counted, within=timedelta(seconds=20), what="the run in the list")
        moved = await perdure(client, *move, "--yes")
        listed = await perdure(client, "deployments", "list", "--json")
        await run.terminate()

    assert current[0] == 0
    assert "v1" in current[1]
    assert (refused[0], ramped[0], moved[0]) == (2, 0, 0)
    assert f"{name}: 25 % of new runs go to v2, the others to v1" in refused[2]
    assert "nothing was done" in refused[2]
    assert builds(ramped[1]) == {"v1": ("current", 75), "v2": ("ramping", 25)}
    assert "v1 → v2" in dry
    assert "1 of 1 runs go on with v2" in moved[2]
    assert name in [deployment["name"] for deployment in json.loads(listed[1])]
