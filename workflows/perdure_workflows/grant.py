"""A standing grant as a workflow: it lives as long as the grant does. Its timeout ends it, `terminate` revokes it."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.grant import GRANT_WORKFLOW, Grant


@workflow.defn(name=GRANT_WORKFLOW)
class StandingGrant:
    """Does nothing, for as long as the grant stands. Whether it runs is all that anyone asks of it."""

    @workflow.run
    async def run(self, grant: Grant) -> None:
        """Wait for the end."""
        del grant  # in the input and the memo for whoever reads them
        await workflow.wait_condition(lambda: False)
