"""What a schedule starts: it has the run of today prepared, starts it, and lasts as long as it does.

So Temporal's overlap policy is about runs: one that goes on is an action that goes on, and to cancel the action is to
cancel the run. A run that could not be started is a failure of this workflow, which says why in its memo.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.common import Priority, SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    is_cancelled_exception,
)
from temporalio.exceptions import TimeoutError as ExecutionTimeoutError
from temporalio.workflow import ChildWorkflowCancellationType, ChildWorkflowHandle, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from perdure.contracts import WORKFLOW_NAME, RunError, RunResult, RunStatus
    from perdure.schedule import (
        MEMO_REFUSED,
        SCHEDULED_NAME,
        PreparedRun,
        ScheduledResult,
        ScheduledStart,
        StartRequest,
        prepare_run,
        run_id_of,
    )
    from perdure.search_attributes import AGENT, MEMO_STARTED, ORG, SESSION, STATUS, USER, VERSION
    from perdure_workflows.cancellation import raise_if_cancelled
    from perdure_workflows.options import preparation_options

_KEYS = {key.name: key for key in (AGENT, VERSION, USER, ORG, SESSION, STATUS)}


@workflow.defn(name=SCHEDULED_NAME)
class ScheduledRun:
    """One time of a schedule."""

    @workflow.run
    async def run(self, start: ScheduledStart) -> ScheduledResult:
        """Start a run, and wait for its end.

        Raises:
            ApplicationError: It could not be started, or it failed.
        """
        info = workflow.info()
        run_id = run_id_of(info.workflow_id, info.run_id)
        prepared = await self._prepared(StartRequest(start=start, run_id=run_id))
        run = await _start(run_id, prepared)
        try:
            result = await run
        except ChildWorkflowError as error:
            if isinstance(error.cause, ApplicationError | ExecutionTimeoutError):
                raise ApplicationError(f"run {run_id} failed", type="run_failed", non_retryable=True) from None
            raise_if_cancelled()
            ended = RunStatus.CANCELLED if is_cancelled_exception(error) else RunStatus.TERMINATED
            return ScheduledResult(run_id=run_id, status=ended.value)
        return ScheduledResult(run_id=run_id, status=result.status.value)

    async def _prepared(self, request: StartRequest) -> PreparedRun:
        try:
            return await workflow.execute_activity(prepare_run, request, **preparation_options())
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            cause = error.cause
            refused = (
                RunError(type=cause.type or "start_failed", message=cause.message)
                if isinstance(cause, ApplicationError)
                else RunError(type="start_failed", message="the run could not be prepared in time")
            )
            workflow.upsert_memo({MEMO_REFUSED: refused})
            raise ApplicationError(refused.message, type=refused.type, non_retryable=True) from None


async def _start(run_id: str, prepared: PreparedRun) -> ChildWorkflowHandle[object, RunResult]:
    return await workflow.start_child_workflow(
        WORKFLOW_NAME,
        prepared.arguments,
        id=run_id,
        result_type=RunResult,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        # To end this workflow is to ask the run to end; it leaves a valid transcript and its last words.
        parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
        cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        execution_timeout=prepared.timeout,
        priority=Priority(priority_key=prepared.priority_key, fairness_key=prepared.fairness_key),
        search_attributes=TypedSearchAttributes(
            [SearchAttributePair(_KEYS[name], value) for name, value in prepared.attributes.items()]
        ),
        memo={**prepared.memo, MEMO_STARTED: workflow.now()},
        static_summary=prepared.summary,
        static_details=prepared.details,
    )
