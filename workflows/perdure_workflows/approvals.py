"""Approvals of a run: who is asked what, which decisions count, and a record of those that do not.

Decisions come by signal, from the API and from the `temporal` command alike. A signal cannot be refused, so whatever
does not count changes nothing here and is written down as `ignored`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from temporalio import workflow
from temporalio.common import RawValue

with workflow.unsafe.imports_passed_through():
    from perdure.approval import ArgumentChange, GrantTerm, Vote, same_person
    from perdure.contracts import MAX_INPUT_BYTES, cut
    from perdure.grant import Grant
    from perdure.oversight import ApprovalRecord, ApprovalsMemo, Decision, PendingApproval, Revocation
    from perdure.secret_arguments import unmask_arguments
    from perdure_workflows.renewal import Renewal
    from perdure_workflows.signals import MAX_QUOTED, NO_PAYLOAD, read_signal
    from perdure_workflows.state import ApprovalsState, Verdict

_UNKNOWN: Final = "no pending approval has that id"
_PATCH: Final = "early-decisions"
"""Runs that were reset before there was such a thing replay without it."""
MAX_RECORDS: Final = 100
MAX_RAISE: Final = 1_000_000_000
"""US dollars that a human can add to a budget at once."""
MAX_SHOWN: Final = 8 * 1024
"""Bytes of a pending call's arguments that the memo shows; lists and inboxes carry it with every run."""
MAX_GRANTS: Final = 200
"""Grants that hold for the run; the oldest are forgotten, and their calls asked about again."""


