"""Notices of a run: each thing that somebody wants to be told becomes a delivery, a workflow that outlives the run.

A run waits for none to arrive; at its end it waits until they have started. Without targets it gives no command for
them.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import Any, get_args

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import FailureError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import RunResult, cut
    from perdure.notice import DELIVERY_NAME, DELIVERY_PREFIX, MAX_OUTPUT_BYTES, Notice, RunFacts, summary
    from perdure.notification import NotificationTarget, Occasion
    from perdure.oversight import ApprovalRecord, ApprovalsMemo, PendingApproval
    from perdure.search_attributes import AGENT, ORG, ORIGIN
    from perdure_workflows.options import DELIVERY_LIFETIME
    from perdure_workflows.state import RunArguments

MAX_OPEN = 500
"""Deliveries under way of one execution, as Temporal fails a turn of a workflow with 2,000 children. Beyond it only the
run's end is told."""
OCCASIONS: dict[str, Occasion] = {occasion: occasion for occasion in get_args(Occasion)}


class Notices:
    """Starts the run's deliveries."""

    def __init__(self, arguments: RunArguments) -> None:
        policy, url = arguments.policy, arguments.callback_url
        own = (NotificationTarget(url=url),) if url else ()
        self._targets = (*own, *(policy.notify if policy else ()))
        self._arguments = arguments
        self._sent = 0
        self._open = 0
        self._starting = 0

    @property
    def starting(self) -> bool:
        """Whether the server has yet to start deliveries."""
        return self._starting > 0

    def approvals(self, memo: ApprovalsMemo) -> None:
        """Tell what has become of approvals."""
        if not self._targets:
            return
        pending = {approval.approval_id: approval for approval in memo.pending}
        for record in memo.changes:
            occasion = OCCASIONS.get(f"approval.{record.kind}")
            asked = pending.get(record.approval_id)
            if occasion is None or (record.kind in ("asked", "escalated") and asked is None):
                continue  # what is decided already is no question any more
            self._tell(occasion, at=record.at, approval=asked, record=record)

    def end(self, result: RunResult) -> None:
        """Tell how the run ended."""
        if self._targets:
            output = None if result.output is None else cut(result.output, MAX_OUTPUT_BYTES)
            self._tell("run.ended", at=workflow.now(), result=result.model_copy(update={"output": output}))

    def _tell(
        self,
        occasion: Occasion,
        *,
        at: datetime,
        approval: PendingApproval | None = None,
        record: ApprovalRecord | None = None,
        result: RunResult | None = None,
    ) -> None:
        # Of an execution and not of the run: after a reset it is told again, as it happens again.
        self._sent += 1
        notice_id = f"{workflow.info().run_id}-{self._sent}"
        for place, target in enumerate(self._targets):
            if occasion not in target.on:
                continue
            if self._open >= MAX_OPEN and occasion != "run.ended":
                workflow.logger.warning("too many deliveries are under way; one is left out")
                continue
            notice = Notice(
                notice_id=notice_id,
                url=target.url,
                format=target.format,
                type=occasion,
                at=at,
                run=self._facts(),
                approval=approval,
                record=record,
                result=result,
                trace=self._arguments.trace,
            )
            self._open += 1
            self._starting += 1
            asyncio.create_task(self._deliver(notice, f"{DELIVERY_PREFIX}{notice_id}-{place}"))  # noqa: RUF006  # the event loop of a workflow keeps its tasks

    async def _deliver(self, notice: Notice, workflow_id: str) -> None:
        delivery = None
        try:
            delivery = await self._start(notice, workflow_id)
        except FailureError:
            workflow.logger.warning("a delivery could not be started", exc_info=True)
        finally:
            self._starting -= 1
        if delivery is not None:
            with suppress(FailureError):  # it is a workflow of its own, and says itself what went wrong
                await delivery
        self._open -= 1

    async def _start(self, notice: Notice, workflow_id: str) -> workflow.ChildWorkflowHandle[Any, Any]:
        run = self._arguments
        named = {AGENT: run.spec.name, ORIGIN: workflow.info().workflow_id, ORG: run.org}
        attributes = [SearchAttributePair(key, value) for key, value in named.items() if value]
        return await workflow.start_child_workflow(
            DELIVERY_NAME,
            notice,
            id=workflow_id,
            parent_close_policy=ParentClosePolicy.ABANDON,
            cancellation_type=ChildWorkflowCancellationType.ABANDON,
            execution_timeout=DELIVERY_LIFETIME,
            search_attributes=TypedSearchAttributes(attributes),
            static_summary=summary(notice),
        )

    def _facts(self) -> RunFacts:
        run = self._arguments
        return RunFacts(
            run_id=workflow.info().workflow_id,
            agent=run.spec.name,
            version=run.spec.version,
            user=run.user,
            org=run.org,
            session_id=run.session_id,
            requested_by=run.requested_by,
        )
