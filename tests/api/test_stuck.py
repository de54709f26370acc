"""Runs whose workflow code breaks: they are seen as such, and a fixed build has them go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from io import StringIO
from typing import Any

from rich.console import Console
from temporalio import workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import UnsandboxedWorkflowRunner, Worker

from perdure.codec import data_converter
from perdure.contracts import WORKFLOW_NAME, RunResult
from perdure.encryption import Keyring, new_key
from perdure.testing import eventually
from perdure_api.gateway import Gateway
from perdure_workers.cli.actions.runs import print_state
from perdure_workflows.state import RunArguments
from tests.api.conftest import Api
from tests.harness import answer, in_turns, wish

REFUND = wish(("refund", {"order": "o1", "amount": 5}))
PATIENCE = timedelta(seconds=30)
"""The SDK tells the server of a task's first failure only; those after it take their ten seconds."""


@workflow.defn(name=WORKFLOW_NAME)
class BrokenRun:
    """The run of a build that has a bug."""

    @workflow.run
    async def run(self, arguments: RunArguments) -> RunResult:
        """Break."""
        raise LookupError(f"no such tool: {arguments.spec.tools[7]!r}")

    @workflow.signal
    def approve(self, decision: dict[str, Any]) -> None:
        """Take a decision in."""


@asynccontextmanager
async def broken(client: Client, task_queue: str) -> AsyncIterator[None]:
    """Serve runs by that build."""
    runner = UnsandboxedWorkflowRunner()
    async with Worker(client, task_queue=task_queue, workflows=[BrokenRun], workflow_runner=runner):
        yield


async def test_a_run_that_its_code_breaks_is_seen_and_goes_on_with_a_fixed_build(env: WorkflowEnvironment) -> None:
    """It says what breaks, how often and since when, also where that is encrypted; lists find it; and once the bug is
    gone it ends as if nothing had been."""
    keyring = Keyring({"k": new_key()}, current="k")
    api = Api(await env.connect_client(data_converter=data_converter(keyring=keyring)))
    script = in_turns(REFUND, answer("You have it back."))

    async def stuck(attempts: int) -> dict[str, Any]:
        run: dict[str, Any] = await api.get(f"/v1/runs/{run_id}")
        return run if run["stuck"] and run["stuck"]["attempts"] >= attempts else {}

    async def listed(run_id: str) -> bool:
        return run_id in [run["run_id"] for run in (await api.get("/v1/runs", stuck=True))["items"]]

    async with api.http:
        async with api.worker(script):
            run_id = await api.start()
            approval = await api.approval(run_id)
            well = await api.get(f"/v1/runs/{run_id}")
        async with broken(api.temporal, api.settings.task_queue):
            await api.http.post(
                f"/v1/runs/{run_id}/approvals/{approval['approval_id']}",
                json={"decision": "approve", "decided_by": "ann"},
            )
            once = await eventually(lambda: stuck(1), within=PATIENCE, what="the first failure")
            twice = await eventually(lambda: stuck(2), within=PATIENCE, what="the second one")
            await eventually(lambda: listed(run_id), what="the run in the list")
            others = [run["run_id"] for run in (await api.get("/v1/runs", stuck=False, agent="tester"))["items"]]
            said = Console(file=StringIO(), width=80)
            print_state(await Gateway(api.temporal, api.app, api.settings).runs.get(run_id), said)
            page = (await api.http.get(f"/console/runs/{run_id}")).text
        async with api.worker(script):
            ended = await api.ended(run_id)
            still_listed = await listed(run_id)

    assert well["stuck"] is None
    assert (once["status"], once["live"], once["stuck"]["attempts"]) == ("waiting", False, 1)
    trouble = twice["stuck"]
    assert trouble["cause"] == "workflow_worker_unhandled_failure"
    assert trouble["error"] == {"type": "IndexError", "message": "tuple index out of range"}
    assert trouble["since"] == once["stuck"]["since"]
    assert datetime.fromisoformat(trouble["since"]) > datetime.fromisoformat(well["started_at"])
    assert run_id not in others
    assert "IndexError" in page
    assert isinstance(said.file, StringIO)
    assert "broke 2 times, by IndexError: tuple index out of range" in said.file.getvalue()
    assert (ended["status"], ended["output"], ended["stuck"]) == ("completed", "You have it back.", None)
    assert not still_listed
