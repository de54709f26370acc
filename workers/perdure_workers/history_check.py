"""Whether this code goes on with histories that other code has made: many in a row, of all workflows of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from perdure.codec import data_converter
from perdure_workers.plugin import WORKFLOWS
from perdure_workers.replay import Departure, Trace, departure_of, has_begun, quiet_runtime, type_of
from perdure_workers.sandbox import strict

TYPES: Final = tuple(
    str(workflow._Definition.must_from_class(cls).name)  # the SDK tells it nowhere else
    for cls in WORKFLOWS
)
"""The types of our workflows."""


@dataclass(frozen=True)
class Replayed:
    """A history, and what became of it under this code."""

    workflow_type: str
    workflow_id: str
    execution_id: str
    departure: Departure | None

    def __str__(self) -> str:
        return (
            f"{self.workflow_type} {self.workflow_id} (execution {self.execution_id}): {self.departure or 'verified'}"
        )


class HistoryCheck:
    """Replays histories one after the other, each up to where this code departs from it."""

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        """Histories that could not be replayed, by why."""

    async def replay(self, histories: AsyncIterator[WorkflowHistory]) -> AsyncIterator[Replayed]:
        """Iterate over what became of the histories.

        Args:
            histories: With payloads decoded.
        """
        trace = Trace(None)
        replayer = Replayer(
            workflows=WORKFLOWS,
            data_converter=data_converter(),
            interceptors=[trace],
            workflow_runner=strict(),
            runtime=quiet_runtime(),
        )

        async def replayable() -> AsyncIterator[WorkflowHistory]:
            async for history in histories:
                if self._takes(history):
                    trace.started.clear()  # of the one before
                    yield history

        async with replayer.workflow_replay_iterator(replayable()) as results:
            async for result in results:
                failure, history = result.replay_failure, result.history
                yield Replayed(
                    workflow_type=type_of(history),
                    workflow_id=history.workflow_id,
                    execution_id=history.run_id,
                    departure=departure_of(history, failure, trace) if failure else None,
                )

    def _takes(self, history: WorkflowHistory) -> bool:
        kind = type_of(history)
        if kind not in TYPES:
            self.left_out[f"of {kind}, which is no workflow of Perdure's"] += 1
            return False
        if not has_begun(history):
            self.left_out["of workflows that have not begun yet"] += 1
            return False
        return True
