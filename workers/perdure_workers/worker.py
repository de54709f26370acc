"""The worker process: polls the task queue until it is told to stop, then lets running calls finish."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
from temporalio.client import Client
from temporalio.worker import Worker

from perdure.app import App
from perdure.connection import connect, ensure_search_attributes
from perdure.prices import load_catalogue
from perdure.settings import Settings
from perdure_activities.providers.registry import preload
from perdure_workers.auditing import check_audit
from perdure_workers.plugin import Perdure
from perdure_workers.versioning import deployment_of

log = structlog.get_logger(__name__)


def build_worker(client: Client, settings: Settings, plugin: Perdure) -> Worker:
    """Return a worker for the plugin's app, not yet started.

    Args:
        client: Connected, and without a `Perdure` plugin of its own.
    """
    return Worker(
        client,
        task_queue=settings.task_queue,
        plugins=[plugin],
        max_cached_workflows=settings.max_cached_runs,
        # The auditor takes a place for as long as it works, which is all the time.
        max_concurrent_activities=settings.max_concurrent_activities + (settings.audit_url is not None),
        max_concurrent_workflow_tasks=settings.max_concurrent_workflow_tasks,
        graceful_shutdown_timeout=timedelta(seconds=settings.shutdown_grace_seconds),
        deployment_config=deployment_of(settings),
    )


async def run_worker(app: App, settings: Settings, *, stop: asyncio.Event, address: str | None = None) -> None:
    """Serve the app's runs until `stop` is set; then take nothing new and give running calls their grace.

    Raises:
        ServerUnreachableError: No Temporal server answers.
        ConfigurationError: The app or the namespace lacks something.
    """
    for remark in app.check():
        log.warning("policy_remark", remark=remark)
    deployment_of(settings)  # or its error, before anything is reached
    await check_audit(settings)
    client = await connect(settings, address=address)
    await ensure_search_attributes(client)
    await asyncio.to_thread(_warm_up, app)
    worker = build_worker(client, settings, Perdure(app, settings=settings))
    log.info(
        "worker_started",
        task_queue=settings.task_queue,
        namespace=client.namespace,
        encryption_key_id=keyring.current if (keyring := settings.keyring()) else None,
        agents=[f"{agent.name}@{agent.version}" for agent in app.agents()],
        tools=[tool.spec.name for tool in app.tools()],
        rates={queue.serves: str(queue.rate) for queue in app.rated_queues(settings.task_queue)},
    )
    if settings.build_id is not None:
        log.info(
            "worker_versioned",
            deployment=settings.deployment_name,
            build=settings.build_id,
            gets_new_runs_by=f"perdure deployments current {settings.build_id}, or ramp",
        )
    async with worker:
        await stop.wait()
        log.info("worker_stopping", grace_seconds=settings.shutdown_grace_seconds)
    log.info("worker_stopped")


def _warm_up(app: App) -> None:
    """Load what takes seconds of CPU before the first call is taken, whose heartbeat would be late for it."""
    specs = [app.resolve(agent) for agent in app.agents()]
    preload({model.partition(":")[0] for spec in specs for model in (*spec.priced_models, *spec.graders)})
    load_catalogue()
