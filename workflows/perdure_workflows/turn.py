"""A turn: the tool calls of one reply, all of them brought to results, side by side."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from temporalio import workflow
from temporalio.exceptions import is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from perdure.messages import ToolMessage, ToolResult
    from perdure_workflows.approvals import Approvals
    from perdure_workflows.ending import RunFailsError
    from perdure_workflows.publication import Publication
    from perdure_workflows.purse import Purse
    from perdure_workflows.state import RunArguments, RunState
    from perdure_workflows.steering import Steering
    from perdure_workflows.succession import Succession
    from perdure_workflows.tool_calls import ToolCalls
    from perdure_workflows.transcript import Transcript, tail_of

Tasks = list[asyncio.Task[None]]


class Turn:
    """The turn that is open, if one is: the calls of the last reply, until the model can hear their results."""

    def __init__(
        self,
        arguments: RunArguments,
        state: RunState,
        transcript: Transcript,
        approvals: Approvals,
        steering: Steering,
        publication: Publication,
        purse: Purse,
        succession: Succession,
    ) -> None:
        self._arguments = arguments
        self._state = state
        self._transcript = transcript
        self._approvals = approvals
        self._publication = publication
        self._purse = purse
        self._succession = succession
        self._tool_calls = ToolCalls(arguments, state, approvals, steering)

    async def answer(self) -> None:
        """Bring every open call to its result, and the results to the transcript.

        Raises:
            RunFailsError: What became of a call ends the run.
        """
        self._refuse_beyond_limit()
        self._publication.doing("**Tools**: " + ", ".join(f"`{call.tool}`" for call in self._state.calls))
        tasks = [
            asyncio.create_task(self._tool_calls.answer(call)) for call in self._state.calls if call.result is None
        ]
        interruption: BaseException | None = None
        try:
            await self._follow(tasks)
        except (Exception, asyncio.CancelledError) as error:  # an evicted run is discarded by GeneratorExit, unawaited
            interruption = error
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        if interruption is not None:
            raise interruption
        for end in ends:
            if isinstance(end, Exception) and not is_cancelled_exception(end):
                raise end
        if all(call.result for call in self._state.calls):
            self._close()
        elif not self._state.rejected:
            self._succession.go()

    async def clean_up(self) -> None:
        """Have tools clean up behind calls that have no result, as the run ends. Nothing cuts that short."""
        cut_off = [call for call in self._state.calls if self._tool_calls.leaves_something(call)]
        cleaning = [asyncio.create_task(self._tool_calls.clean_up(call)) for call in cut_off]
        while not all(task.done() for task in cleaning):
            with suppress(asyncio.CancelledError):  # to cancel a run that is already ending changes nothing
                await workflow.wait_condition(lambda: all(task.done() for task in cleaning))
        for task in cleaning:
            task.result()

    def leave(self, why: str) -> None:
        """Answer what has no result, as the run ends, so that the record is complete."""
        if self._state.calls:
            self._tool_calls.leave(self._state.calls, why=why)
            self._close()

    async def _follow(self, tasks: Tasks) -> None:
        """Wait for the calls, as long as there is something to be done here, and show what people are asked."""
        while not all(task.done() for task in tasks):
            await self._something_happens(tasks)
            self._publication.approvals()
            if self._tool_calls.waiting and self._only_humans_left(tasks):
                await self._purse.rest()
            if self._need_not_wait(tasks) or any(_fails_run(task) for task in tasks):
                break
            await self._succession.adopt_if_due()

    async def _something_happens(self, tasks: Tasks) -> None:
        done = sum(task.done() for task in tasks)
        await self._succession.wake(
            lambda: sum(task.done() for task in tasks) > done or self._approvals.changed or self._need_not_wait(tasks)
        )

    def _need_not_wait(self, tasks: Tasks) -> bool:
        """Whether only humans are left to wait for, and either the run is over or another execution can do that."""
        return self._only_humans_left(tasks) and (self._state.rejected or self._succession.is_due)

    def _only_humans_left(self, tasks: Tasks) -> bool:
        return self._tool_calls.waiting == sum(not task.done() for task in tasks)

    def _close(self) -> None:
        calls, self._state.calls = self._state.calls, []
        results = tuple(call.result for call in calls if call.result is not None)
        self._transcript.append(ToolMessage(results=results))
        self._state.tail.append(tail_of(calls, model_worker=self._state.model_worker))
        self._publication.approvals()
        self._approvals.close_turn()

    def _refuse_beyond_limit(self) -> None:
        limit = self._arguments.limits.max_steps
        for call in self._state.calls:
            if call.step > limit and call.result is None:
                content = f"This call did not run: the run's limit of {limit} steps is reached."
                call.result = ToolResult(call_id=call.provider_id, content=content, is_error=True)
        self._state.totals = self._state.totals.model_copy(update={"steps": min(limit, self._state.totals.steps)})


def _fails_run(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and isinstance(task.exception(), RunFailsError)
