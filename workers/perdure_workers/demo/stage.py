"""The demo's processes: Temporal server, model, API and the worker that will be killed, on free ports of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

from perdure_workers import dev_server
from perdure_workers.dev import READY_TIMEOUT, child_environment, probe, start_api, start_worker
from perdure_workers.dev_server import DevServer
from perdure_workers.ports import LOOPBACK, free_port
from perdure_workers.processes import Child, LinePrinter, ProcessGroup

APP: Final = "support_desk"
SCRIPT: Final = "support_desk.script:script"
REFUND_PAUSE: Final = "20"
"""Seconds that the first worker's refund takes to return after it was paid: the time in which it is killed."""
STOP_GRACE: Final = timedelta(seconds=3)


@dataclass(frozen=True)
class Model:
    """The model that plays, and what makes the SDKs talk to it."""

    agent: str
    """The agent of the example app that uses it."""
    name: str
    """For people."""
    scripted: bool
    environment: Mapping[str, str]


@dataclass
class Stage:
    """Everything that runs, and where."""

    group: ProcessGroup
    server: DevServer
    api_url: str
    model: Model
    shop: Path
    """The shop's database."""
    environment: Mapping[str, str]
    worker: Child

    async def replace_worker(self) -> None:
        """Start a worker in the place of a dead one, and let its refunds return at once."""
        self.worker = await start_worker(self.group, app=APP, environment=self.environment)


@asynccontextmanager
async def open_stage(folder: Path) -> AsyncIterator[Stage]:
    """Start everything, in a folder that keeps the state and the processes' logs.

    Raises:
        ConfigurationError: There is no Temporal server program, or another demo uses the folder.
        ProcessError: Something does not come up.
    """
    folder = _absolute(folder)
    state = folder / "temporal.db"
    with dev_server.exclusive(state), _log(folder / "demo.log") as log:
        _remove_databases(folder)
        server = DevServer(port=free_port(), ui_port=free_port(), api_port=free_port(), db_file=state)
        async with ProcessGroup(forward=log) as group:
            await dev_server.start(group, server)
            model = await _model(group)
            shop = folder / "shop.db"
            environment = {
                **child_environment(server),
                **model.environment,
                "PERDURE_LOG_FORMAT": "json",
                "PERDURE_AUTH": "open",
                "SUPPORT_DESK_DB": str(shop),
                "SUPPORT_DESK_REFUND_PAUSE": "0",
            }
            worker = await start_worker(
                group, app=APP, environment={**environment, "SUPPORT_DESK_REFUND_PAUSE": REFUND_PAUSE}
            )
            api = await start_api(group, port=server.api_port or 0, app=APP, environment=environment)
            api_url = f"http://{LOOPBACK}:{server.api_port}"
            await api.wait_until(probe(f"{api_url}/readyz"), within=READY_TIMEOUT)
            yield Stage(group, server, api_url, model, shop, environment, worker)
            await group.stop(grace=STOP_GRACE)


async def _model(group: ProcessGroup) -> Model:
    if os.environ.get("ANTHROPIC_API_KEY"):
        return Model("support", "Anthropic's, with your ANTHROPIC_API_KEY", scripted=False, environment={})
    if os.environ.get("OPENAI_API_KEY"):
        return Model("support-openai", "OpenAI's, with your OPENAI_API_KEY", scripted=False, environment={})
    url = await _scripted_model(group)
    return Model(
        "support",
        "scripted (a local server that speaks Anthropic's API; set ANTHROPIC_API_KEY or OPENAI_API_KEY for a real one)",
        scripted=True,
        environment={"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": "scripted"},
    )


async def _scripted_model(group: ProcessGroup) -> str:
    port = free_port()
    url = f"http://{LOOPBACK}:{port}"
    command = [sys.executable, "-m", "perdure.testing", "--script", SCRIPT, "--port", str(port)]
    child = await group.start("model", command)

    async def serves() -> bool:
        return url in child.tail

    await child.wait_until(serves, within=READY_TIMEOUT)
    return url


def _absolute(folder: Path) -> Path:
    # The children are told paths, and one of them may change its working directory.
    return folder.absolute()


@contextmanager
def _log(file: Path) -> Iterator[LinePrinter]:
    with file.open("w", encoding="utf-8") as log:

        def write(name: str, line: str) -> None:
            log.write(f"{name:>8} | {line}\n")
            log.flush()

        yield write


def _remove_databases(folder: Path) -> None:
    """Remove what an earlier demo left, each database with its write-ahead log."""
    for name in ("temporal.db", "shop.db"):
        for suffix in ("", "-wal", "-shm"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
