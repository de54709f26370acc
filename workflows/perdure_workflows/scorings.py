"""Scorings of a run: each scorer whose sample it is in judges it when it has ended, in a workflow that outlives it.

A run whose agent has no scorers gives no command for them.
"""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.exceptions import FailureError
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import RunResult, RunStatus
    from perdure.notice import RunFacts
    from perdure.scorer import ScorerSpec
    from perdure.scoring import SCORING_NAME, SCORING_PREFIX, ScoringOrder
    from perdure.search_attributes import AGENT, ORG, ORIGIN, USER, VERSION
    from perdure_workflows.options import SCORING_LIFETIME
    from perdure_workflows.state import RunArguments

UNJUDGED = (RunStatus.FAILED, RunStatus.CANCELLED)
"""There is no answer to judge, and a failure counts as such."""


class Scorings:
    """Starts the run's scorings."""

    def __init__(self, arguments: RunArguments) -> None:
        self._arguments = arguments
        self._starting = 0

    @property
    def starting(self) -> bool:
        """Whether the server has yet to start scorings."""
        return self._starting > 0

    def end(self, result: RunResult, *, length: int) -> None:
        """Have the run judged that ends so, with so many messages in its transcript."""
        if result.status in UNJUDGED:
            return
        for scorer in self._arguments.spec.scorers:
            if scorer.judges(workflow.info().workflow_id):
                self._starting += 1
                asyncio.create_task(self._start(self._order(scorer, result, length=length)))  # noqa: RUF006  # as in Notices

    async def _start(self, order: ScoringOrder) -> None:
        run = order.run
        named = {AGENT: run.agent, VERSION: run.version, ORG: run.org, USER: run.user, ORIGIN: run.run_id}
        try:
            await workflow.start_child_workflow(
                SCORING_NAME,
                order,
                # Of an execution and not of the run: after a reset there is another answer to judge.
                id=f"{SCORING_PREFIX}{order.execution_id}-{order.scorer.name}",
                parent_close_policy=ParentClosePolicy.ABANDON,
                cancellation_type=ChildWorkflowCancellationType.ABANDON,
                execution_timeout=SCORING_LIFETIME,
                search_attributes=TypedSearchAttributes(
                    [SearchAttributePair(key, value) for key, value in named.items() if value]
                ),
                static_summary=f"{order.scorer.name} on {run.run_id}",
            )
        except FailureError:
            workflow.logger.warning("a scoring could not be started", exc_info=True)
        finally:
            self._starting -= 1

    def _order(self, scorer: ScorerSpec, result: RunResult, *, length: int) -> ScoringOrder:
        run, info = self._arguments, workflow.info()
        provider = scorer.grading.model.partition(":")[0] if scorer.grading else ""
        return ScoringOrder(
            run=RunFacts(
                run_id=info.workflow_id,
                agent=run.spec.name,
                version=run.spec.version,
                user=run.user,
                org=run.org,
                session_id=run.session_id,
                requested_by=run.requested_by,
            ),
            execution_id=info.run_id,
            length=length,
            error=result.error,
            scorer=scorer,
            secrets={tool.name: tool.secrets for tool in run.spec.tools if tool.secrets},
            rated=provider in run.spec.provider_rates,
        )
