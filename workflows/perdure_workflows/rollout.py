"""A rollout as a workflow: it holds its input and memo, which need no worker to be read, until it is ended."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.rollout import ROLLOUT_WORKFLOW, Rollout


@workflow.defn(name=ROLLOUT_WORKFLOW)
class KeptRollout:
    """How the runs of an agent are shared out among its versions."""

    @workflow.run
    async def run(self, rollout: Rollout) -> None:
        """Wait for the end, which comes from outside."""
        del rollout
        await workflow.wait_condition(lambda: False)
