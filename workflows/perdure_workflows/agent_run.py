"""A run of an agent: the model is called, its tool calls are answered, until there is an answer or a limit."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import NoReturn

from temporalio import workflow
from temporalio.common import RawValue, TypedSearchAttributes
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from pydantic_core import to_json

    from perdure.agent import AgentSpec
    from perdure.budget import Refusal
    from perdure.contracts import (
        MAX_REPLY_BYTES,
        WORKFLOW_NAME,
        Finish,
        ModelCall,
        ModelReply,
        RunError,
        RunResult,
        RunStatus,
        RunView,
        TailMessage,
        TranscriptPage,
        TranscriptRequest,
        TranscriptSlice,
        adopt_transcript,
        call_digest,
        call_model,
        cut,
    )
    from perdure.messages import Message, ToolCallPart, ToolMessage, ToolResult, UserMessage
    from perdure.outage import TRANSCRIPT_LOST, is_outage
    from perdure.search_attributes import ALL
    from perdure_workflows.approvals import Approvals
    from perdure_workflows.cancellation import raise_if_cancelled
    from perdure_workflows.notices import Notices
    from perdure_workflows.options import model_options, transcript_options
    from perdure_workflows.publication import Publication
    from perdure_workflows.purse import Purse
    from perdure_workflows.questions import RunFailsError
    from perdure_workflows.shortfall import Shortfall
    from perdure_workflows.signals import NO_PAYLOAD
    from perdure_workflows.state import Call, RunArguments, RunState
    from perdure_workflows.steering import Steering
    from perdure_workflows.tool_calls import ToolCalls
    from perdure_workflows.transcript import Transcript, fitting, tail_of

GO_ON = "Your reply was cut off at the output limit. Continue exactly where it stopped."
CUT_CALL = (
    "This call did not run: the reply was cut off at the output limit, and the call may be incomplete. "
    "Make it again, with less text around it."
)
MAX_CARRIED_BYTES = 1_500_000
"""What the next execution may start with; Temporal refuses an input of 2 MiB."""
MAX_REMEMBERED = 4096
"""Characters of a cut reply that an output guard is told when the reply goes on."""
ALARM_MARGIN = timedelta(seconds=1)
"""Timers are coarser than the clock; one that rang too early would be the last."""
FAILED_ENDS = {
    Finish.REFUSAL: "model_refused",
    Finish.CONTENT_FILTER: "content_filtered",
    Finish.BLOCKED: "output_blocked",
    Finish.CONTEXT_WINDOW: "context_window",
}
"""Finishes that end the run as failed, and the error's type."""


