"""A timer that wakes a workflow, set anew only when it must ring earlier: a timer costs events, and so does its end."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

from temporalio import workflow

MARGIN = timedelta(seconds=1)
"""Timers are coarser than the clock; one that rang too early would be the last."""


class Alarm:
    """One timer at most. It may ring for nothing; whoever it wakes looks for itself what is due."""

    def __init__(self, summary: str) -> None:
        self._summary = summary
        self._rings_at: datetime | None = None
        self._timer: asyncio.Task[None] | None = None

    @property
    def rang(self) -> bool:
        """Whether the timer is over, and none has been set since."""
        return self._timer is not None and self._timer.done()

    def set(self, due: datetime | None) -> None:
        """Have the timer ring at that time, or earlier; None: nothing need wake the workflow."""
        if due is None:
            return
        if not self.rang and self._rings_at is not None and self._rings_at <= due + MARGIN:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = due + MARGIN
        remaining = max(timedelta(0), self._rings_at - workflow.now())
        self._timer = asyncio.create_task(workflow.sleep(remaining, summary=self._summary))
