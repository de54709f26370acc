"""Decisions on approvals: checked before they are sent, as a signal cannot be refused, and confirmed afterwards."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import timedelta
from typing import Final

from pydantic import ValidationError
from pydantic_core import to_json

from perdure import history
from perdure.contracts import RunView
from perdure.errors import ApprovalNotFoundError, ConflictError, InputTooLargeError, InvalidInputError
from perdure.events import ApprovalChanged
from perdure.messages import JsonObject
from perdure.oversight import ApprovalRecord, Decision, PendingApproval
from perdure.schema import explain
from perdure.secret_forms import MASK
from perdure_api import visibility
from perdure_api.authority import required_speaker
from perdure_api.reach import Reach
from perdure_api.rpc import temporal_errors
from perdure_api.schemas import Decided, DecisionRequest
from perdure_workflows.signals import MAX_QUOTED

CONFIRMATION: Final = timedelta(seconds=5)
"""How long a run may take to say that it has a decision."""
FIRST_PAUSE: Final = 0.02
LONGEST_PAUSE: Final = 0.5
MAX_DECISION_BYTES: Final = 256 * 1024
_SETTLED: Final = ("approved", "rejected", "expired", "withdrawn")


class Decisions:
    """Brings humans' decisions to their runs."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def decide(self, run_id: str, approval_id: str, request: DecisionRequest) -> Decided:
        """Decide, and say whether the run has taken the decision.

        Raises:
            RunNotFoundError: There is no such run.
            ApprovalNotFoundError: It never asked that.
            ConflictError: It is decided, or its call is another one by now, or the run has ended.
            InvalidInputError: The decision does not fit the question, or the arguments the tool.
            InputTooLargeError: Arguments and result are over their limit.
        """
        decided_by = required_speaker(self._reach.principal, request.decided_by, field="decided_by")
        description = await self._reach.executions.describe_open(run_id)
        view = await self._reach.executions.view(run_id)
        pending = view.pending_approvals if view else (await visibility.approvals_memo(description)).pending
        approval = next((asked for asked in pending if asked.approval_id == approval_id), None)
        if approval is None:
            raise await self._why_not_pending(run_id, approval_id)
        self._check(request, approval)
        # Whatever becomes of the question meanwhile, the decision is for the arguments that were checked here.
        given = request.model_dump(exclude={"decision", "decided_by", "digest"})
        decision = Decision(
            approval_id=approval_id,
            decided_by=decided_by,
            roles=self._reach.principal.roles,
            digest=request.digest or approval.digest,
            **given,
        )
        await self._reach.executions.signal(run_id, request.decision, decision)
        missing = await self._confirm(run_id, request.decision, decision, approval, before=view) if view else None
        return Decided(
            run_id=run_id,
            approval_id=approval_id,
            decision=request.decision,
            confirmed=missing is not None,
            missing=missing or 0,
        )

    async def _why_not_pending(self, run_id: str, approval_id: str) -> Exception:
        with temporal_errors(run_id=run_id):
            events = await history.read_events(self._reach.client, run_id)
        for event in reversed(events):
            if not isinstance(event, ApprovalChanged) or event.approval_id != approval_id:
                continue
            if event.kind != "approval.ignored":
                what = event.kind.removeprefix("approval.")
                return ConflictError(f"approval {approval_id!r} is already {what} by {event.decided_by!r}")
        return ApprovalNotFoundError(f"run {run_id!r} has no approval {approval_id!r}")

    def _check(self, request: DecisionRequest, approval: PendingApproval) -> None:
        if request.digest is not None and request.digest != approval.digest:
            raise ConflictError(f"the digest names another call; this approval's is {approval.digest!r}")
        if problem := _misfit(request, approval):
            raise InvalidInputError(problem)
        size = len(to_json(request))
        if size > MAX_DECISION_BYTES:
            raise InputTooLargeError(f"the decision is {size:,} bytes; at most {MAX_DECISION_BYTES:,} fit")
        tool = self._reach.app.find_tool(approval.tool)
        if request.arguments is None or tool is None:  # a tool that only the worker knows is checked by it
            return
        try:
            tool.arguments.model_validate_json(json.dumps(request.arguments))
        except ValidationError as error:
            if not _only_masks(error, request.arguments, approval):
                raise InvalidInputError(explain(error, approval.tool, secrets=approval.secrets)) from error

    async def _confirm(
        self, run_id: str, name: str, decision: Decision, approval: PendingApproval, *, before: RunView
    ) -> int | None:
        """Wait until the run says what became of the decision, and return how many more must decide.

        None: it says nothing in time.

        Raises:
            ConflictError: Another decision was first, or the run did not take this one.
        """
        end, pause = time.monotonic() + CONFIRMATION.total_seconds(), FIRST_PAUSE
        while time.monotonic() < end and (view := await self._reach.executions.view(run_id)):
            new = [
                record
                for record in view.approvals
                if record.approval_id == approval.approval_id and record not in before.approvals
            ]
            if voted := next((record for record in new if record.kind == "voted" and _names(record, decision)), None):
                return voted.missing
            if settled := next((record for record in new if record.kind in _SETTLED), None):
                if _is_ours(settled, name, decision):
                    return 0
                raise ConflictError(
                    f"approval {approval.approval_id!r} is already {settled.kind} by {settled.decided_by!r}"
                )
            if any(record.kind == "edited" and _names(record, decision) for record in new):
                return next(
                    (one.missing for one in view.pending_approvals if one.approval_id == approval.approval_id), 0
                )
            if ignored := next((record for record in new if _names(record, decision)), None):
                raise ConflictError(f"the run did not take the decision: {ignored.reason}")
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return None


