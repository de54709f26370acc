"""A page of usage as a workflow: it holds its input, which its first event keeps readable, until its time is over."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from perdure.ledger.contracts import PAGE_NAME, PageRecord


@workflow.defn(name=PAGE_NAME)
class LedgerPage:
    """What an organisation's runs used in a day, or a part of it."""

    @workflow.run
    async def run(self, page: PageRecord) -> None:
        """Do nothing until Temporal ends it."""
        del page
        await workflow.wait_condition(lambda: False)
