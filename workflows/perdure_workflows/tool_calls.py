"""One tool call from the model's wish to its result: approval, dispatch, and what to do when the outcome is lost."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from typing import Literal

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    TimeoutType,
)
from temporalio.exceptions import TimeoutError as ActivityTimeoutError

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import (
        STILL_RUNNING,
        TOOL_MISSING,
        PendingApproval,
        ToolCall,
        ToolOutcome,
        call_digest,
        call_tool,
        check_call,
        cut,
        reconcile_call,
    )
    from perdure.messages import ToolResult
    from perdure.tool import Approval, ToolSpec
    from perdure_workflows.approvals import Approvals
    from perdure_workflows.cancellation import raise_if_cancelled
    from perdure_workflows.options import HEARTBEAT_TIMEOUT, check_options, reconcile_options, tool_options
    from perdure_workflows.state import Call, RunArguments, RunState, Verdict
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
        self._approvals = approvals
        self._steering = steering
        self._slots = asyncio.Semaphore(arguments.limits.max_parallel_tools)
        self.waiting = 0
        """Calls that do nothing but wait for a human."""

    async def answer(self, call: Call) -> None:
        """Bring a call to its result."""
        tool = self._arguments.spec.tool(call.tool)
        if tool is None:
            known = ", ".join(tool.name for tool in self._arguments.spec.tools) or "none"
            self._refuse(call, f"There is no tool {call.tool!r}. The tools are: {known}.")
        elif call.malformed is not None:
            self._refuse(call, f"The arguments of {call.tool} are not a JSON object: {call.malformed[:500]}")
        elif await self._permitted(call, tool):
            outcome = await self._dispatch(call, tool)
            content = outcome.content
            if call.edited_by:
                edited = cut(json.dumps(call.arguments), MAX_REMARK_BYTES)
                content = f"[{call.edited_by[:80]} changed the arguments to {edited}]\n{content}"
            call.result = ToolResult(call_id=call.provider_id, content=content, is_error=outcome.is_error)
            call.worker = "" if call.edited_by else outcome.worker

    def leave(self, calls: list[Call], *, why: str) -> None:
        """Answer what has no result and will get none, as the run ends."""
        for call in calls:
            if call.result is None:
                tool = self._arguments.spec.tool(call.tool)
                unknown = call.dispatched and tool is not None and not tool.effect.repeatable
                what = "The outcome of this call is unknown" if unknown else "This call has no result"
                self._refuse(call, f"{what}: {why}.")

    async def _permitted(self, call: Call, tool: ToolSpec) -> bool:
        if tool.approval is Approval.ALLOW or call.approved_by is not None:
            return True
        if problem := await self._problem(call, tool):
            self._refuse(call, problem)
            return False
        approval = self._approval(call, call.call_id, reason=f"{tool.name} needs an approval")
        while True:
            verdict = await self._verdict(approval)
            decision = verdict.decision
            if not verdict.approved:
                self._state.rejected |= self._arguments.spec.on_reject == "stop"
                self._refuse(call, f"Rejected by {decision.decided_by}: {decision.reason or 'no reason given'}")
                return False
            if decision.arguments is None or decision.arguments == call.arguments:
                break
            edited = call.model_copy(update={"arguments": decision.arguments})
            problem = await self._problem(edited, tool)
            if problem is None:
                call.arguments, call.edited_by = decision.arguments, decision.decided_by
                break
            self._approvals.reopen(approval, problem, now=workflow.now())
        call.approved_by = decision.decided_by[:80]
        return True

    async def _dispatch(self, call: Call, tool: ToolSpec) -> ToolOutcome:
        while True:
            if call.lost_because is None:
                try:
                    return await self._execute(call, tool)
                except ActivityError as error:
                    raise_if_cancelled(error)
                    if tool.effect.repeatable or _certainly_not_run(error):
                        return ToolOutcome(content=_describe(error, tool), is_error=True)
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
                call_tool, self._activity_input(call, tool), **tool_options(tool, call)
            )
        finally:
            self._slots.release()

    async def _take_slot(self) -> None:
        while True:
            await self._passage()
            await self._slots.acquire()
            if self._steering.paused is None:
                return
            self._slots.release()  # it was paused while it waited for the place

    async def _passage(self) -> None:
        """Wait while the run is paused."""
        if self._steering.paused is None:
            return
        self.waiting += 1
        try:
            await workflow.wait_condition(lambda: self._steering.paused is None)
        finally:
            self.waiting -= 1

    def _lose(self, call: Call, tool: ToolSpec, error: ActivityError) -> None:
        call.lost += 1
        call.lost_because = _describe(error, tool)
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
        verdict = await self._verdict(self._approval(call, approval_id, reason=reason, kind="outcome"))
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
                reconcile_call, self._activity_input(call, tool), **reconcile_options(tool, call)
            )
        except ActivityError as error:
            raise_if_cancelled(error)
            return None, None
        raise_if_cancelled()
        return found.done, found.outcome

    async def _problem(self, call: Call, tool: ToolSpec) -> str | None:
        try:
            check = await workflow.execute_activity(
                check_call, self._activity_input(call, tool), **check_options(tool, call)
            )
        except ActivityError as error:
            raise_if_cancelled(error)
            return f"The arguments of {call.tool} could not be checked: {_describe(error, tool)}"
        raise_if_cancelled()
        return check.problem

    async def _verdict(self, approval: PendingApproval) -> Verdict:
        self._approvals.ask(approval)
        approval_id = approval.approval_id
        timeout = None if approval.deadline is None else max(timedelta(0), approval.deadline - workflow.now())
        self.waiting += 1
        try:
            await workflow.wait_condition(
                lambda: self._approvals.verdict(approval_id) is not None,
                timeout=timeout,
                timeout_summary=f"deadline to approve {approval.tool}",
            )
        except TimeoutError:
            self._approvals.expire(approval_id, now=workflow.now())
        finally:
            self.waiting -= 1
        await self._passage()
        verdict = self._approvals.verdict(approval_id)
        assert verdict is not None  # noqa: S101  # both ways out of the wait leave one
        return verdict

    def _approval(
        self, call: Call, approval_id: str, *, reason: str, kind: Literal["call", "outcome"] = "call"
    ) -> PendingApproval:
        asked = self._state.approvals.pending.get(approval_id)
        if asked is not None:  # after continue-as-new
            return asked
        now = workflow.now()
        patience = self._arguments.limits.approval_timeout
        return PendingApproval(
            approval_id=approval_id,
            kind=kind,
            tool=call.tool,
            arguments=call.arguments,
            digest=call_digest(call.tool, call.arguments),
            step=call.step,
            asked_at=now,
            deadline=now + patience if patience else None,
            reason=reason,
        )

    def _activity_input(self, call: Call, tool: ToolSpec) -> ToolCall:
        return ToolCall(
            step=call.step,
            call_id=call.call_id,
            tool=call.tool,
            arguments=call.arguments,
            effect=tool.effect.value,
            timeout=tool.timeout,
            max_attempts=tool.max_attempts if tool.effect.repeatable else 1,
            max_result_bytes=tool.max_result_bytes,
            agent=self._arguments.spec.name,
            user=self._arguments.user,
            org=self._arguments.org,
        )

    @staticmethod
    def _refuse(call: Call, why: str) -> None:
        call.result = ToolResult(call_id=call.provider_id, content=cut(why, MAX_REMARK_BYTES), is_error=True)


def _certainly_not_run(error: ActivityError) -> bool:
    return isinstance(error.cause, ApplicationError) and error.cause.type == TOOL_MISSING


def _describe(error: ActivityError, tool: ToolSpec) -> str:
    cause = error.cause
    if isinstance(cause, ActivityTimeoutError):
        if cause.type is TimeoutType.HEARTBEAT:
            silence = f"{HEARTBEAT_TIMEOUT.total_seconds():g} s"
            return f"{tool.name} failed: nothing was heard for {silence} of the worker that ran it"
        return f"{tool.name} failed: it took longer than {tool.timeout.total_seconds():g} s"
    if isinstance(cause, ApplicationError):
        return cause.message
    return str(cause or error)
