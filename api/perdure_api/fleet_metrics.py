"""Numbers that no worker can tell of itself: of task queues, of what waits for humans, and of what is stuck.

They are asked of Temporal when Prometheus comes, but at most every few seconds, whoever else comes meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from opentelemetry.metrics import CallbackOptions, Observation
from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client

from perdure.errors import PerdureError
from perdure.metrics import meter
from perdure.metrics_export import MetricsExport
from perdure.search_attributes import AGENT, APPROVALS
from perdure_api import visibility
from perdure_api.gateway import Gateway
from perdure_api.pollers import PROBE_TIMEOUT, count_all, count_for_new_runs
from perdure_api.rpc import temporal_errors
from perdure_api.schemas import InboxFilter

EVERY: Final = timedelta(seconds=5)
MAX_WAITING: Final = 500
"""Runs that are looked at for what they ask, or why they are stuck; there may be thousands."""
KINDS: Final = {
    "workflow": TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW,
    "activity": TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY,
}

log = structlog.get_logger(__name__)


@dataclass
class _Snapshot:
    backlog: list[Observation] = field(default_factory=list)
    backlog_age: list[Observation] = field(default_factory=list)
    workers: list[Observation] = field(default_factory=list)
    waiting: list[Observation] = field(default_factory=list)
    oldest: list[Observation] = field(default_factory=list)
    stuck: list[Observation] = field(default_factory=list)
    up: list[Observation] = field(default_factory=list)


class FleetMetrics:
    """The deployment's numbers, in this process's export."""

    def __init__(self, client: Client, gateway: Gateway, *, export: MetricsExport, task_queue: str) -> None:
        self.export = export
        self._client = client
        self._gateway = gateway
        self._task_queue = task_queue
        self._turn = asyncio.Lock()
        self._at = -EVERY.total_seconds()
        self._now = _Snapshot()
        gauges = {
            "perdure_task_queue_backlog": ("", "Tasks that wait for a worker.", "backlog"),
            "perdure_task_queue_backlog_age": ("s", "How long the oldest of them waits.", "backlog_age"),
            "perdure_workers": ("", "Worker processes that poll.", "workers"),
            "perdure_approvals_waiting": ("", "Approvals that wait for a human.", "waiting"),
            "perdure_approvals_oldest_age": ("s", "How long the oldest of them waits.", "oldest"),
            "perdure_runs_stuck": ("", "Open runs whose workflow code breaks.", "stuck"),
            "perdure_temporal_up": ("", "Whether Temporal answers: 1, else 0.", "up"),
        }
        for name, (unit, description, part) in gauges.items():
            meter.create_observable_gauge(name, callbacks=[self._reader(part)], unit=unit, description=description)

    async def refresh(self) -> None:
        """Ask Temporal, unless that was done within the last seconds; what it does not answer is left out."""
        async with self._turn:
            if time.monotonic() - self._at < EVERY.total_seconds():
                return
            found = _Snapshot()
            try:
                with temporal_errors():
                    await self._look_at_queues(found)
                    await self._look_at_approvals(found)
                    await self._look_at_stuck_runs(found)
                found.up = [Observation(1)]
            except PerdureError as error:
                log.warning("fleet_unknown", error=str(error))
                found.up = [Observation(0)]
            self._now, self._at = found, time.monotonic()

    async def _look_at_queues(self, found: _Snapshot) -> None:
        rated = self._gateway.agents.rated_queues()
        for queue, kinds in ((self._task_queue, tuple(KINDS)), *((name, ("activity",)) for name in rated)):
            for kind in kinds:
                request = DescribeTaskQueueRequest(
                    namespace=self._client.namespace,
                    task_queue=TaskQueue(name=queue),
                    task_queue_type=KINDS[kind],
                    report_stats=True,
                )
                told = await self._client.workflow_service.describe_task_queue(
                    request, retry=False, timeout=PROBE_TIMEOUT
                )
                labels = {"task_queue": queue, "kind": kind}
                polling = count_for_new_runs(told) if queue == self._task_queue else count_all(told)
                found.workers.append(Observation(polling, labels))
                found.backlog.append(Observation(told.stats.approximate_backlog_count, labels))
                age = told.stats.approximate_backlog_age.ToTimedelta().total_seconds()
                found.backlog_age.append(Observation(age, labels))

    async def _look_at_approvals(self, found: _Snapshot) -> None:
        waiting: dict[str, int] = {}
        oldest: dict[str, datetime] = {}
        rows = self._client.list_workflows(
            visibility.inbox_query(InboxFilter(), orgs=()), limit=MAX_WAITING, rpc_timeout=PROBE_TIMEOUT
        )
        async for row in rows:
            agent = row.typed_search_attributes.get(AGENT) or ""
            waiting[agent] = waiting.get(agent, 0) + len(row.typed_search_attributes.get(APPROVALS) or ())
            for asked in (await visibility.inbox_memo(row)).pending:
                oldest[agent] = min(oldest.get(agent, asked.asked_at), asked.asked_at)
        now = datetime.now(UTC)
        for agent in sorted(self._known_agents() | waiting.keys()):
            age = (now - oldest[agent]).total_seconds() if agent in oldest else 0.0
            found.waiting.append(Observation(waiting.get(agent, 0), {"agent": agent}))
            found.oldest.append(Observation(max(0.0, age), {"agent": agent}))

    async def _look_at_stuck_runs(self, found: _Snapshot) -> None:
        rows = self._client.list_workflows(visibility.stuck_query(), limit=MAX_WAITING, rpc_timeout=PROBE_TIMEOUT)
        stuck = Counter([row.typed_search_attributes.get(AGENT) or "" async for row in rows])
        for agent in sorted(self._known_agents() | stuck.keys()):
            found.stuck.append(Observation(stuck[agent], {"agent": agent}))

    def _known_agents(self) -> set[str]:
        # A gauge that goes away would keep an alert.
        return {agent.name for agent in self._gateway.agents.list()}

    def _reader(self, part: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            observations: list[Observation] = getattr(self._now, part)
            return observations

        return read
