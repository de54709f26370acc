"""One tool call from the model's wish to its result: approval, dispatch, and what to do when the outcome is lost."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, TimeoutType
from temporalio.exceptions import TimeoutError as ActivityTimeoutError

with workflow.unsafe.imports_passed_through():
    from perdure.activities import STILL_RUNNING, TOOL_MISSING, ToolOutcome, call_tool, reconcile_call
    from perdure.contracts import cut
    from perdure.messages import ToolResult
    from perdure.plan import NOTED, plan_of
    from perdure.secret_arguments import mask_arguments
    from perdure.tool import BuiltIn, ToolSpec
    from perdure_workflows.approvals import Approvals
    from perdure_workflows.calls import activity_input, described
    from perdure_workflows.cancellation import raise_if_cancelled
    from perdure_workflows.options import HEARTBEAT_TIMEOUT, reconcile_options, tool_options
    from perdure_workflows.permission import Permissions, Refusal
    from perdure_workflows.questions import Questions
    from perdure_workflows.state import Call, RunArguments, RunState
    from perdure_workflows.steering import Steering

AUTOMATIC_REPEATS = 2
"""How often a lost call whose probe says 'not done' is dispatched again before a human is asked."""
MAX_REMARK_BYTES = 8 * 1024
"""The most that a result holds of our own or a human's words; a signal can bring up to 2 MiB of them."""


