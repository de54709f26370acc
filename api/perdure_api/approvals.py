"""Approvals over all runs: the inbox, the durable record of each, and decisions, one or many."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from perdure.errors import ApprovalNotFoundError, PerdureError
from perdure.oversight import PendingApproval
from perdure.redaction import redacted
from perdure_api import visibility
from perdure_api.decisions import Decisions
from perdure_api.reach import Reach
from perdure_api.records import approval_record
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.runs import Runs
from perdure_api.schemas import ApprovalDetail, BatchItem, Decided, DecisionRequest, InboxApproval, InboxFilter

MAX_LISTED: Final = 1000
INBOX_PAGE: Final = 100
"""Rows of the inbox that are read at once; each carries the arguments of its calls."""
BATCH_AT_ONCE: Final = 10
"""Decisions of one request that are under way at the same time."""


class Approvals:
    """What a principal may look at and decide on."""

    def __init__(self, reach: Reach, runs: Runs) -> None:
        self._reach = reach
        self._runs = runs
        self._decisions = Decisions(reach)

    async def pending(self, wanted: InboxFilter, *, limit: int = MAX_LISTED) -> list[InboxApproval]:
        """Return the pending approvals of all runs, the oldest first."""
        rows = self._reach.client.list_workflows(
            visibility.inbox_query(wanted, orgs=self._reach.orgs(wanted.org)),
            page_size=INBOX_PAGE,
            rpc_timeout=RPC_TIMEOUT,
        )
        found: list[InboxApproval] = []
        with temporal_errors():
            async for row in rows:
                if not self._reach.executions.owns(row):
                    continue
                run = (await visibility.summary(row)).model_dump(include=set(InboxApproval.model_fields))
                pending = (await visibility.inbox_memo(row)).pending
                found += [InboxApproval(**dict(asked), **run) for asked in pending if _is_wanted(asked, wanted)]
        oldest = sorted(found, key=lambda approval: approval.asked_at)[:limit]
        return [await redacted(approval, self._reach.redactor) for approval in oldest]

    async def get(self, run_id: str, approval_id: str) -> ApprovalDetail:
        """Return an approval's durable record.

        Raises:
            RunNotFoundError: There is no such run.
            ApprovalNotFoundError: It never asked that.
        """
        record = approval_record(await self._runs.events(run_id), run_id=run_id, approval_id=approval_id)
        if record is None:
            raise ApprovalNotFoundError(f"run {run_id!r} has no approval {approval_id!r}")
        return record

    async def decide(self, run_id: str, approval_id: str, request: DecisionRequest) -> Decided:
        """Decide on an approval, and say whether the run has taken the decision.

        Raises:
            RunNotFoundError: There is no such run.
            ApprovalNotFoundError: It never asked that.
            ConflictError: It is decided, or its call is another one by now, or the run has ended.
            InvalidInputError: The decision does not fit the question, or the arguments the tool.
            InputTooLargeError: Arguments and result are over their limit.
        """
        return await self._decisions.decide(run_id, approval_id, request)

    async def decide_many(self, items: Sequence[BatchItem]) -> list[Decided | PerdureError]:
        """Decide on several approvals, each by itself, and return what became of each, in their order."""
        slots = asyncio.Semaphore(BATCH_AT_ONCE)

        async def one(item: BatchItem) -> Decided | PerdureError:
            request = DecisionRequest.model_validate(
                item.model_dump(exclude={"run_id", "approval_id"}, exclude_unset=True)
            )
            try:
                async with slots:
                    return await self.decide(item.run_id, item.approval_id, request)
            except PerdureError as error:
                return error

        return await asyncio.gather(*(one(item) for item in items))


def _is_wanted(asked: PendingApproval, wanted: InboxFilter) -> bool:
    return (
        wanted.tool in (None, asked.tool)
        and wanted.kind in (None, asked.kind)
        and (wanted.role is None or asked.requirement.may_decide((wanted.role,)))
    )
