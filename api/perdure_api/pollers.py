"""Who polls a task queue: whether runs started now would go on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import Field
from temporalio.api.enums.v1 import TaskQueueType, WorkerVersioningMode
from temporalio.api.taskqueue.v1 import PollerInfo, TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest, DescribeTaskQueueResponse
from temporalio.client import Client

from perdure_api.rpc import temporal_errors
from perdure_api.schemas import Answer

FRESH: Final = timedelta(seconds=75)
"""An idle worker polls anew each minute; one that has not for longer is gone."""
PROBE_TIMEOUT: Final = timedelta(seconds=3)


class Pollers(Answer):
    """Worker processes that poll, by what they poll for; where workers are versioned, those that get new runs."""

    workflow: int
    activity: int
    rated: dict[str, int] = Field(default_factory=dict)
    """For calls whose tool or provider has a rate, by task queue."""
    idle_builds: tuple[str, ...] = ()
    """Builds that poll and get no new runs: they drain, or nobody has made them current."""


async def count_pollers(client: Client, task_queue: str, *, rated: Iterable[str] = ()) -> Pollers:
    """Ask Temporal who polls the task queue, and those beside it.

    Args:
        client: Of the server.
        task_queue: The queue of the runs.
        rated: Queues of tools and providers that have a rate.

    Raises:
        ServerUnreachableError: It does not answer.
    """
    workflow = await _describe(client, task_queue, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW)
    activity = await _describe(client, task_queue, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
    beside = {name: await _describe(client, name, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY) for name in rated}
    new = _versions_of_new_runs(workflow)
    return Pollers(
        workflow=count_for_new_runs(workflow),
        activity=count_for_new_runs(activity),
        rated={name: count_all(queue) for name, queue in beside.items()},
        idle_builds=tuple(sorted(build for name, build in _polling(workflow) if name and (name, build) not in new)),
    )


async def polls(client: Client, task_queue: str, *, host: str) -> bool:
    """Ask Temporal whether a worker of this host polls the task queue, of whichever build.

    Args:
        client: Of the server.
        task_queue: The queue of the runs.
        host: As the SDK has it in a worker's identity, `pid@host`.

    Raises:
        ServerUnreachableError: It does not answer.
    """
    kinds = (TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY)
    queues = [await _describe(client, task_queue, kind) for kind in kinds]
    return all(any(poller.identity.endswith(f"@{host}") for poller in _fresh(queue)) for queue in queues)


def count_for_new_runs(queue: DescribeTaskQueueResponse) -> int:
    """Return how many worker processes a new run could go to; of a ramp, on the side that has fewer."""
    polling = _polling(queue)
    return min(polling[version] for version in _versions_of_new_runs(queue))


def count_all(queue: DescribeTaskQueueResponse) -> int:
    """Return how many worker processes poll, of whichever build: each build's runs call tools on its own workers."""
    return _polling(queue).total()


_Version = tuple[str, str]
"""Deployment and build; both are empty for workers that are not versioned."""


def _versions_of_new_runs(queue: DescribeTaskQueueResponse) -> set[_Version]:
    info = queue.versioning_info
    current, ramping = info.current_deployment_version, info.ramping_deployment_version
    versions = {(current.deployment_name, current.build_id)}
    if info.ramping_version_percentage:
        versions.add((ramping.deployment_name, ramping.build_id))
    return versions


def _polling(queue: DescribeTaskQueueResponse) -> Counter[_Version]:
    """Count worker processes by their version."""
    seen = set()
    for poller in _fresh(queue):
        options = poller.deployment_options
        versioned = options.worker_versioning_mode == WorkerVersioningMode.WORKER_VERSIONING_MODE_VERSIONED
        version = (options.deployment_name, options.build_id) if versioned else ("", "")
        seen.add((poller.identity, version))
    return Counter(version for _, version in seen)


def _fresh(queue: DescribeTaskQueueResponse) -> list[PollerInfo]:
    oldest = datetime.now(UTC) - FRESH
    return [poller for poller in queue.pollers if poller.last_access_time.ToDatetime(tzinfo=UTC) > oldest]


async def _describe(client: Client, task_queue: str, kind: TaskQueueType.ValueType) -> DescribeTaskQueueResponse:
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
    )
    with temporal_errors():
        # Without retries, as a probe is to say now what is the case now.
        return await client.workflow_service.describe_task_queue(request, retry=False, timeout=PROBE_TIMEOUT)
