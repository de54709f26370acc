"""A retry: a run that ended badly goes on from the step that failed. A workflow, so that of two requests one counts."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from perdure.recovery import RETRY_NAME, RetryOrder, RetryOutcome, reset_run
    from perdure_workflows.options import retry_options


@workflow.defn(name=RETRY_NAME)
class Retry:
    """One retry of one execution."""

    @workflow.run
    async def run(self, order: RetryOrder) -> RetryOutcome:
        """Have the run reset.

        Raises:
            ApplicationError: It can go on from nowhere.
        """
        try:
            return await workflow.execute_activity(reset_run, order, **retry_options(order))
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError):
                raise ApplicationError(cause.message, type=cause.type, non_retryable=True) from None
            raise
