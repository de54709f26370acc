"""A feedback as a workflow: it holds its input and memo, which need no worker to be read, until its time is over."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.feedback import FEEDBACK_WORKFLOW, Feedback


@workflow.defn(name=FEEDBACK_WORKFLOW)
class KeptFeedback:
    """What somebody thinks of a run."""

    @workflow.run
    async def run(self, feedback: Feedback) -> None:
        """Do nothing until Temporal ends it."""
        del feedback
        await workflow.wait_condition(lambda: False)
