"""A delivery: one notice to one address, tried again for days if need be. It completes, or fails with the reason.

It is a workflow of its own so that a run's end waits for nobody, and so that deliveries are listed, seen and ended like
anything else in Temporal.
"""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

with workflow.unsafe.imports_passed_through():
    from perdure.notice import DELIVERY_NAME, Delivered, Notice, deliver
    from perdure_workflows.options import delivery_options


@workflow.defn(name=DELIVERY_NAME)
class Delivery:
    """One notice on its way."""

    @workflow.run
    async def run(self, notice: Notice) -> Delivered:
        """Have it sent until it has arrived, or never will.

        Raises:
            ApplicationError: It did not arrive.
        """
        try:
            return await workflow.execute_activity(deliver, notice, **delivery_options(notice))
        except ActivityError as error:
            cause = error.cause
            if isinstance(cause, ApplicationError):
                raise ApplicationError(cause.message, type=cause.type, non_retryable=True) from None
            raise
