"""A reset, as the run notices it: its time begins anew, and decisions that come before their questions wait for them.

A run that is retried days later would else be over at once, as its time limit is a moment, and so are the deadlines of
its approvals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import DEADLINE_TIMER
    from perdure_workflows.state import RunArguments, RunState

_PATCH = "time-begins-anew"
"""Runs that were reset before there was such a thing replay without it."""


class Renewal:
    """Watches for resets of the execution, and keeps the run's deadline."""

    def __init__(self, arguments: RunArguments, state: RunState) -> None:
        self._state = state
        self._run_timeout = arguments.limits.run_timeout
        self._was_reset = False
        self._listeners: list[Callable[[datetime], None]] = []
        self.reapplying = False
        """Whether the signals that come now came once before, to the execution that the reset left behind."""
        if arguments.state is not None:
            # An execution that was reset to its very beginning is not told so: it only begins late.
            state.deadline += workflow.now() - workflow.info().start_time
        workflow.register_random_seed_callback(self._notice)
        self._watching = asyncio.create_task(self._watch())

    def then(self, listener: Callable[[datetime], None]) -> None:
        """Have somebody told when time begins anew."""
        self._listeners.append(listener)

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: The run's time limit passed first.
        """
        while True:
            deadline = self._state.deadline
            remaining = max(timedelta(0), deadline - workflow.now())
            try:
                await workflow.wait_condition(holds, timeout=remaining, timeout_summary=DEADLINE_TIMER)
            except TimeoutError:
                self.renew_if_reset()
                if self._state.deadline == deadline:
                    raise
            else:
                return

    def renew_if_reset(self) -> None:
        """Let time begin anew, if the run was reset: a timer that has rung may be of the time before."""
        if self._was_reset:
            self._was_reset = False
            if workflow.patched(_PATCH):
                now = workflow.now()
                self._state.deadline = now + self._run_timeout
                for listener in self._listeners:
                    listener(now)

    def _notice(self, _: int) -> None:
        # The SDK calls this outside of the workflow's context, when a reset gives the run another seed.
        self._was_reset = self.reapplying = True

    async def _watch(self) -> None:
        while True:
            await workflow.wait_condition(lambda: self._was_reset or self.reapplying)
            self.renew_if_reset()
            self.reapplying = False
