"""A run of an agent: the model is called, its tool calls are answered, until there is an answer or a limit."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from temporalio import workflow
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from perdure.activities import TranscriptPage, TranscriptRequest
    from perdure.agent import AgentSpec
    from perdure.budget import Refusal
    from perdure.contracts import MAX_REPLY_BYTES, WORKFLOW_NAME, RunError, RunResult, RunStatus, RunView, cut
    from perdure.outage import is_outage
    from perdure_workflows.approvals import Approvals
    from perdure_workflows.cancellation import raise_if_cancelled
    from perdure_workflows.dialogue import Dialogue
    from perdure_workflows.ending import Ending, RunFailsError
    from perdure_workflows.notices import Notices
    from perdure_workflows.publication import Publication
    from perdure_workflows.purse import Purse
    from perdure_workflows.renewal import Renewal
    from perdure_workflows.scorings import Scorings
    from perdure_workflows.shortfall import Shortfall
    from perdure_workflows.signals import NO_PAYLOAD
    from perdure_workflows.state import RunArguments, RunState
    from perdure_workflows.steering import Steering
    from perdure_workflows.succession import Succession
    from perdure_workflows.transcript import Transcript
    from perdure_workflows.turn import Turn

_PATCH = "cancelled-at-hand-over"
"""Runs that went over and forgot that they were cancelled replay as they went."""


@workflow.defn(name=WORKFLOW_NAME)
class AgentRun:
    """One run. Its id is Temporal's workflow id; a long run is a chain of executions."""

    @workflow.init
    def __init__(self, arguments: RunArguments) -> None:
        state = arguments.state or RunState(deadline=workflow.now() + arguments.limits.run_timeout)
        self._arguments = arguments
        self._state = state
        self._transcript = Transcript(state.transcript)
        self._renewal = Renewal(arguments, state)
        self._approvals = Approvals(state.approvals, self._renewal)
        self._steering = Steering(state.steering)
        self._notices = Notices(arguments)
        self._scorings = Scorings(arguments)
        self._publication = Publication(state, self._approvals, self._steering, self._notices)
        self._purse = Purse(arguments, state, self._transcript)
        self._succession = Succession(arguments, state, self._transcript, self._purse)
        self._dialogue = Dialogue(arguments, state, self._transcript, self._purse, self._publication)
        people = (self._approvals, self._steering, self._publication)
        self._turn = Turn(arguments, state, self._transcript, *people, self._purse, self._succession)
        self._shortfall = Shortfall(arguments, state, self._purse, *people, self._succession)
        if arguments.state is None:
            self._dialogue.say(arguments.input)

    @workflow.run
    async def run(self, arguments: RunArguments) -> RunResult:
        """Run to an end, and say which."""
        del arguments  # taken by __init__, so that signals and queries find a complete run
        try:
            result = await self._until_handed_over()
        except (Exception, asyncio.CancelledError):  # an evicted run is discarded by GeneratorExit, unawaited
            await self._let_children_start()
            raise
        await self._let_children_start()
        return result

    async def _until_handed_over(self) -> RunResult:
        try:
            return await self._until_ended()
        except workflow.ContinueAsNewError:
            # What people say meanwhile is in the state that is carried over; a cancellation is not.
            try:
                await workflow.wait_condition(lambda: not self._notices.starting)
            except asyncio.CancelledError:
                await self._wind_up()
                self._end(Ending(RunStatus.CANCELLED, why="the run was cancelled"))
                raise
            raise

    async def _until_ended(self) -> RunResult:
        loop = asyncio.create_task(self._loop())
        showing = asyncio.create_task(self._publication.follow_steering())
        try:
            await self._renewal.wait_until(loop.done)
        except TimeoutError:
            if await self._interrupt(loop):
                await self._wind_up()
                return self._end(Ending(RunStatus.TIMED_OUT, why="the run reached its time limit"))
        except asyncio.CancelledError:
            if await self._interrupt(loop) or _hands_over(loop):
                await self._wind_up()
                self._end(Ending(RunStatus.CANCELLED, why="the run was cancelled"))
                raise
        finally:
            showing.cancel()
        if not loop.cancelled() and isinstance(loop.exception(), Exception):  # not to continue as new, with the purse
            await self._purse.close()
            self._turn_away_late_words()
        return loop.result()

    async def _loop(self) -> RunResult:
        try:
            return await self._steps()
        except RunFailsError as failure:
            error = failure.error
        await self._turn.clean_up()
        result = self._end(Ending(RunStatus.FAILED, why=error.message, error=error))
        raise ApplicationError(error.message, result, type=error.type, non_retryable=True)

    async def _steps(self) -> RunResult:
        await self._enter()
        while True:
            await self._succession.wait_until(lambda: self._steering.paused is None)
            ending = await self._advance()
            if ending is not None:
                await self._purse.close()
                if self._is_answered or not ending.is_answer:  # else somebody has spoken meanwhile
                    return self._end(ending)
            if not self._turn_is_open and self._succession.is_due:
                self._succession.go()

    async def _advance(self) -> Ending | None:
        """Answer the open calls; or end; or call the model, if a budget has room for that."""
        if self._state.calls:
            await self._turn.answer()
            if not self._state.rejected:
                return None
            await self._turn.clean_up()
            return Ending(RunStatus.REJECTED, why="the run was stopped by a rejection")
        if self._is_answered:
            return Ending(RunStatus.COMPLETED, output=self._state.answer)
        if self._state.totals.steps >= self._arguments.limits.max_steps:
            return Ending(RunStatus.MAX_STEPS, why="the run reached its step limit")
        await self._succession.adopt_if_due()
        if self._steering.paused is None and not self._state.mid_turn:
            self._dialogue.say_meanwhile(self._steering.take_messages())
        if self._steering.paused is None and (refusal := await self._cover_call()):
            why = await self._shortfall.meet(refusal)
            return Ending(RunStatus.OUT_OF_BUDGET, why=why, refusal=refusal) if why else None
        if self._steering.paused is None:
            return await self._call_model()
        return None

    async def _call_model(self) -> Ending | None:
        try:
            reply = await self._dialogue.ask()
        except RunFailsError as failure:
            if self._arguments.spec.on_outage != "answer" or not is_outage(failure.error.type):
                raise
            return Ending(RunStatus.COMPLETED, output=self._arguments.spec.outage_message, error=failure.error)
        self._dialogue.take(reply)
        if not self._is_answered:
            raise_if_cancelled()
        return None

    async def _cover_call(self) -> Refusal | None:
        """Return the budget that has no room for the next model call, if one has none."""
        if model := self._purse.unpriced_model:
            why = f"nobody has a price for {model!r}, and the policy lets no model be called without one"
            raise RunFailsError(RunError(type="model_unpriced", message=why))
        return await self._purse.cover()

    async def _enter(self) -> None:
        """Wait until the run has its place among the open ones."""
        if self._purse.queued:
            self._publication.doing("Waits for its place: as many runs are open as may be.")
            await self._purse.enter()
            self._publication.admitted()

    @property
    def _is_answered(self) -> bool:
        """Whether nothing is left but to end the run with the model's answer."""
        return self._state.answer is not None and not self._steering.paused and not self._steering.has_messages

    @property
    def _turn_is_open(self) -> bool:
        """Whether the last reply has calls to be answered, or is an answer to end with."""
        return bool(self._state.calls) or self._state.answer is not None

    async def _interrupt(self, loop: asyncio.Task[RunResult]) -> bool:
        """Cancel what runs and wait for its end; return False if the run came to an end of its own meanwhile."""
        loop.cancel()
        while not loop.done():
            with suppress(asyncio.CancelledError):  # to cancel a run that is already ending changes nothing
                await workflow.wait_condition(loop.done)
        error = None if loop.cancelled() else loop.exception()
        return loop.cancelled() or (error is not None and is_cancelled_exception(error))

    async def _wind_up(self) -> None:
        """Clean up behind what was cut off, and give back what was reserved."""
        await self._turn.clean_up()
        await self._purse.close()

    def _end(self, ending: Ending) -> RunResult:
        """End the run: nothing stays open, and the record is complete."""
        self._turn.leave(ending.why)
        self._approvals.withdraw_all(now=workflow.now())
        self._steering.close(now=workflow.now())
        result = RunResult(
            status=ending.status,
            output=cut(self._state.last_words if ending.output is None else ending.output, MAX_REPLY_BYTES),
            error=ending.error,
            totals=self._state.totals,
            denied=self._state.denied,
            reason="" if ending.error else ending.why,
            refusal=ending.refusal,
            plan=self._state.plan,
        )
        self._publication.end(result)
        self._scorings.end(result, length=self._transcript.length)
        return result

    async def _let_children_start(self) -> None:
        """Wait until the server has started deliveries and scorings, as it starts none of a workflow that is over."""

        def started() -> bool:
            return not (self._notices.starting or self._scorings.starting)

        waited = not started()
        while not started():
            with suppress(asyncio.CancelledError):
                await workflow.wait_condition(started)
        if waited:
            self._turn_away_late_words()

    def _turn_away_late_words(self) -> None:
        """Record that what people have said since the run was over came too late."""
        self._steering.close(now=workflow.now())
        self._publication.steering()

    @workflow.signal(description='{"approval_id": "…", "decided_by": "…"}, and if wanted reason, digest, arguments')
    def approve(self, decision: RawValue = NO_PAYLOAD) -> None:
        """Let a call run, or say what became of a lost one."""
        self._approvals.receive(decision, approved=True, now=workflow.now())

    @workflow.signal(description='{"approval_id": "…", "decided_by": "…", "reason": "…"}')
    def reject(self, decision: RawValue = NO_PAYLOAD) -> None:
        """Refuse a call; the model hears the reason."""
        self._approvals.receive(decision, approved=False, now=workflow.now())

    @workflow.signal(description='{"grant_id": "…", "by": "…", "reason": "…"}')
    def revoke(self, revocation: RawValue = NO_PAYLOAD) -> None:
        """Take back a grant that holds for the run."""
        self._approvals.revoke(revocation, now=workflow.now())

    @workflow.signal(description='{"text": "…", "from": "…"}')
    def message(self, message: RawValue = NO_PAYLOAD) -> None:
        """Say something to the model before it is called next."""
        self._steering.receive_message(message, now=workflow.now())

    @workflow.signal(description='nothing, or {"by": "…", "reason": "…"}')
    def pause(self, hold: RawValue = NO_PAYLOAD) -> None:
        """Start no further step."""
        self._steering.pause(hold, now=workflow.now())

    @workflow.signal(description='nothing, or {"by": "…", "reason": "…"}')
    def resume(self, hold: RawValue = NO_PAYLOAD) -> None:
        """Go on after a pause."""
        self._steering.resume(hold, now=workflow.now())

    @workflow.signal(description="an answer of the organisation's ledger")
    def ledger(self, answer: RawValue = NO_PAYLOAD) -> None:
        """Have what was reserved, or know why not."""
        self._purse.receive(answer)

    @workflow.query
    def view(self) -> RunView:
        """Return the run as it is now."""
        return self._publication.view(messages=self._transcript.length)

    @workflow.query
    def transcript(self, request: TranscriptRequest) -> TranscriptPage:
        """Return a page of the conversation."""
        return self._transcript.page(request)

    @workflow.query
    def spec(self) -> AgentSpec:
        """Return the agent that the run is pinned to."""
        return self._arguments.spec


def _hands_over(loop: asyncio.Task[RunResult]) -> bool:
    """Whether it went over into another execution right when it was cancelled: that one would not know of it."""
    return isinstance(loop.exception(), workflow.ContinueAsNewError) and workflow.patched(_PATCH)