class Approvals:
    """The run's questions to humans and the answers that count."""

    def __init__(self, state: ApprovalsState, renewal: Renewal | None = None) -> None:
        self._state = state
        self._renewal = renewal
        self._renewed = False
        """Deadlines changed, and nothing else that would have the memo written."""
        self._early: dict[str, tuple[RawValue, bool]] = {}
        """Decisions that a reset brings before the questions that they are about, and whether they approve."""
        self._unknown: list[tuple[ApprovalRecord, RawValue, bool]] = []
        """Decisions that were turned away as nobody had asked, and their records; those of this moment at least."""
        if renewal is not None:
            renewal.then(self._renew)

    @property
    def pending(self) -> tuple[PendingApproval, ...]:
        """What is asked and not decided, oldest first."""
        return tuple(self._state.pending.values())

    @property
    def records(self) -> tuple[ApprovalRecord, ...]:
        """What happened, the most recent last."""
        return tuple(self._state.records)

    @property
    def grants(self) -> tuple[Grant, ...]:
        """What may run without asking again, for this run."""
        return tuple(self._state.grants)

    @property
    def changed(self) -> bool:
        """Whether the memo is behind."""
        return bool(self._state.unpublished) or self._renewed

    def ask(self, approval: PendingApproval) -> None:
        """Put a question, or put it again after continue-as-new, which changes nothing."""
        if approval.approval_id in self._state.pending or approval.approval_id in self._state.verdicts:
            return
        self._state.pending[approval.approval_id] = approval
        self._record(
            ApprovalRecord(kind="asked", at=approval.asked_at, approval_id=approval.approval_id, tool=approval.tool)
        )
        self._recall(now=approval.asked_at)
        if early := self._early.pop(approval.approval_id, None):
            payload, approved = early
            self.receive(payload, approved=approved, now=approval.asked_at)

    def receive(self, payload: RawValue, *, approved: bool, now: datetime) -> None:
        """Take a decision as a signal brought it: count it, or record why it does not."""
        try:
            decision = _read(payload)
        except ValueError as error:
            self._ignore(str(error), Decision(), now=now)
            return
        if self._is_early(decision):
            self._early[decision.approval_id] = payload, approved
            return
        if problem := self._why_not(decision, approved=approved, now=now):
            self._ignore(problem, decision, now=now)
            if self._renewal is not None and problem == _UNKNOWN:
                self._unknown = [one for one in self._unknown if one[0].at == now]
                self._unknown.append((self._state.records[-1], payload, approved))
            return
        approval = self._state.pending[decision.approval_id]
        if decision.arguments is not None:  # edited around the masks that people are shown
            arguments = unmask_arguments(decision.arguments, approval.arguments, approval.secrets)
            decision = decision.model_copy(update={"arguments": arguments})
        if not approved:
            self._settle(Verdict(approved=False, decision=decision), now=now)
        elif decision.arguments is not None and decision.arguments != approval.arguments:
            self._edit(approval, decision)
        else:
            self._vote(approval, decision, now=now)

    def after_reset(self, approval: PendingApproval) -> PendingApproval | None:
        """Return a question whose deadline has passed as a reset has put it anew; None if none has."""
        if self._renewal is not None:
            self._renewal.renew_if_reset()
        now_asked = self._state.pending.get(approval.approval_id)
        return None if now_asked is None or now_asked.deadline == approval.deadline else now_asked

    def expire(self, approval_id: str, *, now: datetime) -> None:
        """Reject what nobody decided in time."""
        if approval_id in self._state.pending:
            decision = Decision(
                approval_id=approval_id, decided_by="deadline", reason="nobody decided before the deadline"
            )
            self._settle(Verdict(approved=False, decision=decision, expired=True), now=now)

    def escalate(self, approval_id: str, *, now: datetime) -> PendingApproval | None:
        """Ask those whom the question escalates to; None if it has been decided meanwhile, or escalates to nobody."""
        approval = self._state.pending.get(approval_id)
        if approval is None or approval.requirement.escalate_to is None:
            return None
        requirement = approval.requirement.escalate_to
        escalated = approval.model_copy(
            update={
                "requirement": requirement,
                "deadline": now + requirement.deadline if requirement.deadline else None,
                "votes": (),
                "escalations": approval.escalations + 1,
            }
        )
        self._state.pending[approval_id] = escalated
        self._record(_about(escalated, "escalated", now=now, approvers=requirement.approvers))
        return escalated

    def reopen(self, approval: PendingApproval, problem: str, *, now: datetime) -> None:
        """Ask again: the decision that counted cannot be carried out."""
        verdict = self._state.verdicts.pop(approval.approval_id)
        self._ignore(problem, verdict.decision, now=now)
        self._state.pending[approval.approval_id] = approval

    def amend(self, approval: PendingApproval, changes: tuple[ArgumentChange, ...], *, now: datetime) -> None:
        """Ask about other arguments, which fit the tool and the policy; their author's yes counts if it may.

        Args:
            approval: With the new arguments, their digest, and what their rule requires.
            changes: What is different now.
            now: The time.
        """
        decision = self._state.verdicts.pop(approval.approval_id).decision
        self._state.pending[approval.approval_id] = approval
        author = decision.decided_by[:MAX_QUOTED]
        self._record(_about(approval, "edited", now=now, decided_by=author, edited=True, changes=changes))
        if not list(_why_not_by(decision, approval)):
            self._vote(approval, decision, now=now)

    def grant(self, grant: Grant, *, now: datetime) -> None:
        """Remember that calls like this one need not be asked about, as far as the grant holds for the run."""
        if grant.expires_at is None:
            kept = [one for one in self._state.grants if one.grant_id != grant.grant_id]
            self._state.grants = [*kept, grant][-MAX_GRANTS:]
        self._record(
            ApprovalRecord(
                kind="granted",
                at=now,
                approval_id=grant.approval_id,
                tool=grant.tool,
                decided_by=", ".join(grant.granted_by)[:MAX_QUOTED],
                reason=grant.reason[:MAX_QUOTED],
                grant_id=grant.grant_id,
                expires_at=grant.expires_at,
            )
        )

    def granted(self, grant_id: str) -> Grant | None:
        """Return the grant of that id that holds for the run."""
        return next((one for one in self._state.grants if one.grant_id == grant_id), None)

    def revoke(self, payload: RawValue, *, now: datetime) -> None:
        """Take a grant back, or record why there is nothing to take back."""
        try:
            revocation = read_signal(payload, Revocation)
        except ValueError as error:
            self._ignore(f"revoke: {error}", Decision(), now=now)
            return
        grant = self.granted(revocation.grant_id)
        if grant is None:
            problem = f"no grant {revocation.grant_id[:MAX_QUOTED]!r} holds for this run"
            self._ignore(problem, Decision(decided_by=revocation.by), now=now)
            return
        self._state.grants.remove(grant)
        self._record(
            ApprovalRecord(
                kind="revoked",
                at=now,
                tool=grant.tool,
                decided_by=revocation.by[:MAX_QUOTED],
                reason=revocation.reason[:MAX_QUOTED],
                grant_id=grant.grant_id,
            )
        )

    def verdict(self, approval_id: str) -> Verdict | None:
        """Return the decision that counts, if there is one."""
        return self._state.verdicts.get(approval_id)

    def close_turn(self) -> None:
        """Forget the verdicts of calls that are answered; their records remain."""
        self._state.verdicts.clear()

    def withdraw_all(self, *, now: datetime) -> None:
        """Take every open question back, as the run ends."""
        for approval in self.pending:
            del self._state.pending[approval.approval_id]
            self._record(_about(approval, "withdrawn", now=now))

    def publish(self) -> ApprovalsMemo:
        """Return what the memo should say, and regard it as said."""
        pending = tuple(_abridged(approval.shown()) for approval in self.pending)
        memo = ApprovalsMemo(pending=pending, changes=tuple(self._state.unpublished))
        self._state.unpublished.clear()
        self._renewed = False
        return memo

    def _why_not(self, decision: Decision, *, approved: bool, now: datetime) -> str | None:
        approval = self._state.pending.get(decision.approval_id)
        if approval is None:
            verdict = self._state.verdicts.get(decision.approval_id)
            if verdict is not None and verdict.edits:
                return f"other arguments by {verdict.decision.decided_by[:MAX_QUOTED]!r} are being checked; decide then"
            decided = self._decided(decision.approval_id)
            return f"already {decided.kind} by {decided.decided_by!r}" if decided else _UNKNOWN
        if approval.deadline is not None and now >= approval.deadline:
            return "the deadline has passed"
        problems = [*_why_not_by(decision, approval), *_why_not_this(decision, approval)]
        problems += _why_not_approve(decision, approval) if approved else ()
        return next(iter(problems), None)

    def _renew(self, now: datetime) -> None:
        """Give people as long to decide as they had when they were asked."""
        self._recall(now=now)
        for approval_id, approval in self._state.pending.items():
            if approval.deadline is not None:
                deadline = now + (approval.deadline - approval.asked_at)
                self._state.pending[approval_id] = approval.model_copy(update={"deadline": deadline})
                self._renewed = True

    def _recall(self, *, now: datetime) -> None:
        """Have decisions wait that were turned away right before a reset was told: the SDK applies signals first."""
        if self._renewal is None or not self._renewal.reapplying:
            return
        again = [one for one in self._unknown if one[0].at == now]
        self._unknown.clear()
        if again and workflow.patched(_PATCH):
            for record, payload, approved in again:
                self._early[record.approval_id] = payload, approved

    def _is_early(self, decision: Decision) -> bool:
        """Whether a reset brings a decision again, before the task that asks for it is done again."""
        known = decision.approval_id in self._state.pending or decision.approval_id in self._state.verdicts
        reapplied = self._renewal is not None and self._renewal.reapplying
        return reapplied and not known and self._decided(decision.approval_id) is None

    def _decided(self, approval_id: str) -> ApprovalRecord | None:
        settled = (r for r in reversed(self._state.records) if r.approval_id == approval_id and r.kind != "ignored")
        return next((record for record in settled if record.kind in ("approved", "rejected", "expired")), None)

    def _vote(self, approval: PendingApproval, decision: Decision, *, now: datetime) -> None:
        by, reason = decision.decided_by[:MAX_QUOTED], decision.reason[:MAX_QUOTED]
        vote = Vote(by=by, at=now, reason=reason, grant=decision.grant, amount_usd=decision.amount_usd)
        votes = (*approval.votes, vote)
        voted = approval.model_copy(update={"votes": votes})
        if voted.missing <= 0:
            self._settle(Verdict(approved=True, decision=decision, votes=votes), now=now)
            return
        self._state.pending[approval.approval_id] = voted
        self._record(_about(voted, "voted", now=now, decided_by=by, reason=reason, missing=voted.missing))

    def _edit(self, approval: PendingApproval, decision: Decision) -> None:
        """Hand other arguments over to be checked; what becomes of them is recorded then."""
        del self._state.pending[approval.approval_id]
        edit = Verdict(approved=True, decision=decision, edits=True, question=approval)
        self._state.verdicts[approval.approval_id] = edit

    def _settle(self, verdict: Verdict, *, now: datetime) -> None:
        decision = verdict.decision
        approval = self._state.pending.pop(decision.approval_id)
        self._state.verdicts[decision.approval_id] = verdict
        self._record(
            ApprovalRecord(
                kind="expired" if verdict.expired else "approved" if verdict.approved else "rejected",
                at=now,
                approval_id=decision.approval_id,
                tool=approval.tool,
                decided_by=decision.decided_by[:MAX_QUOTED],
                reason=decision.reason[:MAX_QUOTED],
                edited=bool(approval.edited_by),
            )
        )

    def _ignore(self, problem: str, decision: Decision, *, now: datetime) -> None:
        approval = self._state.pending.get(decision.approval_id)
        self._record(
            ApprovalRecord(
                kind="ignored",
                at=now,
                approval_id=decision.approval_id[:MAX_QUOTED],
                tool=approval.tool if approval else "",
                decided_by=decision.decided_by[:MAX_QUOTED],
                reason=problem[: 2 * MAX_QUOTED],
            )
        )

    def _record(self, record: ApprovalRecord) -> None:
        self._state.records.append(record)
        self._state.unpublished.append(record)
        # A flood of signals must fill neither the memo nor what continue-as-new carries.
        del self._state.records[:-MAX_RECORDS]
        del self._state.unpublished[:-MAX_RECORDS]


