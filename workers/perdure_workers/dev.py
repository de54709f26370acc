"""`perdure dev`: Temporal server, API and worker as the children of one command, up together and down together."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx2
from rich.console import Console
from rich.text import Text
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from perdure.deltas.socket_bus import hub
from perdure.settings import Settings
from perdure_workers import dev_server
from perdure_workers.dev_server import DevServer
from perdure_workers.loading import load_here
from perdure_workers.ports import LOOPBACK, PortUse, chosen_port, require_free
from perdure_workers.processes import Child, ProcessGroup
from perdure_workers.signals import stop_signals, unless_stopped

READY_TIMEOUT: Final = timedelta(minutes=3)
"""What each process gets to come up: a busy machine takes its time, and whoever does not want to wait has Ctrl-C."""
STOP_MARGIN: Final = timedelta(seconds=5)
"""What a child gets beyond the worker's own grace before it is killed."""
AUDIT_FOLDER: Final = "audit"
"""Beside the database file."""
COLOURS: Final = {"worker": "cyan", "api": "magenta", "temporal": "yellow"}


@dataclass(frozen=True)
class Dev:
    """What `perdure dev` is to start."""

    app: str | None
    port: int
    """Temporal's gRPC; 0 takes a free one, here and below."""
    ui_port: int
    api_port: int
    db_file: Path
    worker: bool = True
    api: bool = True


async def serve(dev: Dev, settings: Settings) -> None:
    """Start everything, say where it is, and run until a signal or a death.

    Raises:
        ConfigurationError: A port is taken, the database file is in use, there is no Temporal server program, or
            the app does not load.
        ProcessError: A child died or did not come up; the others have been shut down.
    """
    server = _choose_ports(dev)
    if dev.worker or dev.api:
        load_here(settings)  # each child loads it for itself; here its mistakes show before anything is started
    logs = Console(stderr=True, highlight=False)
    grace = STOP_MARGIN
    with ExitStack() as held:
        held.enter_context(dev_server.exclusive(dev.db_file))
        async with ProcessGroup(forward=log_printer(logs)) as group:
            stop = held.enter_context(stop_signals(before_force=group.kill_now))
            try:
                await unless_stopped(stop, _run(group, dev, server, settings, Console(highlight=False)))
                grace += timedelta(seconds=settings.shutdown_grace_seconds)
            finally:
                # After a death nothing is worth a long wait: without its server a worker cannot hand in its results.
                await group.stop(grace=grace, told=lambda child: _say_stopping(logs, child, grace))


def perdure_command(*arguments: str) -> list[str]:
    """Return the command line that runs a command of ours in another process."""
    return [sys.executable, "-m", "perdure_workers.cli", *arguments]


def child_environment(server: DevServer) -> dict[str, str]:
    """Return the environment in which a child of ours reaches this server, whatever server ours is set to."""
    # A build that is set for a deployment would get no run of this server, where nobody makes it current.
    foreign = ("TEMPORAL_", "PERDURE_DEPLOYMENT_NAME", "PERDURE_BUILD_ID")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    ui = {"PERDURE_UI_URL": server.ui_url} if server.ui_url else {}
    return {
        "PERDURE_LOG_FORMAT": "console",
        **inherited,
        **ui,
        "TEMPORAL_CONFIG_FILE": os.devnull,
        "TEMPORAL_ADDRESS": server.address,
        "TEMPORAL_NAMESPACE": dev_server.NAMESPACE,
    }


def app_arguments(app: str | None) -> list[str]:
    """Return the options that hand an app's reference on to a child."""
    return ["--app", app] if app else []


async def start_api(group: ProcessGroup, *, port: int, app: str | None, environment: Mapping[str, str]) -> Child:
    """Start the API and wait until it answers."""
    command = perdure_command("api", *app_arguments(app), "--host", LOOPBACK, "--port", str(port))
    child = await group.start("api", command, environment=environment)
    await child.wait_until(probe(f"http://{LOOPBACK}:{port}/healthz"), within=READY_TIMEOUT)
    return child


async def start_worker(group: ProcessGroup, *, app: str | None, environment: Mapping[str, str]) -> Child:
    """Start a worker, without waiting for it."""
    return await group.start("worker", perdure_command("worker", *app_arguments(app)), environment=environment)


