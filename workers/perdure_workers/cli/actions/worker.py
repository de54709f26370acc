"""`perdure worker`: the worker process, until a signal, and a look from beside it whether it polls."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack

import structlog

from perdure.connection import connect
from perdure.errors import NoWorkerError
from perdure.metrics_export import MetricsExport
from perdure.personal_data import load_redactor
from perdure.settings import load_settings
from perdure.telemetry import configure_logging, traced
from perdure_api.pollers import polls
from perdure_workers.loading import load_here
from perdure_workers.signals import stop_signals
from perdure_workers.worker import run_worker

log = structlog.get_logger(__name__)


async def serve_worker(*, app: str | None, address: str | None) -> None:
    """Serve the app's runs until a signal, then give running calls their grace.

    Raises:
        PerdureError: The app or the settings are wrong, or no Temporal server answers.
    """
    settings = load_settings(app=app)
    configure_logging(settings)
    async with AsyncExitStack() as held:
        await held.enter_async_context(traced("perdure-worker", redactor=load_redactor(settings)))
        if settings.metrics_address is not None:
            port = await held.enter_async_context(MetricsExport().served(settings.metrics_address))
            log.info("metrics_served", port=port)
        stop = held.enter_context(stop_signals())
        await run_worker(load_here(settings), settings, stop=stop, address=address)


async def check_worker(*, address: str | None) -> None:
    """Return if a worker of this host polls the task queue, as a container's health check asks.

    Raises:
        NoWorkerError: None does.
        PerdureError: The settings are wrong, or no Temporal server answers.
    """
    settings, host = load_settings(), socket.gethostname()
    if not await polls(await connect(settings, address=address), settings.task_queue, host=host):
        raise NoWorkerError(f"no worker of host {host!r} polls the task queue {settings.task_queue!r}")
