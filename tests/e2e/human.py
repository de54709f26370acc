"""The human who decides: approves what asks to run, and finds out what became of calls whose outcome is unknown."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from temporalio.client import Client
from temporalio.service import RPCError

from perdure.app import App
from perdure.errors import ServerUnreachableError
from perdure.oversight import PendingApproval
from perdure.settings import Settings
from perdure_api.gateway import Gateway
from perdure_api.schemas import DecisionRequest, InboxApproval, InboxFilter
from tests.children import alive
from tests.e2e.caller import Caller
from tests.e2e.crash_app.app import TOOL_TIMEOUT
from tests.e2e.crash_app.ledger import Ledger

SIGNAL_TIMEOUT = timedelta(seconds=2)
PATIENCE = timedelta(seconds=3)
"""How long the human waits for an answer to have been heard before giving it again."""


class Human:
    """Works through the inbox; looks into the ledger before saying that a lost call was made, or may be made again."""

    def __init__(self, caller: Caller, client: Client, ledger: Ledger) -> None:
        self._caller = caller
        self._client = client
        self._runs = Gateway(client, App(), Settings())
        self._ledger = ledger
        self._answered: dict[tuple[str, str], datetime] = {}
        self.decisions = 0
        self.signals = 0
        """Decisions sent past the API, while it was down."""
        self.outcomes: dict[tuple[str, str], str] = {}
        """What was said of calls whose outcome was unknown, by run and approval."""

    async def work(self) -> None:
        """Answer what is in the inbox, as far as it can be answered now."""
        for approval in await self._inbox():
            answered = self._answered.get((approval.run_id, approval.approval_id))
            if answered is not None and datetime.now(UTC) < answered + PATIENCE:
                continue
            decision = self._decision(approval.run_id, approval)
            if decision is not None:
                await self._decide(approval.run_id, approval, decision)

    async def _inbox(self) -> list[InboxApproval]:
        inbox = await self._caller.inbox()
        if inbox is not None:
            return inbox
        try:
            return await self._runs.approvals.pending(
                InboxFilter()
            )  # past the API, as `perdure approvals list` reads it
        except ServerUnreachableError:
            return []

    def _decision(self, run_id: str, approval: PendingApproval) -> DecisionRequest | None:
        if approval.kind == "call":
            return DecisionRequest(decision="approve", decided_by="ann")
        call_id = approval.approval_id.partition("-outcome-")[0]
        found = self._ledger.effects(key=f"{run_id}:{call_id}")
        if found:
            return DecisionRequest(decision="approve", decided_by="ann", outcome="done", result=found[0].receipt)
        attempts = self._ledger.attempts(key=f"{run_id}:{call_id}")
        dead = all(attempt.over or not alive(attempt.pid) for attempt in attempts)
        # Half of the timeout had passed in silence when the question was asked.
        if dead and datetime.now(UTC) > approval.asked_at + TOOL_TIMEOUT / 2:
            return DecisionRequest(decision="approve", decided_by="ann", outcome="retry")
        return None  # somebody may still be doing it

    async def _decide(self, run_id: str, approval: PendingApproval, decision: DecisionRequest) -> None:
        if not await self._caller.decide(run_id, approval, decision):
            payload = {
                "approval_id": approval.approval_id,
                **decision.model_dump(exclude={"decision"}, exclude_none=True),
            }
            try:
                handle = self._client.get_workflow_handle(run_id)
                await handle.signal("approve", payload, rpc_timeout=SIGNAL_TIMEOUT)
            except RPCError:  # the Temporal server is down as well: the inbox will show it again
                return
            self.signals += 1
        self._answered[run_id, approval.approval_id] = datetime.now(UTC)
        self.decisions += 1
        if decision.outcome is not None:
            self.outcomes[run_id, approval.approval_id] = decision.outcome