def probe(url: str) -> Callable[[], Awaitable[bool]]:
    """Return a look at an address that says whether it answers 200."""

    async def answers() -> bool:
        # Proxies are for other machines.
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            try:
                return (await client.get(url)).status_code == httpx2.codes.OK
            except httpx2.TransportError:
                return False

    return answers


def polled(address: str, task_queue: str) -> Callable[[], Awaitable[bool]]:
    """Return a look at a Temporal server that says whether a worker polls the task queue."""

    async def polls() -> bool:
        client = await Client.connect(address, namespace=dev_server.NAMESPACE)
        queue = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace,
                task_queue=TaskQueue(name=task_queue),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
            )
        )
        return len(queue.pollers) > 0

    return polls


def log_printer(console: Console) -> Callable[[str, str], None]:
    """Return a printer of children's lines, each after its child's name."""

    def print_line(name: str, line: str) -> None:
        console.print(Text(f"{name:>8} │ ", style=COLOURS.get(name, "")).append(Text.from_ansi(line)), soft_wrap=True)

    return print_line


def _choose_ports(dev: Dev) -> DevServer:
    server = DevServer(
        port=chosen_port(dev.port),
        ui_port=chosen_port(dev.ui_port),
        api_port=chosen_port(dev.api_port) if dev.api else None,
        db_file=dev.db_file,
    )
    uses = [
        PortUse(server.port, "Temporal gRPC", "--port"),
        PortUse(server.ui_port or 0, "Temporal Web UI", "--ui-port"),
        PortUse(server.api_port or 0, "API", "--api-port"),
    ]
    require_free(use for use in uses if use.number)
    return server


async def _run(group: ProcessGroup, dev: Dev, server: DevServer, settings: Settings, console: Console) -> None:
    # Not beside the database file, as a socket's path must be short.
    with tempfile.TemporaryDirectory(prefix="perdure-") as folder:
        socket = settings.delta_socket or Path(folder) / "deltas.sock"
        async with hub(socket):
            await _run_beside(socket, group, dev, server, settings, console)


async def _run_beside(
    socket: Path, group: ProcessGroup, dev: Dev, server: DevServer, settings: Settings, console: Console
) -> None:
    audit_url = settings.audit_url or (dev.db_file.parent / AUDIT_FOLDER).absolute().as_uri()
    environment = {
        **child_environment(server),
        "PERDURE_AUDIT_URL": audit_url,
        "PERDURE_DELTA_SOCKET": str(socket),
    }
    await dev_server.start(group, server)
    if server.api_port is not None:
        await start_api(group, port=server.api_port, app=dev.app, environment=environment)
    if dev.worker:
        worker = await start_worker(group, app=dev.app, environment=environment)
        # The API's own word on it is what a load balancer would go by.
        ready = (
            polled(server.address, settings.task_queue)
            if server.api_port is None
            else probe(f"http://{LOOPBACK}:{server.api_port}/readyz")
        )
        await worker.wait_until(ready, within=READY_TIMEOUT)
    _announce(console, dev, server, audit_url, settings)
    raise await (await group.first_death()).death()


def _announce(console: Console, dev: Dev, server: DevServer, audit_url: str, settings: Settings) -> None:
    parts = ["Temporal", *(["API"] if dev.api else []), *(["worker"] if dev.worker else [])]
    lines = [
        f"[bold green]Perdure is up[/]: {', '.join(parts)}. Its state is in {dev.db_file}. Ctrl-C stops it.",
        f"  Temporal Web UI  {server.ui_url}",
        f"  Temporal gRPC    {server.address}",
        f"  Audit            {audit_url}",
    ]
    if dev.api:
        api = f"http://{LOOPBACK}:{server.api_port}"
        lines[1:1] = [f"  Console          {api}/console", f"  API              {api}  (reference: {api}/docs)"]
        if settings.metrics:
            lines.append(f"  Metrics          {api}/metrics")
    if dev.worker and settings.metrics_address:
        lines.append(f"  Worker's metrics http://{settings.metrics_address}/metrics")
    console.print("\n".join(lines), soft_wrap=True)


def _say_stopping(console: Console, child: Child, grace: timedelta) -> None:
    waits = f", at most {grace.total_seconds():g} s; Ctrl-C again ends everything at once"
    console.print(f"stopping {child.name}{waits if child.name == 'worker' else ''}")
