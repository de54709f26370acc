"""A run's next execution: when there must be one, what it starts with, and what it must not lose of those before."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from temporalio import workflow
from temporalio.common import TypedSearchAttributes
from temporalio.exceptions import ActivityError
from temporalio.workflow import ContinueAsNewVersioningBehavior

with workflow.unsafe.imports_passed_through():
    from pydantic_core import to_json

    from perdure.activities import TranscriptSlice, adopt_transcript
    from perdure.contracts import RunError
    from perdure.outage import TRANSCRIPT_LOST
    from perdure.search_attributes import ALL
    from perdure_workflows.alarm import Alarm
    from perdure_workflows.cancellation import raise_if_cancelled
    from perdure_workflows.ending import RunFailsError
    from perdure_workflows.options import transcript_options
    from perdure_workflows.purse import Purse
    from perdure_workflows.state import RunArguments, RunState
    from perdure_workflows.transcript import MAX_CARRIED_BYTES as MAX_TRANSCRIPT_BYTES
    from perdure_workflows.transcript import Transcript, fitting

MAX_CARRIED_BYTES = 1_500_000
"""What the next execution may start with; Temporal refuses an input of 2 MiB."""
MAX_MOVED_BYTES = 1_000_000
"""A transcript up to this size is carried to another build; a larger one stays, and the run with it on its build."""


class Succession:
    """Keeps a run within what Temporal lets one execution be, however long it goes on or waits."""

    def __init__(self, arguments: RunArguments, state: RunState, transcript: Transcript, purse: Purse) -> None:
        self._arguments = arguments
        self._state = state
        self._transcript = transcript
        self._purse = purse
        self._alarm = Alarm("keep the transcript")

    @property
    def is_due(self) -> bool:
        """Whether another execution should go on, and can be given what it needs."""
        # Results of an open turn can be larger than an input may be; the history has room for them to be heard first.
        suggested = workflow.info().is_continue_as_new_suggested()
        return suggested and len(to_json(self._next_arguments())) <= MAX_CARRIED_BYTES

    def go(self) -> NoReturn:
        """Have another execution go on, under the current build if workers are versioned and it needs nothing of this.

        What an execution holds, only workers of its own build can read.
        """
        attributes = workflow.info().typed_search_attributes
        arguments = self._next_arguments()
        points_back = arguments.state is not None and bool(arguments.state.transcript.segments)
        behavior = ContinueAsNewVersioningBehavior
        # Left to itself, the next execution starts with neither the memo nor the attributes that this one wrote.
        workflow.continue_as_new(
            arguments,
            memo=workflow.memo(),
            search_attributes=TypedSearchAttributes([pair for pair in attributes if pair.key in ALL]),
            initial_versioning_behavior=behavior.UNSPECIFIED if points_back else behavior.AUTO_UPGRADE,
        )

    async def wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for people: without money, without losing earlier messages, and for longer than one execution can.

        Raises:
            RunFailsError: Earlier messages cannot be read any more.
        """
        while not holds():
            await self._purse.rest()
            if self.is_due:
                self.go()
            await self.wake(lambda: holds() or self.is_due)
            await self.adopt_if_due()

    async def wake(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds, or until earlier messages are to be adopted."""
        self._alarm.set(self._transcript.adoption_due)  # one timer for the whole execution, not one a turn
        await workflow.wait_condition(lambda: holds() or self._adoption_is_due)

    async def adopt_if_due(self) -> None:
        """Take messages over from earlier executions before the server deletes their histories.

        Raises:
            RunFailsError: They cannot be read any more.
        """
        if not self._adoption_is_due:
            return
        while self._transcript.base > 0:
            wanted = TranscriptSlice(segments=self._transcript.segments, end=self._transcript.base)
            try:
                page = await workflow.execute_activity(adopt_transcript, wanted, **transcript_options())
            except ActivityError as error:
                raise_if_cancelled(error)
                lost = RunError(type=TRANSCRIPT_LOST, message=f"earlier messages cannot be read: {error.cause}")
                raise RunFailsError(lost) from error
            self._transcript.adopt(page)
            raise_if_cancelled()

    @property
    def _adoption_is_due(self) -> bool:
        due = self._transcript.adoption_due
        return due is not None and due <= workflow.now()

    def _next_arguments(self) -> RunArguments:
        """Return what the next execution starts with."""
        if workflow.info().is_target_worker_deployment_version_changed():
            moved = self._arguments_with(max_transcript_bytes=MAX_MOVED_BYTES)
            if len(to_json(moved)) <= MAX_CARRIED_BYTES:
                return moved
        return self._arguments_with(max_transcript_bytes=MAX_TRANSCRIPT_BYTES)

    def _arguments_with(self, *, max_transcript_bytes: int) -> RunArguments:
        carried = self._transcript.carried(
            execution_id=workflow.info().run_id, now=workflow.now(), max_bytes=max_transcript_bytes
        )
        update = {"transcript": carried, "tail": fitting(self._state.tail)}
        return self._arguments.model_copy(update={"state": self._state.model_copy(update=update)})
