"""Records the histories of the auditor that `test_auditor_replay` replays: `python -m tests.replay.record_auditor`.

As for runs, a released history is never recorded anew.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Final

from temporalio.client import Client, WorkflowExecutionStatus
from temporalio.testing import WorkflowEnvironment

from perdure import App
from perdure.audit.contracts import AUDITOR_ID
from perdure.audit.login import LOGIN_FAILED, FailedLoginBatch, FailedLogins
from perdure.codec import data_converter
from perdure.history import export
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_activities.audit import activity
from perdure_workers.dev_server import find_temporal, server_arguments
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from tests.harness import InProcessModel, agent, answer, in_turns
from tests.replay.record import IDENTITY

HISTORIES: Final = Path(__file__).parent / "auditor"
FILLS_UP: Final = ("limit.historyCount.suggestContinueAsNew=20", 'history.continueAsNewMinInterval="10ms"')
SIGNALS: Final = 8


async def record(name: str, *, signals: int, suggestions: tuple[str, ...] = ()) -> None:
    """Record an execution from its start until it continues as new."""
    given = [part for one in suggestions for part in ("--dynamic-config-value", one)]
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=find_temporal(),
        dev_server_extra_args=[*server_arguments(), *given],
        dev_server_log_level="error",
        data_converter=data_converter(),
        identity=IDENTITY,
    ) as env:
        with tempfile.TemporaryDirectory() as folder:
            execution_id = await _execution(env.client, Path(folder), signals)
            history = await env.client.get_workflow_handle(AUDITOR_ID, run_id=execution_id).fetch_history()
            path = HISTORIES / f"{name}.json"
            path.write_text(export([history]) + "\n")
            print(f"{path.name}: {len(history.events)} events")


async def _execution(client: Client, folder: Path, signals: int) -> str:
    """Have an auditor work, and return its first execution once that is over."""
    app = App()
    app.add(agent())
    settings = Settings(audit_url=folder.as_uri(), audit_interval_seconds=0.1)
    plugin = Perdure(app, settings=settings, providers={"in-process": InProcessModel(in_turns(answer("done")))})
    handle = client.get_workflow_handle(AUDITOR_ID)
    batch = FailedLoginBatch(failures=(FailedLogins(reason="unknown_key", address="192.0.2.1"),))
    async with build_worker(client, settings, plugin):
        first = await eventually(lambda: _running(client), what="the auditor")
        for _ in range(signals):
            await handle.signal(LOGIN_FAILED, batch)
            await asyncio.sleep(0.1)
        await eventually(lambda: _another(client, first), within=timedelta(seconds=30), what="the next execution")
    return first


async def _running(client: Client) -> str:
    async for execution in client.list_workflows(f"WorkflowId = '{AUDITOR_ID}'"):
        if execution.status is WorkflowExecutionStatus.RUNNING:
            return execution.run_id
    return ""


async def _another(client: Client, first: str) -> bool:
    return await _running(client) not in ("", first)


async def main() -> None:
    """Record all."""
    HISTORIES.mkdir(exist_ok=True)
    await record("filled_up", signals=SIGNALS, suggestions=FILLS_UP)
    activity.TURN = timedelta(seconds=2)  # type: ignore[misc]  # an hour is long
    await record("turn_over", signals=2)


if __name__ == "__main__":
    asyncio.run(main())
    sys.stdout.flush()
    os._exit(0)
