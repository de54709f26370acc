"""Where benchmarks play: a server, workers in processes of their own, the scripted model, and the CPU each has used."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from temporalio.api.history.v1 import HistoryEvent
from temporalio.client import Client, WorkflowHandle
from temporalio.common import Priority as PriorityKeys

from benchmarks.floor import Floor
from benchmarks.journal import Entry, read_journal
from benchmarks.worker import tool
from benchmarks.workload import FIXED, Plan, app_for
from perdure.budget import Terms
from perdure.codec import data_converter
from perdure.contracts import RunResult
from perdure.ledger.contracts import ledger_id
from perdure_workers import dev_server
from perdure_workers.dev_server import DevServer
from perdure_workers.processes import Child, ProcessGroup
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.state import RunArguments

READY_WITHIN = timedelta(seconds=60)
JOURNAL_WITHIN = timedelta(minutes=10)
_TICKS = os.sysconf("SC_CLK_TCK")

PerdureRun = WorkflowHandle[AgentRun, RunResult]
FloorRun = WorkflowHandle[Floor, None]


def cpu_seconds(process: Child) -> float:
    """Return the CPU that a process has used, in user and kernel mode, in steps of 10 ms; see proc_pid_stat(5)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


@dataclass(frozen=True)
class WorkerProcess:
    """A worker under measurement."""

    child: Child
    queue: str
    journal_file: Path

    @property
    def journal(self) -> list[Entry]:
        """What it, and workers before it with the same queue, wrote down."""
        return read_journal(self.journal_file)

    async def until(self, holds: Callable[[list[Entry]], bool]) -> None:
        """Wait until something holds of its journal."""

        async def written() -> bool:
            return holds(self.journal)

        await self.child.wait_until(written, within=JOURNAL_WITHIN)


@dataclass(frozen=True)
class Execution:
    """One of the histories that a run consists of."""

    size: int
    """Bytes, as the server counts them."""
    events: Sequence[HistoryEvent]


class Stage:
    """One server, and what is started beside it."""

    def __init__(self, group: ProcessGroup, server: Child, client: Client, folder: Path) -> None:
        self.server = server
        self.client = client
        self._group = group
        self._folder = folder
        self._model_address: str | None = None

    async def start_worker(
        self,
        kind: str,
        *,
        plan: Plan | None = None,
        provider: str = FIXED,
        queue: str | None = None,
        journal: bool = False,
        pause: timedelta = timedelta(0),
        plain: bool = False,
        audit: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> WorkerProcess:
        """Start a worker and wait until it polls.

        Args:
            kind: `perdure`, `speaker` or `floor`.
            plan: Of the runs that it will make; `perdure` only.
            provider: Which model they call.
            queue: Of a worker that it succeeds; default: a queue of its own.
            journal: Write down each call.
            pause: How long each call takes.
            plain: The floor with Temporal's own settings.
            audit: Where it keeps an audit; `perdure` only.
            settings: Of Perdure, where they are to differ from the defaults.
        """
        queue = queue or f"{kind}-{uuid.uuid4().hex[:8]}"
        journal_file = self._folder / f"{queue}.journal"
        command = [sys.executable, "-m", "benchmarks.worker", kind, "--queue", queue, "--provider", provider]
        command += ["--address", self.client.service_client.config.target_host, "--pause", str(pause.total_seconds())]
        command += ["--plan", str(plan)] if plan else []
        command += ["--journal", str(journal_file)] if journal else []
        command += ["--plain"] if plain else []
        command += ["--audit", audit] if audit else []
        command += ["--settings", json.dumps(settings)] if settings else []
        child = await self._group.start(queue, command, environment=self._environment(), forward=False)

        async def polls() -> bool:
            return '"ready"' in child.tail

        await child.wait_until(polls, within=READY_WITHIN)
        return WorkerProcess(child, queue, journal_file)

    async def start_process(
        self,
        name: str,
        command: Sequence[str],
        *,
        ready: Callable[[], Awaitable[bool]],
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Start another program, in whose environment no setting of ours is but these, and wait until it is ready."""
        child = await self._group.start(
            name, command, environment=self._environment() | dict(environment or {}), forward=False
        )
        await child.wait_until(ready, within=READY_WITHIN)
        return child

    async def start_model(self) -> None:
        """Start the scripted model; workers started from now on call it over HTTP."""
        ready = self._folder / "model.address"
        command = [sys.executable, "-m", "perdure.testing", "--script", "benchmarks.workload:SCRIPT"]
        child = await self._group.start("model", [*command, "--ready-file", str(ready)], forward=False)

        async def listens() -> bool:
            return ready.exists()

        await child.wait_until(listens, within=READY_WITHIN)
        self._model_address = ready.read_text()

    async def start_run(
        self,
        worker: WorkerProcess,
        plan: Plan,
        *,
        provider: str = FIXED,
        priority: PriorityKeys = PriorityKeys.default,
        org: str | None = None,
        terms: Terms | None = None,
    ) -> PerdureRun:
        """Start a run of Perdure on that worker."""
        app, agent = app_for(plan, provider=provider, tool=tool(None, timedelta(0)))
        return await self.client.start_workflow(
            AgentRun.run,
            RunArguments(spec=app.resolve(agent), input="Look it up.", limits=agent.limits, org=org, terms=terms),
            id=f"run-{uuid.uuid4().hex[:12]}",
            task_queue=worker.queue,
            priority=priority,
        )

    async def start_floor_run(self, worker: WorkerProcess, *, turns: int) -> FloorRun:
        """Start a run of the floor on that worker."""
        return await self.client.start_workflow(
            Floor.run, turns, id=f"floor-{uuid.uuid4().hex[:12]}", task_queue=worker.queue
        )

    def ledger(self, org: str) -> WorkflowHandle[Any, Any]:
        """Return the handle of an organisation's ledger."""
        return self.client.get_workflow_handle(ledger_id(org))

    async def executions(self, run: WorkflowHandle[Any, Any]) -> list[Execution]:
        """Return the executions that a run, or a ledger, is a chain of, first to latest."""
        chain: list[Execution] = []
        execution_id = (await run.describe()).run_id
        while execution_id:
            handle = self.client.get_workflow_handle(run.id, run_id=execution_id)
            described = await handle.describe()
            history = await handle.fetch_history()
            size = described.raw_description.workflow_execution_info.history_size_bytes
            chain.insert(0, Execution(size, history.events))
            execution_id = history.events[0].workflow_execution_started_event_attributes.continued_execution_run_id
        return chain

    def _environment(self) -> dict[str, str]:
        foreign = ("PERDURE_", "TEMPORAL_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        # Compiled code is kept, as in an installed package: the sandbox loads the workflow's module for each run.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(self._folder / "bytecode")
        if self._model_address:
            environment |= {"ANTHROPIC_BASE_URL": self._model_address, "ANTHROPIC_API_KEY": "scripted"}
            environment |= {"OPENAI_BASE_URL": f"{self._model_address}/v1", "OPENAI_API_KEY": "scripted"}
        return environment


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """Start a server in memory for the length of a block; whatever is started on it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        async with ProcessGroup() as group:
            server = DevServer()
            child = await dev_server.start(group, server)
            client = await Client.connect(server.address, data_converter=data_converter())
            yield Stage(group, child, client, Path(folder))