@workflow.defn(name=WORKFLOW_NAME)
class AgentRun:
    """One run. Its id is Temporal's workflow id; a long run is a chain of executions."""

    @workflow.init
    def __init__(self, arguments: RunArguments) -> None:
        self._arguments = arguments
        self._state = arguments.state or RunState(deadline=workflow.now() + arguments.limits.run_timeout)
        self._transcript = Transcript(self._state.transcript)
        self._approvals = Approvals(self._state.approvals)
        self._steering = Steering(self._state.steering)
        self._tool_calls = ToolCalls(arguments, self._state, self._approvals, self._steering)
        self._spec_digest = arguments.spec.digest()
        self._notices = Notices(arguments)
        self._publication = Publication(self._state, self._approvals, self._steering, self._notices)
        self._purse = Purse(arguments, self._state, self._transcript)
        self._shortfall = Shortfall(
            arguments, self._state, self._purse, self._approvals, self._steering, self._publication
        )
        self._alarm: asyncio.Task[None] | None = None
        if arguments.state is None:
            self._say(arguments.input)

    @workflow.run
    async def run(self, arguments: RunArguments) -> RunResult:
        """Run to an end, and say which."""
        del arguments  # taken by __init__, so that signals and queries find a complete run
        try:
            result = await self._until_handed_over()
        except (Exception, asyncio.CancelledError):  # an evicted run is discarded by GeneratorExit, unawaited
            await self._let_notices_start()
            raise
        await self._let_notices_start()
        return result

    async def _until_handed_over(self) -> RunResult:
        try:
            return await self._until_ended()
        except workflow.ContinueAsNewError:
            # What people say meanwhile is in the state that is carried over; a cancellation is not.
            try:
                await workflow.wait_condition(lambda: not self._notices.starting)
            except asyncio.CancelledError:
                self._stop(RunStatus.CANCELLED, why="the run was cancelled")
                raise
            raise

    async def _until_ended(self) -> RunResult:
        loop = asyncio.create_task(self._loop())
        showing = asyncio.create_task(self._publication.follow_steering())
        remaining = max(timedelta(0), self._state.deadline - workflow.now())
        try:
            await workflow.wait_condition(loop.done, timeout=remaining, timeout_summary="the run's deadline")
        except TimeoutError:
            if await self._interrupt(loop):
                await self._purse.close()
                return self._stop(RunStatus.TIMED_OUT, why="the run reached its time limit")
        except asyncio.CancelledError:
            if await self._interrupt(loop):
                await self._purse.close()
                self._stop(RunStatus.CANCELLED, why="the run was cancelled")
                raise
        finally:
            showing.cancel()
        if not loop.cancelled() and isinstance(loop.exception(), Exception):  # not to continue as new, with the purse
            await self._purse.close()
        return loop.result()

    async def _let_notices_start(self) -> None:
        """Wait until the server has started the deliveries, as it starts none of a workflow that is over."""
        waited = self._notices.starting
        while self._notices.starting:
            with suppress(asyncio.CancelledError):
                await workflow.wait_condition(lambda: not self._notices.starting)
        if waited:  # what people said meanwhile came too late
            self._steering.close(now=workflow.now())
            self._publication.steering()

    async def _loop(self) -> RunResult:
        await self._enter()
        while True:
            await self._pass_gate()
            if self._state.calls:
                await self._answer_calls()
                if self._state.rejected:
                    await self._purse.close()
                    return self._stop(RunStatus.REJECTED, why="the run was stopped by a rejection")
            elif self._is_answered:
                await self._purse.close()
                if self._is_answered:  # nobody has spoken meanwhile
                    return self._stop(RunStatus.COMPLETED, output=self._state.answer)
            else:
                if self._state.totals.steps >= self._arguments.limits.max_steps:
                    await self._purse.close()
                    return self._stop(RunStatus.MAX_STEPS, why="the run reached its step limit")
                await self._adopt_if_due()
                if self._steering.paused is None:  # it may have been paused meanwhile
                    self._hear_people()
                    if refusal := await self._cover_call():
                        if why := await self._meet(refusal):
                            await self._purse.close()
                            return self._stop(RunStatus.OUT_OF_BUDGET, why=why, refusal=refusal)
                    elif self._steering.paused is None:
                        reply = await self._call_model()
                        if isinstance(reply, RunError):
                            await self._purse.close()
                            apology = self._arguments.spec.outage_message
                            return self._stop(RunStatus.COMPLETED, output=apology, error=reply)
                        self._hear(reply)
                        if not self._is_answered:
                            raise_if_cancelled()
            if not self._turn_is_open and self._should_continue_as_new():
                self._continue_as_new()

    @property
    def _is_answered(self) -> bool:
        """Whether nothing is left but to end the run with the model's answer."""
        return self._state.answer is not None and not self._steering.paused and not self._steering.has_messages

    async def _enter(self) -> None:
        """Wait until the run has its place among the open ones."""
        if self._purse.queued:
            self._publication.doing("Waits for its place: as many runs are open as may be.")
            await self._purse.enter()
            self._publication.admitted()

    async def _cover_call(self) -> Refusal | None:
        """Return the budget that has no room for the next model call, if one has none."""
        if model := self._purse.unpriced_model:
            why = f"nobody has a price for {model!r}, and the policy lets no model be called without one"
            self._fail(RunError(type="model_unpriced", message=why))
        return await self._purse.cover()

    async def _meet(self, refusal: Refusal) -> str | None:
        """Do what is to be done about a budget without room; return why the run is to end, if it is."""
        try:
            return await self._shortfall.meet(refusal, wait=self._wait_until)
        except RunFailsError as error:
            self._fail(error.error)

    async def _pass_gate(self) -> None:
        """Wait while the run is paused."""
        await self._wait_until(lambda: self._steering.paused is None)

    async def _wait_until(self, holds: Callable[[], bool]) -> None:
        """Wait for people, without losing what earlier executions hold or outgrowing this one."""
        while not holds():
            await self._purse.rest()
            if self._should_continue_as_new():
                self._continue_as_new()
            self._set_alarm()
            await workflow.wait_condition(lambda: holds() or self._adoption_is_due() or self._should_continue_as_new())
            await self._adopt_if_due()

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

    async def _call_model(self) -> ModelReply | RunError:
        """Return the model's reply; or why there is none, if the agent then has a message of its own to answer."""
        step = self._next_step()
        self._publication.doing(f"**Step {step}**: the model `{self._purse.model}` is answering.")
        call = ModelCall(
            step=step,
            agent=self._arguments.spec.name,
            version=self._arguments.spec.version,
            spec_digest=self._spec_digest,
            length=self._transcript.length,
            digest=self._transcript.digest,
            tail=tuple(fitting(self._state.tail)),
            timeout=self._arguments.limits.model_timeout,
            denied=self._state.denied,
            unfinished=self._state.unfinished_text[-MAX_REMEMBERED:] if self._arguments.spec.output_guard else "",
            model=self._purse.model if self._purse.downgraded else "",
        )
        self._state.denied = {}
        options = model_options(self._purse.spec, self._arguments.limits, step=step)
        try:
            return await workflow.execute_activity(call_model, call, **options)
        except ActivityError as error:
            raise_if_cancelled(error)
            why = _model_error(error)
            if self._arguments.spec.on_outage == "answer" and is_outage(why.type):
                return why
            self._fail(why)

    def _hear_people(self) -> None:
        """Let what people said meanwhile join the conversation; a final answer then was not the last word."""
        if self._state.mid_turn:
            return
        for text in self._steering.take_messages():
            self._say(text)
            self._state.answer = None
            self._state.unfinished_text = ""

    def _hear(self, reply: ModelReply) -> None:
        """Take in a reply: an answer, calls to be made, or words that are to be continued."""
        self._state.totals = self._state.totals.with_reply(reply)
        message = reply.message
        self._transcript.append(message)
        self._purse.pay(reply)
        self._state.tail = []
        self._state.model_worker = reply.worker
        unfinished = self._state.unfinished_text
        text, self._state.unfinished_text = unfinished[: len(unfinished) - reply.withdrawn] + message.text, ""
        self._state.last_words = text or self._state.last_words
        self._state.calls = [self._open_call(part) for part in message.tool_calls]
        if self._state.calls:
            self._state.unfinished_text = ""  # these words led to calls, and are no part of the answer
        if reply.finish is Finish.BLOCKED:
            self._state.last_words = ""  # its beginning may have been said before the reply was cut
        if reply.finish in FAILED_ENDS:
            self._fail(
                RunError(
                    type=FAILED_ENDS[reply.finish],
                    message=reply.detail or f"the model stopped: {reply.finish}",
                )
            )
        self._state.mid_turn = reply.finish is Finish.PAUSE and not self._state.calls
        if reply.finish is Finish.LENGTH:
            self._go_on_after_cut(text, said=bool(message.text))
        elif not self._state.calls and not self._state.mid_turn:
            self._state.answer = text

    def _go_on_after_cut(self, text: str, *, said: bool) -> None:
        if self._state.calls:
            for call in self._state.calls:
                call.result = ToolResult(call_id=call.provider_id, content=CUT_CALL, is_error=True)
        elif said:
            self._state.unfinished_text = text
            self._say(GO_ON)
        else:
            limit = self._arguments.spec.max_output_tokens
            self._fail(
                RunError(
                    type="model_output_limit",
                    message=f"the model used up max_output_tokens={limit} without an answer; raise the limit",
                )
            )

    async def _answer_calls(self) -> None:
        """Bring every open call to its result, and the results to the transcript."""
        self._refuse_calls_beyond_limit()
        self._publication.doing("**Tools**: " + ", ".join(f"`{call.tool}`" for call in self._state.calls))
        tasks = [
            asyncio.create_task(self._tool_calls.answer(call)) for call in self._state.calls if call.result is None
        ]
        interruption: BaseException | None = None
        try:
            while not all(task.done() for task in tasks):
                await self._something_happens(tasks)
                self._publication.approvals()
                if self._tool_calls.waiting and self._only_humans_left(tasks):
                    await self._purse.rest()
                if self._need_not_wait(tasks) or any(_failure_of(task) for task in tasks):
                    break
                await self._adopt_if_due()
        except (Exception, asyncio.CancelledError) as error:  # an evicted run is discarded by GeneratorExit, unawaited
            interruption = error
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        if interruption is not None:
            raise interruption
        for end in ends:
            if isinstance(end, RunFailsError):
                self._fail(end.error)
            if isinstance(end, Exception) and not is_cancelled_exception(end):
                raise end
        if all(call.result for call in self._state.calls):
            self._close_turn()
        elif not self._state.rejected:
            self._continue_as_new()

    async def _something_happens(self, tasks: list[asyncio.Task[None]]) -> None:
        done = sum(task.done() for task in tasks)
        self._set_alarm()
        await workflow.wait_condition(
            lambda: (
                sum(task.done() for task in tasks) > done
                or self._approvals.changed
                or self._adoption_is_due()
                or self._need_not_wait(tasks)
            )
        )

    def _set_alarm(self) -> None:
        """Have a timer wake the run when its transcript is due: one for the whole execution, not one a turn."""
        due = self._transcript.adoption_due
        if due is not None and self._alarm is None:
            remaining = max(timedelta(0), due - workflow.now()) + ALARM_MARGIN
            self._alarm = asyncio.create_task(workflow.sleep(remaining, summary="keep the transcript"))

    def _adoption_is_due(self) -> bool:
        due = self._transcript.adoption_due
        return due is not None and due <= workflow.now()

    def _need_not_wait(self, tasks: list[asyncio.Task[None]]) -> bool:
        """Whether only humans are left to wait for, and either the run is over or another execution can do that."""
        return self._only_humans_left(tasks) and (self._state.rejected or self._should_continue_as_new())

    def _only_humans_left(self, tasks: list[asyncio.Task[None]]) -> bool:
        return self._tool_calls.waiting == sum(not task.done() for task in tasks)

    def _close_turn(self) -> None:
        calls, self._state.calls = self._state.calls, []
        results = tuple(call.result for call in calls if call.result is not None)
        self._transcript.append(ToolMessage(results=results))
        self._state.tail.append(tail_of(calls, model_worker=self._state.model_worker))
        self._publication.approvals()
        self._approvals.close_turn()

    def _stop(
        self,
        status: RunStatus,
        *,
        why: str = "",
        output: str | None = None,
        error: RunError | None = None,
        refusal: Refusal | None = None,
    ) -> RunResult:
        """End the run: nothing stays open, and the record is complete."""
        if self._state.calls:
            self._tool_calls.leave(self._state.calls, why=why)
            self._close_turn()
        self._approvals.withdraw_all(now=workflow.now())
        self._steering.close(now=workflow.now())
        result = RunResult(
            status=status,
            output=cut(self._state.last_words if output is None else output, MAX_REPLY_BYTES),
            error=error,
            totals=self._state.totals,
            denied=self._state.denied,
            reason="" if error else why,
            refusal=refusal,
        )
        self._publication.end(result)
        return result

    def _fail(self, error: RunError) -> NoReturn:
        result = self._stop(RunStatus.FAILED, why=error.message, error=error)
        raise ApplicationError(error.message, result, type=error.type, non_retryable=True)

    def _should_continue_as_new(self) -> bool:
        # Results of an open turn can be larger than an input may be; the history has room for them to be heard first.
        suggested = workflow.info().is_continue_as_new_suggested()
        return suggested and len(to_json(self._next_arguments())) <= MAX_CARRIED_BYTES

    def _next_arguments(self) -> RunArguments:
        """Return what the next execution starts with."""
        carried = self._transcript.carried(execution_id=workflow.info().run_id, now=workflow.now())
        update = {"transcript": carried, "tail": fitting(self._state.tail)}
        return self._arguments.model_copy(update={"state": self._state.model_copy(update=update)})

    def _continue_as_new(self) -> NoReturn:
        attributes = workflow.info().typed_search_attributes
        # Left to itself, the next execution starts with neither the memo nor the attributes that this one wrote.
        workflow.continue_as_new(
            self._next_arguments(),
            memo=workflow.memo(),
            search_attributes=TypedSearchAttributes([pair for pair in attributes if pair.key in ALL]),
        )

    async def _adopt_if_due(self) -> None:
        """Take messages over from earlier executions before the server deletes their histories."""
        if not self._adoption_is_due():
            return
        while self._transcript.base > 0:
            wanted = TranscriptSlice(segments=self._transcript.segments, end=self._transcript.base)
            try:
                page = await workflow.execute_activity(adopt_transcript, wanted, **transcript_options())
            except ActivityError as error:
                raise_if_cancelled(error)
                self._fail(RunError(type=TRANSCRIPT_LOST, message=f"earlier messages cannot be read: {error.cause}"))
            self._transcript.adopt(page)
            raise_if_cancelled()

    def _open_call(self, part: ToolCallPart) -> Call:
        step = self._next_step()
        # Some servers number their calls from zero in each reply; and after a reset to an earlier step another call
        # must not inherit this one's idempotency key. Hence a name of our own, from place and content.
        content = f"{part.id}:{call_digest(part.name, part.arguments, salt=self._arguments.salt)}"
        call_id = f"c{step}-{hashlib.sha256(content.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
        return Call(
            call_id=call_id,
            provider_id=part.id,
            tool=part.name,
            arguments=part.arguments,
            malformed=part.malformed,
            step=step,
        )

    def _refuse_calls_beyond_limit(self) -> None:
        limit = self._arguments.limits.max_steps
        for call in self._state.calls:
            if call.step > limit and call.result is None:
                content = f"This call did not run: the run's limit of {limit} steps is reached."
                call.result = ToolResult(call_id=call.provider_id, content=content, is_error=True)
        self._state.totals = self._state.totals.model_copy(update={"steps": min(limit, self._state.totals.steps)})

    def _say(self, text: str) -> None:
        message: Message = UserMessage(text=text)
        self._transcript.append(message)
        self._state.tail.append(TailMessage(message=message))

    def _next_step(self) -> int:
        self._state.totals = self._state.totals.with_step()
        return self._state.totals.steps


def _failure_of(task: asyncio.Task[None]) -> RunError | None:
    """Return why the whole run is to fail, if a call has come to that."""
    error = task.exception() if task.done() and not task.cancelled() else None
    return error.error if isinstance(error, RunFailsError) else None


def _model_error(error: ActivityError) -> RunError:
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return RunError(type=cause.type or "model_failed", message=cause.message)
    return RunError(type="model_timeout", message=f"the model call was lost each time it was tried: {cause or error}")
