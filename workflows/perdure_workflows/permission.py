"""Whether a call may run: what the policy says, standing grants, and the humans that it has to be asked of."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

with workflow.unsafe.imports_passed_through():
    from perdure.activities import CallCheck, check_call, record_grant
    from perdure.approval import ApprovalRequirement, argument_changes
    from perdure.grant import Grant, grant_id
    from perdure.oversight import Decision, PendingApproval
    from perdure.policy import CallFacts, Permission, PolicyDecision, decide, denial
    from perdure.tool import ToolSpec
    from perdure_workflows.approvals import Approvals, granted_term
    from perdure_workflows.calls import activity_input, described
    from perdure_workflows.cancellation import raise_if_cancelled
    from perdure_workflows.options import check_options, grant_options
    from perdure_workflows.questions import Questions
    from perdure_workflows.signals import MAX_QUOTED
    from perdure_workflows.state import Call, RunArguments, RunState, Verdict

MAX_NAME = 80
"""Characters of a decider's name in a summary."""


class Refusal(Exception):  # noqa: N818  # no error of anybody's: what the model hears
    """The call does not run."""

    def __init__(self, why: str, *, denied_by: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.denied_by = denied_by
        """The policy's rule, if it is the policy that refuses."""


class Permissions:
    """Lets calls run, or refuses them."""

    def __init__(self, arguments: RunArguments, state: RunState, approvals: Approvals, questions: Questions) -> None:
        self._arguments = arguments
        self._state = state
        self._approvals = approvals
        self._questions = questions

    def decide(self, call: Call, tool: ToolSpec) -> PolicyDecision:
        """Judge a call by the policy that the run is pinned to."""
        run = self._arguments
        facts = CallFacts(tool, call.arguments, agent=run.spec.name, roles=run.roles, user=run.user)
        return decide(run.policy, facts)

    async def obtain(self, call: Call, tool: ToolSpec) -> None:
        """Return when the call may run.

        Raises:
            Refusal: It may not.
            RunFailsError: Nobody decided in time, and that is to end the run.
        """
        if call.approved_by is not None:
            return
        decision = self._judged(call, tool)
        if decision.permission is Permission.ALLOW:
            return
        if decision.permission is Permission.DENY:
            raise Refusal(denial(decision), denied_by=decision.rule)
        name = self._grant_id(call) if _is_clear(decision, tool) else ""
        check = await self._check(call, tool, grant=name)
        if check.problem is not None:
            raise Refusal(check.problem)
        grant = self._approvals.granted(name) or check.grant
        if grant is not None and grant.covers(rule=call.rule, requirement=decision.approval):
            call.approved_by = f"{', '.join(grant.granted_by)[:MAX_NAME]}, standing grant"
            call.grant_id = grant.grant_id
            return
        await self._approved(call, tool, decision)

    def _judged(self, call: Call, tool: ToolSpec) -> PolicyDecision:
        """Judge the call, and note the rule and the resource with it."""
        decision = self.decide(call, tool)
        call.resource = decision.resource
        if self._arguments.policy is not None:
            call.rule = decision.rule
        return decision

    async def _approved(self, call: Call, tool: ToolSpec, decision: PolicyDecision) -> None:
        reason = f"{tool.name} needs an approval" + (f" ({call.rule})" if call.rule else "")
        question = self._questions.question(call, call.call_id, reason=reason, requirement=decision.approval)
        while True:
            verdict = await self._questions.verdict(question)
            said = verdict.decision
            if not verdict.approved:
                self._state.rejected |= self._arguments.spec.on_reject == "stop"
                raise Refusal(f"Rejected by {said.decided_by}: {said.reason or 'no reason given'}")
            if verdict.question is None or not verdict.edits:
                break
            question = await self._edited(call, tool, verdict.question, said)
        call.approved_by = ", ".join(vote.by for vote in verdict.votes)[:MAX_NAME] or said.decided_by[:MAX_NAME]
        await self._grant(call, tool, verdict, approval_id=question.approval_id)

    async def _edited(self, call: Call, tool: ToolSpec, question: PendingApproval, said: Decision) -> PendingApproval:
        """Put an approver's own arguments to the tool's schema and to the policy, and ask on."""
        edited = call.model_copy(update={"arguments": said.arguments})
        decision = self._judged(edited, tool)
        problem = (await self._check(edited, tool)).problem
        if problem is None and decision.permission is Permission.DENY:
            problem = f"the policy denies these arguments ({decision.rule})"
        if problem is not None:
            self._approvals.reopen(question, problem, now=workflow.now())
            return question
        changes = argument_changes(call.arguments, edited.arguments, secrets=tool.secrets)
        call.arguments, call.edited_by = edited.arguments, said.decided_by[:MAX_NAME]
        call.rule, call.resource = edited.rule, edited.resource
        # What would run unasked needs nobody but its author.
        requirement = decision.approval if decision.permission is Permission.ASK else ApprovalRequirement()
        amended = self._questions.amended(question, call, requirement)
        self._approvals.amend(amended, changes, now=workflow.now())
        return amended

    async def _grant(self, call: Call, tool: ToolSpec, verdict: Verdict, *, approval_id: str) -> None:
        """Let calls of this kind run without asking again, if everyone who approved wants that."""
        decision, term = self.decide(call, tool), granted_term(verdict.votes)
        if term is None or decision.permission is not Permission.ASK or not _is_clear(decision, tool):
            return
        run, now = self._arguments, workflow.now()
        grant = Grant(
            grant_id=self._grant_id(call),
            org=run.org,
            agent=run.spec.name,
            user=run.user,
            tool=call.tool,
            resource=call.resource,
            rule=call.rule,
            requirement=decision.approval,
            granted_by=tuple(vote.by for vote in verdict.votes),
            reason=verdict.decision.reason[:MAX_QUOTED],
            run_id=workflow.info().workflow_id,
            approval_id=approval_id,
            at=now,
            expires_at=now + term if isinstance(term, timedelta) else None,
        )
        if grant.expires_at is not None:
            try:
                await workflow.execute_activity(record_grant, grant, **grant_options(tool))
            except ActivityError as error:
                raise_if_cancelled(error)
                workflow.logger.warning("a standing grant could not be recorded", exc_info=True)
                return
            raise_if_cancelled()
        self._approvals.grant(grant, now=now)

    async def _check(self, call: Call, tool: ToolSpec, *, grant: str = "") -> CallCheck:
        """Have a worker validate the arguments, and look for a standing grant by the way."""
        try:
            check = await workflow.execute_activity(
                check_call,
                activity_input(self._arguments, call, tool).model_copy(update={"grant_id": grant}),
                **check_options(tool, call),
            )
        except ActivityError as error:
            raise_if_cancelled(error)
            return CallCheck(problem=f"The arguments of {call.tool} could not be checked: {described(error, tool)}")
        raise_if_cancelled()
        return check

    def _grant_id(self, call: Call) -> str:
        run = self._arguments
        return grant_id(org=run.org, agent=run.spec.name, user=run.user, tool=call.tool, resource=call.resource)


def _is_clear(decision: PolicyDecision, tool: ToolSpec) -> bool:
    """Whether a grant may be given for a call, or hold for it: it is sure what the call touches, and which rule asks.

    All calls of which that cannot be told look alike, and one of them would stand for the others.
    """
    return not decision.uncertain and (tool.resource is None or decision.resource is not None)
