"""The worker process: polls the task queue until it is told to stop, then lets running calls finish."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.app import App
from perdure.connection import connect, ensure_search_attributes
from perdure.settings import Settings
from perdure_activities.providers.provider import Provider
from perdure_workers.plugin import Perdure

log = structlog.get_logger(__name__)


def build_worker(
    client: Client, app: App, settings: Settings, *, providers: Mapping[str, Provider] | None = None
) -> Worker:
    """Return a worker for the app's runs, not yet started.

    Args:
        client: Connected, and without the `Perdure` plugin of its own.
        providers: Model providers by prefix; default: the built-in ones.
    """
    return Worker(
        client,
        task_queue=settings.task_queue,
        plugins=[Perdure(app, settings=settings, providers=providers)],
        max_cached_workflows=settings.max_cached_runs,
        max_concurrent_activities=settings.max_concurrent_activities,
        max_concurrent_workflow_tasks=settings.max_concurrent_workflow_tasks,
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_grace_seconds),
    )


async def run_worker(app: App, settings: Settings, *, stop: asyncio.Event, address: str | None = None) -> None:
    """Serve the app's runs until `stop` is set; then take nothing new and give running calls their grace.

    Raises:
        ServerUnreachableError: No Temporal server answers.
        ConfigurationError: The app or the namespace lacks something.
    """
    app.check()
    client = await connect(settings, address=address)
    await ensure_search_attributes(client)
    worker = build_worker(client, app, settings)
    log.info(
        "worker_started",
        task_queue=settings.task_queue,
        namespace=client.namespace,
        agents=[f"{agent.name}@{agent.version}" for agent in app.agents()],
        tools=[tool.spec.name for tool in app.tools()],
    )
    async with worker:
        await stop.wait()
        log.info("worker_stopping", grace_seconds=settings.shutdown_grace_seconds)
    log.info("worker_stopped")