def granted_term(votes: tuple[Vote, ...]) -> GrantTerm | None:
    """Return for how long an approval holds: as long as everyone who gave it wanted, at the most."""
    terms = [vote.grant for vote in votes]
    if not terms or any(term is None for term in terms):
        return None
    times = [term for term in terms if isinstance(term, timedelta)]
    return min(times) if times else "run"


def _about(approval: PendingApproval, kind: str, *, now: datetime, **fields: object) -> ApprovalRecord:
    return ApprovalRecord.model_validate(
        {"kind": kind, "at": now, "approval_id": approval.approval_id, "tool": approval.tool, **fields}
    )


def _abridged(approval: PendingApproval) -> PendingApproval:
    """Cut arguments that are too large for a memo; the query `view` has them whole, and the digest is of them whole."""
    text = json.dumps(approval.arguments, ensure_ascii=False)
    if len(text.encode("utf-8", "replace")) <= MAX_SHOWN:
        return approval
    return approval.model_copy(update={"arguments": {"abridged": cut(text, MAX_SHOWN)}})


def _read(payload: RawValue) -> Decision:
    if payload is NO_PAYLOAD:
        raise ValueError('the signal has no payload; send {"approval_id": …, "decided_by": …}')
    return read_signal(payload, Decision)


def _why_not_by(decision: Decision, approval: PendingApproval) -> Iterator[str]:
    """Say why it does not count for who decides."""
    by = decision.decided_by
    if not by.strip():
        yield "decided_by is missing: say who decides"
    if not approval.requirement.may_decide(decision.roles):
        wanted, held = ", ".join(approval.requirement.approvers), ", ".join(decision.roles) or "none"
        yield f"{by[:MAX_QUOTED]!r} may not decide: it takes one of the roles {wanted}; held: {held[:MAX_QUOTED]}"
    if any(same_person(by, other) for other in approval.not_from):
        yield f"{by[:MAX_QUOTED]!r} may not decide on what they asked for themselves: duties are separated"