class ToolCalls:
    """Answers the calls of a reply. Each call gets exactly one result, whatever happens to it."""

    def __init__(self, arguments: RunArguments, state: RunState, approvals: Approvals, steering: Steering) -> None:
        self._arguments = arguments
        self._state = state
        self._steering = steering
        self._slots = asyncio.Semaphore(arguments.limits.max_parallel_tools)
        self._questions = Questions(arguments, approvals, steering)
        self._permissions = Permissions(arguments, state, approvals, self._questions)

    @property
    def waiting(self) -> int:
        """Calls that do nothing but wait for a human."""
        return self._questions.waiting

    async def answer(self, call: Call) -> None:
        """Bring a call to its result."""
        tool = self._arguments.spec.tool(call.tool)
        if tool is None:
            known = ", ".join(tool.name for tool in self._arguments.spec.tools) or "none"
            self._refuse(call, f"There is no tool {call.tool!r}. The tools are: {known}.")
        elif call.malformed is not None:
            said = "(not repeated, as some are secret)" if tool.secrets else call.malformed[:500]
            self._refuse(call, f"The arguments of {call.tool} are not a JSON object: {said}")
        elif tool.built_in is BuiltIn.PLAN:
            self._plan(call)
        elif await self._permitted(call, tool):
            outcome = await self._dispatch(call, tool)
            content = outcome.content
            if call.edited_by:
                edited = cut(json.dumps(mask_arguments(call.arguments, tool.secrets)), MAX_REMARK_BYTES)
                content = f"[{call.edited_by[:80]} changed the arguments to {edited}]\n{content}"
            call.result = ToolResult(call_id=call.provider_id, content=content, is_error=outcome.is_error)
            call.worker = "" if call.edited_by else outcome.worker
            if outcome.is_error:
                self._state.totals = self._state.totals.with_tool_error()

    def _plan(self, call: Call) -> None:
        try:
            self._state.plan = plan_of(call.arguments)
        except ValueError as error:
            self._refuse(call, f"This is no plan: {error}")
        else:
            call.result = ToolResult(call_id=call.provider_id, content=NOTED)

    def leave(self, calls: list[Call], *, why: str) -> None:
        """Answer what has no result and will get none, as the run ends."""
        for call in calls:
            if call.result is None:
                tool = self._arguments.spec.tool(call.tool)
                unknown = call.dispatched and tool is not None and not tool.effect.repeatable
                what = "The outcome of this call is unknown" if unknown else "This call has no result"
                self._refuse(call, f"{what}: {why}.")

    async def _permitted(self, call: Call, tool: ToolSpec) -> bool:
        try:
            await self._permissions.obtain(call, tool)
        except Refusal as refusal:
            self._refuse(call, refusal.why, denied_by=refusal.denied_by)
            if refusal.denied_by:
                self._state.denied[call.step] = refusal.denied_by
            return False
        return True

    async def _dispatch(self, call: Call, tool: ToolSpec) -> ToolOutcome:
        while True:
            if call.lost_because is None:
                try:
                    return await self._execute(call, tool)
                except ActivityError as error:
                    raise_if_cancelled(error)
                    if tool.effect.repeatable or _certainly_not_run(error):
                        return ToolOutcome(content=described(error, tool), is_error=True)
                    self._lose(call, tool, error)
            if (outcome := await self._settle_lost(call, tool)) is not None:
                return outcome
            call.lost_because = None

    async def _execute(self, call: Call, tool: ToolSpec) -> ToolOutcome:
        """Hand the call to a worker, as soon as there is a place for it and the run is not paused."""
        await self._take_slot()
        try:
            call.dispatched = True
            return await workflow.execute_activity(
                call_tool, activity_input(self._arguments, call, tool), **tool_options(tool, call)
            )
        finally:
            self._slots.release()

    async def _take_slot(self) -> None:
        while True:
            await self._questions.passage()
            await self._slots.acquire()
            if self._steering.paused is None:
                return
            self._slots.release()  # it was paused while it waited for the place

    def _lose(self, call: Call, tool: ToolSpec, error: ActivityError) -> None:
        call.lost += 1
        call.lost_because = described(error, tool)
        call.runs_on = isinstance(error.cause, ApplicationError) and error.cause.type == STILL_RUNNING
        if isinstance(error.cause, ActivityTimeoutError) and error.cause.type is TimeoutType.HEARTBEAT:
            call.may_run_until = workflow.now() + max(timedelta(0), tool.timeout - HEARTBEAT_TIMEOUT)

    async def _settle_lost(self, call: Call, tool: ToolSpec) -> ToolOutcome | None:
        """Find out what became of a lost `once` call; None means that it may be dispatched again."""
        if tool.has_reconcile and call.lost <= AUTOMATIC_REPEATS:
            done, outcome = await self._reconcile(call, tool)
            if done is False and call.may_run_until is not None and call.may_run_until > workflow.now():
                # 'Not done' is final only when nobody can be doing it any more.
                await workflow.sleep(call.may_run_until - workflow.now(), summary=f"{tool.name} may still be running")
                done, outcome = await self._reconcile(call, tool)
            if done or (done is False and not call.runs_on):
                return outcome
        approval_id = f"{call.call_id}-outcome-{call.lost}"
        reason = f"the outcome of {tool.name} is unknown: {call.lost_because}"
        if call.may_run_until is not None and call.may_run_until > workflow.now():
            reason += f"; a worker cut off from the server could be running it until {call.may_run_until:%H:%M:%S} UTC"
        requirement = self._permissions.decide(call, tool).approval.model_copy(update={"quorum": 1})
        question = self._questions.question(call, approval_id, reason=reason, requirement=requirement, kind="outcome")
        verdict = await self._questions.verdict(question)
        decision = verdict.decision
        if not verdict.approved:
            self._state.rejected = True
            return ToolOutcome(
                content=cut(
                    f"The outcome of {tool.name} is unknown and the run was stopped by {decision.decided_by}: "
                    f"{decision.reason or 'no reason given'}",
                    MAX_REMARK_BYTES,
                ),
                is_error=True,
            )
        if decision.outcome == "retry":
            return None
        known = decision.result if isinstance(decision.result, str) else json.dumps(decision.result)
        return ToolOutcome(content=cut(known, tool.max_result_bytes))

    async def _reconcile(self, call: Call, tool: ToolSpec) -> tuple[bool | None, ToolOutcome | None]:
        """Return whether the call took effect, None if the probe cannot tell, and the result if it did."""
        try:
            found = await workflow.execute_activity(
                reconcile_call, activity_input(self._arguments, call, tool), **reconcile_options(tool, call)
            )
        except ActivityError as error:
            raise_if_cancelled(error)
            return None, None
        raise_if_cancelled()
        return found.done, found.outcome

    @staticmethod
    def _refuse(call: Call, why: str, *, denied_by: str = "") -> None:
        content = cut(why, MAX_REMARK_BYTES)
        call.result = ToolResult(call_id=call.provider_id, content=content, is_error=True, denied_by=denied_by)


def _certainly_not_run(error: ActivityError) -> bool:
    return isinstance(error.cause, ApplicationError) and error.cause.type == TOOL_MISSING