def _only_masks(error: ValidationError, arguments: JsonObject, approval: PendingApproval) -> bool:
    """Whether nothing misfits but masks, in whose place the run puts the call's own secrets before it checks them."""
    hidden = {path.partition(".")[0] for path in approval.secrets}
    places = {str(problem["loc"][0]) if problem["loc"] else "" for problem in error.errors(include_url=False)}
    return places <= hidden and all(MASK in json.dumps(arguments.get(place)) for place in places)


def _misfit(request: DecisionRequest, approval: PendingApproval) -> str | None:
    """Say why a decision is no answer to the question."""
    if request.decision == "reject":
        given = request.model_fields_set & {"arguments", "outcome", "result", "grant", "amount_usd"}
        return f"a rejection takes no {' and no '.join(sorted(given))}" if given else None
    if request.result is not None and request.outcome != "done":
        return "result is for outcome 'done'"
    if approval.kind == "budget":
        return _misfit_of_amount(request)
    if request.amount_usd is not None:
        return "amount_usd is for budgets"
    if approval.kind == "call":
        return "outcome is for calls whose outcome is unknown" if request.outcome else None
    if request.outcome is None:
        return "the call's outcome is unknown: approve with outcome 'done' or 'retry', or reject to abort"
    if request.grant is not None:
        return "a grant is for calls, not for outcomes"
    return "an unknown outcome cannot be given other arguments" if request.arguments is not None else None


def _misfit_of_amount(request: DecisionRequest) -> str | None:
    if request.amount_usd is None:
        return "say how many US dollars are added to the budget: amount_usd"
    others = [name for name in ("arguments", "grant", "outcome") if getattr(request, name) is not None]
    return f"more money for a budget takes no {' and no '.join(others)}" if others else None


def _is_ours(record: ApprovalRecord, name: str, decision: Decision) -> bool:
    return _names(record, decision) and record.kind == ("approved" if name == "approve" else "rejected")


def _names(record: ApprovalRecord, decision: Decision) -> bool:
    return record.decided_by == decision.decided_by[:MAX_QUOTED]
