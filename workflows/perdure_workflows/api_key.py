"""An API key as a workflow: it does nothing and lives as long as the key.

Its input and memo are the record, which Temporal tells while no worker runs. It is listed by visibility, expires by its
execution timeout and is revoked by being terminated; so is a key whose workflow ends in any other way.
"""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.api_key import WORKFLOW_NAME, ApiKeyRecord


@workflow.defn(name=WORKFLOW_NAME)
class ApiKey:
    """Lives until it expires or is revoked."""

    @workflow.run
    async def run(self, record: ApiKeyRecord) -> None:
        """Wait for the end, which comes from outside."""
        del record
        await workflow.wait_condition(lambda: False)
