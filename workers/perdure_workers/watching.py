"""Waiting for a run: its events up to the end, also across a restart of the server, and the totals so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.contracts import Totals
from perdure.events import ModelReplied, RunEnded, RunEvent, RunHeld, StepLog, StepStatus
from perdure.history import follow_events
from perdure.redaction import SECRETS, Redactor
from perdure_workers.plain_text import bill, line, tokens
from perdure_workers.standstill import Standstill

PATIENCE: Final = timedelta(seconds=60)
"""How long the server may be away before watching a run is given up."""
RETRY_PAUSE: Final = 0.5


async def watch(
    client: Client, run_id: str, *, patience: timedelta = PATIENCE, redactor: Redactor = SECRETS
) -> AsyncIterator[RunEvent]:
    """Iterate over a run's events until it ends, going on where it was when the server comes back.

    Raises:
        RunNotFoundError: There is no such run.
        RPCError: The server is away for longer than `patience`.
    """
    last: str | None = None
    away_since: float | None = None
    while True:
        try:
            async for event in follow_events(client, run_id, after=last, redactor=redactor):
                last, away_since = event.id, None
                yield event
        except RPCError as error:
            if error.status != RPCStatusCode.UNAVAILABLE:
                raise
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > patience.total_seconds():
                raise
            await asyncio.sleep(RETRY_PAUSE)
        else:
            return


class Progress:
    """A run in one line: how far it is, what it has cost, and what it does or waits for."""

    def __init__(self) -> None:
        self._log = StepLog()
        self._totals = Totals()
        self._end: RunEnded | None = None
        self._paused = False
        self._standstill = Standstill()

    def add(self, event: RunEvent) -> None:
        """Take in the next event."""
        self._log.add(event)
        self._standstill.add(event)
        if isinstance(event, ModelReplied):
            priced = event.cost_usd is not None
            self._totals = self._totals.model_copy(
                update={
                    "usage": self._totals.usage + event.usage,
                    "cost_usd": self._totals.cost_usd + (event.cost_usd or 0),
                    "unpriced_calls": self._totals.unpriced_calls + (not priced),
                }
            )
        elif isinstance(event, RunHeld):
            self._paused = event.kind == "run.paused"
        elif isinstance(event, RunEnded):
            self._end = event

    @property
    def line(self) -> str:
        """The line."""
        begun = sum(step.status is not StepStatus.REQUESTED for step in self._log.steps)
        return " · ".join(
            [
                f"{begun} {'step' if begun == 1 else 'steps'}",
                tokens(self._totals.usage),
                bill(self._totals),
                self._end.status.value if self._end else self._doing(),
            ]
        )

    def _doing(self) -> str:
        if self._paused:
            return "is paused"
        if self._standstill.waits:
            return f"waits for {self._standstill.waits}"
        open_steps = [step for step in self._log.steps if not step.status.ended]
        waiting = [line(step.name) for step in open_steps if step.status is StepStatus.WAITING]
        if waiting:
            return f"waits for approval of {', '.join(waiting)}"
        return (
            ", ".join(f"{'asks' if step.kind == 'model' else 'runs'} {line(step.name)}" for step in open_steps)
            or "goes on"
        )
