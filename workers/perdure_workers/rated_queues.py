"""The workers of rated queues, which run beside a worker in its process and stop with it; and the rates themselves.

The server keeps a rate over all workers of a queue. It is told so when a worker starts, and remembers it. A rate that
an operator has set meanwhile stays: `temporal task-queue config set` is how a provider is slowed down or paused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, Literal

import structlog
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import RateLimit, TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, UpdateTaskQueueConfigRequest
from temporalio.client import Client
from temporalio.service import RPCError
from temporalio.worker import Worker

from perdure.rate import RatedQueue

log = structlog.get_logger(__name__)

RPC_TIMEOUT: Final = timedelta(seconds=10)
DECLARED: Final = "declared by the app"
"""The reason that a rate of ours bears; one with another reason is somebody's decision."""

Activities = Mapping[Literal["tool", "model"], Sequence[Callable[..., Any]]]
Run = Callable[[Worker], Awaitable[None]]


async def run_with_rated_queues(
    worker: Worker, run: Run, *, queues: Sequence[RatedQueue], activities: Activities
) -> None:
    """Run a worker, and beside it one for each rated queue; all of them stop together, within one grace.

    Args:
        worker: Whose settings and interceptors the others share.
        run: Runs it.
        queues: Those of the worker's own task queue.
        activities: What serves a queue, by its kind.
    """
    for queue in queues:
        await _tell_rate(worker.client, queue)
    others = [_worker_beside(worker, queue, activities[queue.kind]) for queue in queues]
    stopping = asyncio.Event()
    shut_down = worker.shutdown

    async def shut_down_all() -> None:
        stopping.set()
        await shut_down()

    # The only word that a worker gives when it is told to stop; left to itself it returns when its own grace is over.
    worker.shutdown = shut_down_all  # type: ignore[method-assign]
    running = [asyncio.ensure_future(run(worker)), *(asyncio.create_task(other.run()) for other in others)]
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([*running, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        await asyncio.gather(shut_down(), *(other.shutdown() for other in others))
        await asyncio.wait(running)
    for one in running:
        one.result()


async def _tell_rate(client: Client, queue: RatedQueue) -> None:
    """Have the server keep the queue's rate, unless somebody has given the queue another one."""
    try:
        described = await client.workflow_service.describe_task_queue(
            DescribeTaskQueueRequest(
                namespace=client.namespace,
                task_queue=TaskQueue(name=queue.name),
                task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
                report_config=True,
            ),
            timeout=RPC_TIMEOUT,
        )
        found = described.config.queue_rate_limit
        if found.HasField("rate_limit"):
            known = found.rate_limit.requests_per_second
            if math.isclose(known, queue.rate.per_second, rel_tol=1e-6):  # the server has it in single precision
                return
            if found.metadata.reason != DECLARED:
                log.warning(
                    "rate_overridden",
                    task_queue=queue.name,
                    declared=str(queue.rate),
                    per_second=known,
                    set_by=found.metadata.update_identity,
                )
                return
        await client.workflow_service.update_task_queue_config(_declaration(client, queue), timeout=RPC_TIMEOUT)
    except RPCError as error:
        log.warning(
            "rate_not_kept_by_server_config",
            task_queue=queue.name,
            rate=str(queue.rate),
            error=error.message,
            instead="the server goes by what each worker says when it polls; the last one counts",
        )


def _declaration(client: Client, queue: RatedQueue) -> UpdateTaskQueueConfigRequest:
    return UpdateTaskQueueConfigRequest(
        namespace=client.namespace,
        identity=client.identity,
        task_queue=queue.name,
        task_queue_type=TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
        update_queue_rate_limit=UpdateTaskQueueConfigRequest.RateLimitUpdate(
            rate_limit=RateLimit(requests_per_second=queue.rate.per_second), reason=DECLARED
        ),
    )


def _worker_beside(worker: Worker, queue: RatedQueue, activities: Sequence[Callable[..., Any]]) -> Worker:
    """Return a worker of the queue that is otherwise as this one, plugins and their doing included."""
    # What plugins did to the configuration is in it already; they are not to do it twice.
    connection = worker.client.config(active_config=True)
    connection["plugins"] = []
    config = worker.config(active_config=True)
    config["client"] = Client(**connection)
    config["task_queue"] = queue.name
    config["activities"] = activities
    config["workflows"] = []
    config["nexus_service_handlers"] = []
    config["plugins"] = []
    # Where the server keeps the rate by its own configuration, as it should, that one counts.
    config["max_task_queue_activities_per_second"] = queue.rate.per_second
    return Worker(**config)
