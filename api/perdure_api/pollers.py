"""Who polls a task queue: whether runs started now would go on."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import Field
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from perdure_api.rpc import temporal_errors
from perdure_api.schemas import Answer

FRESH: Final = timedelta(seconds=75)
"""An idle worker polls anew each minute; one that has not for longer is gone."""
PROBE_TIMEOUT: Final = timedelta(seconds=3)


class Pollers(Answer):
    """Worker processes that poll, by what they poll for."""

    workflow: int
    activity: int
    rated: dict[str, int] = Field(default_factory=dict)
    """For calls whose tool or provider has a rate, by task queue."""


async def count_pollers(client: Client, task_queue: str, *, rated: Iterable[str] = (), host: str = "") -> Pollers:
    """Ask Temporal who polls the task queue, and those beside it.

    Args:
        client: Of the server.
        task_queue: The queue of the runs.
        rated: Queues of tools and providers that have a rate.
        host: Count only workers of this host, which the SDK has in their identity, `pid@host`.

    Raises:
        ServerUnreachableError: It does not answer.
    """
    return Pollers(
        workflow=await _count(client, task_queue, TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW, host=host),
        activity=await _count(client, task_queue, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY, host=host),
        rated={name: await _count(client, name, TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY, host=host) for name in rated},
    )


async def _count(client: Client, task_queue: str, kind: TaskQueueType.ValueType, *, host: str) -> int:
    request = DescribeTaskQueueRequest(
        namespace=client.namespace, task_queue=TaskQueue(name=task_queue), task_queue_type=kind
    )
    with temporal_errors():
        # Without retries, as a probe is to say now what is the case now.
        queue = await client.workflow_service.describe_task_queue(request, retry=False, timeout=PROBE_TIMEOUT)
    oldest = datetime.now(UTC) - FRESH
    return sum(
        poller.last_access_time.ToDatetime(tzinfo=UTC) > oldest
        for poller in queue.pollers
        if not host or poller.identity.endswith(f"@{host}")
    )