def _why_not_this(decision: Decision, approval: PendingApproval) -> Iterator[str]:
    """Say why it does not count for what it is about."""
    if decision.digest is None and approval.edited_by:
        yield f"{approval.edited_by} changed the arguments; name the digest of those that you decide on"
    if decision.digest is not None and decision.digest != approval.digest:
        yield f"the digest names other arguments; this call's is {approval.digest}"


def _why_not_approve(decision: Decision, approval: PendingApproval) -> Iterator[str]:
    if decision.arguments is not None and len(json.dumps(decision.arguments)) > MAX_INPUT_BYTES:
        yield f"the arguments are larger than {MAX_INPUT_BYTES:,} bytes"
    if any(same_person(decision.decided_by, vote.by) for vote in approval.votes):
        yield f"{decision.decided_by[:MAX_QUOTED]!r} has approved already; {approval.missing} more must"
    if approval.kind == "outcome":
        if decision.outcome is None:
            yield "the call's outcome is unknown: approve with outcome 'done' or 'retry', or reject to abort"
        if decision.arguments is not None:
            yield "an unknown outcome cannot be given other arguments"
        if decision.grant is not None:
            yield "a grant is for calls, not for outcomes"
    elif decision.outcome is not None:
        yield "outcome is for calls whose outcome is unknown"
    yield from _why_not_add(decision, approval)


def _why_not_add(decision: Decision, approval: PendingApproval) -> Iterator[str]:
    """Say why it adds nothing to a budget."""
    if approval.kind != "budget":
        if decision.amount_usd is not None:
            yield "amount_usd is for budgets"
        return
    if decision.amount_usd is None or not 0 < decision.amount_usd <= MAX_RAISE:
        yield "say how many US dollars are added to the budget, as in amount_usd: 5"
    if decision.arguments is not None:
        yield "a budget has no other arguments; say amount_usd"
    if decision.grant is not None:
        yield "a grant is for calls, not for budgets"
