"""A small cluster of real processes under a supervisor, as in production: whoever dies is started again."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TextIO

import httpx2
from temporalio.client import Client

from perdure.codec import data_converter
from perdure.errors import ProcessError
from perdure.messages import JsonObject
from perdure.testing import eventually
from perdure_workers import dev_server
from perdure_workers.dev import child_environment, perdure_command, probe
from perdure_workers.dev_server import DevServer
from perdure_workers.ports import LOOPBACK, free_port
from perdure_workers.processes import Child, ProcessGroup
from tests.e2e.crash_app.ledger import PATH_VARIABLE, Ledger

ROOT = Path(__file__).parents[2]
_PYTHONPATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
APP = "tests.e2e.crash_app.app:app"
SCRIPT = "tests.e2e.crash_app.script:script"
UP = timedelta(seconds=30)
SHOWN_LINES = 40
"""Of each log."""


@dataclass
class Member:
    """A place in the cluster, and the process that holds it now."""

    name: str
    start: Callable[[], Awaitable[Child]]
    child: Child | None = None
    pause: float = 0
    """Seconds that the supervisor leaves the place empty."""
    ends: list[int] = field(default_factory=list)
    """Exit codes of the processes that held it."""

    @property
    def up(self) -> bool:
        """Whether a process holds it."""
        return self.child is not None and self.child.exit_code is None

    def kill(self, *, down: float = 0) -> bool:
        """End its process with SIGKILL and keep the place empty for so many seconds; False if it was empty."""
        if self.child is None or not self.up:
            return False
        self.pause = down
        self.child.kill()
        return True


class Cluster:
    """The members by name, and how they are reached."""

    def __init__(self, group: ProcessGroup, folder: Path, *, server: DevServer, model_url: str) -> None:
        self._group = group
        self._folder = folder
        self._environment = {
            **child_environment(server),
            "PYTHONPATH": _PYTHONPATH,
            "OPENAI_BASE_URL": f"{model_url}/v1",
            "OPENAI_API_KEY": "scripted",
            PATH_VARIABLE: str(folder / "ledger.db"),
        }
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self.server = server
        self.model_url = model_url
        self.api_port = free_port()
        self.ledger = Ledger(folder / "ledger.db")
        self.members: dict[str, Member] = {}

    @property
    def api_url(self) -> str:
        """Address of the API."""
        return f"http://{LOOPBACK}:{self.api_port}"

    async def client(self) -> Client:
        """Connect to the Temporal server."""
        return await Client.connect(self.server.address, data_converter=data_converter())

    async def model_requests(self) -> list[JsonObject]:
        """Return what the model was asked, the latest thousand requests."""
        async with httpx2.AsyncClient(trust_env=False) as http:
            answer: JsonObject = (await http.get(f"{self.model_url}/requests")).json()
        recent: list[JsonObject] = answer["recent"]
        return recent

    async def add_server(self) -> None:
        """Add the Temporal server, and wait until it serves."""
        self._add("temporal", lambda: dev_server.start(self._group, self.server))
        await eventually(lambda: self.members["temporal"].up, within=UP, what="the Temporal server")

    def add_worker(self, name: str = "worker", **settings: str) -> Member:
        """Add a worker.

        Args:
            name: Its place.
            settings: Environment variables beside the cluster's.
        """
        return self._add(name, lambda: self._start(name, "worker", "--app", APP, settings=settings))

    def add_program(self, name: str, module: str, **settings: str) -> Member:
        """Add a program that reaches the cluster as its workers do.

        Args:
            name: Its place.
            module: What `python -m` runs.
            settings: Environment variables beside the cluster's.
        """
        environment = {**self._environment, **settings}
        return self._add(name, lambda: self._group.start(name, [sys.executable, "-m", module], environment=environment))

    async def add_api(self) -> None:
        """Add the API, and wait until it answers."""
        port = ("--host", LOOPBACK, "--port", str(self.api_port))
        self._add("api", lambda: self._start("api", "api", "--app", APP, *port))
        await eventually(probe(f"{self.api_url}/healthz"), within=UP, what="the API")

    def log(self, name: str) -> str:
        """Return what the processes of that name have printed so far."""
        path = self._folder / f"{name}.log"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    async def close(self) -> None:
        """End the supervision."""
        for keeper in self._keepers.values():
            keeper.cancel()
        await asyncio.gather(*self._keepers.values(), return_exceptions=True)

    def _add(self, name: str, start: Callable[[], Awaitable[Child]]) -> Member:
        member = self.members[name] = Member(name, start)
        self._keepers[name] = asyncio.create_task(self._keep(member), name=f"supervisor of {name}")
        return member

    async def _keep(self, member: Member) -> None:
        while True:
            try:
                member.child = await member.start()
            except ProcessError as error:  # the server was killed before it served
                print(f"{member.name}: {error}")
            else:
                member.ends.append(await member.child.wait())
            pause, member.pause = member.pause, 0.2
            await asyncio.sleep(pause)

    async def _start(self, name: str, *arguments: str, settings: Mapping[str, str] | None = None) -> Child:
        environment = {**self._environment, **(settings or {})}
        return await self._group.start(name, perdure_command(*arguments), environment=environment)


@asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[Cluster]:
    """Run a Temporal server on a file and a scripted model; the test adds workers and API. All end with the block.

    The tails of the processes' logs are printed in the end, which pytest shows if the test failed.
    """
    logs: dict[str, TextIO] = {}

    def write(name: str, line: str) -> None:
        if name not in logs:
            logs[name] = (folder / f"{name}.log").open("w", encoding="utf-8", buffering=1)
        logs[name].write(line + "\n")

    try:
        async with ProcessGroup(forward=write) as group:
            model_url = await _start_model(group, folder)
            server = DevServer(db_file=folder / "temporal.db")
            cluster = Cluster(group, folder, server=server, model_url=model_url)
            cluster.ledger.create()
            try:
                await cluster.add_server()
                yield cluster
            finally:
                await cluster.close()
    finally:
        for log in logs.values():
            log.close()
        _show(folder)


async def _start_model(group: ProcessGroup, folder: Path) -> str:
    ready = folder / "model.url"
    command = [sys.executable, "-m", "perdure.testing", "--script", SCRIPT, "--ready-file", str(ready)]
    await group.start("model", command, environment={**os.environ, "PYTHONPATH": _PYTHONPATH})
    await eventually(ready.exists, within=UP, what="the model")
    return ready.read_text(encoding="utf-8")


def _show(folder: Path) -> None:
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(encoding="utf-8").splitlines()[-SHOWN_LINES:]
        print(f"--- the end of {log.name}", *lines, sep="\n")
