"""The floor: what Temporal itself costs, in a loop of two no-op activities a turn that passes no data.

Its worker has the settings of Perdure's, and none of Perdure's code runs in it.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from benchmarks.journal import Journal, Kind

TIMEOUT = timedelta(seconds=60)
"""What frameworks that do not heartbeat give a call, and therefore how long a lost one stays lost."""


@workflow.defn
class Floor:
    """A run of the floor."""

    @workflow.run
    async def run(self, turns: int) -> None:
        """Make two calls a turn, and one for the answer."""
        for _ in range(turns):
            await workflow.execute_activity("think", start_to_close_timeout=TIMEOUT)
            await workflow.execute_activity("act", start_to_close_timeout=TIMEOUT)
        await workflow.execute_activity("think", start_to_close_timeout=TIMEOUT)


class FloorActivities:
    """Two calls that do nothing, for as long as they are told to."""

    def __init__(self, journal: Journal | None, pause: timedelta) -> None:
        self._journal = journal
        self._pause = pause.total_seconds()

    @activity.defn
    async def think(self) -> None:
        """Stand for a model call."""
        await self._pass(Kind.MODEL)

    @activity.defn
    async def act(self) -> None:
        """Stand for a tool call."""
        await self._pass(Kind.TOOL)

    async def _pass(self, kind: Kind) -> None:
        if self._journal is None:
            return
        info = activity.info()
        with self._journal.call(kind, run=info.workflow_id or "", key=info.activity_id):
            await asyncio.sleep(self._pause)


def floor_worker(
    client: Client, task_queue: str, *, journal: Journal | None, pause: timedelta, settings: dict[str, Any]
) -> Worker:
    """Return a worker of the floor.

    Args:
        settings: Of `Worker`, as Perdure's own worker has them; left out, Temporal's defaults hold.
    """
    activities = FloorActivities(journal, pause)
    return Worker(
        client,
        task_queue=task_queue,
        workflows=[Floor],
        activities=[activities.think, activities.act],
        **settings,
    )
