"""Runs as Temporal sees them: descriptions, the query for the view, ends, and signals."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from decimal import Decimal
from typing import Final, Literal

from temporalio.client import (
    Client,
    WorkflowExecution,
    WorkflowExecutionDescription,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)
from temporalio.exceptions import ApplicationError, TerminatedError
from temporalio.service import RPCError

from perdure.contracts import WORKFLOW_NAME, RunError, RunResult, RunView, Totals
from perdure.encryption import seal
from perdure.errors import ConflictError, RunNotFoundError
from perdure.oversight import Decision, Hold, Revocation, SteeringMessage
from perdure.search_attributes import COST, MEMO_RESULT, ORG, STEPS
from perdure_api import visibility
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_workflows.agent_run import AgentRun

VIEW_TIMEOUT: Final = timedelta(seconds=2)
"""How long a worker may take to say where a run is, before visibility's word is taken."""

Handle = WorkflowHandle[AgentRun, RunResult]
Signal = Literal["approve", "reject", "revoke", "message", "pause", "resume"]


class Executions:
    """Temporal's side of the runs that one organisation, or an operator, may see."""

    def __init__(self, client: Client, *, org: str | None) -> None:
        """Take the connection.

        Args:
            client: Of the server.
            org: Whose runs there are; None: everybody's.
        """
        self._client = client
        self._org = org

    async def describe(self, run_id: str) -> WorkflowExecutionDescription:
        """Return the latest execution of a run. Whatever is done with a run by its id is done after this.

        Raises:
            RunNotFoundError: There is no such run; other workflows of the namespace are none, nor are runs of another
                organisation.
        """
        with temporal_errors(run_id=run_id):
            description = await self._handle(run_id).describe(rpc_timeout=RPC_TIMEOUT)
        if description.workflow_type != WORKFLOW_NAME or not self.owns(description):
            raise RunNotFoundError(f"no run has the id {run_id!r}")
        return description

    def owns(self, execution: WorkflowExecution) -> bool:
        """Whether a run is one of those that there are here."""
        return self._org is None or execution.typed_search_attributes.get(ORG) == self._org

    async def describe_open(self, run_id: str) -> WorkflowExecutionDescription:
        """Return the latest execution of a run that goes on.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        description = await self.describe(run_id)
        if not visibility.is_open(description):
            raise ConflictError(f"run {run_id!r} has ended: {visibility.status(description)}")
        return description

    async def view(self, run_id: str) -> RunView | None:
        """Return what the run itself says of where it is; None while no worker can answer."""
        try:
            return await self._handle(run_id).query(AgentRun.view, rpc_timeout=VIEW_TIMEOUT)
        except (RPCError, WorkflowQueryFailedError, WorkflowQueryRejectedError):
            return None

    async def wait(self, run_id: str, *, timeout: timedelta) -> None:
        """Return when the run has ended, however it did, or when the time is over."""
        # A failure to wait for is an end too, and told by whoever describes the run next.
        with contextlib.suppress(TimeoutError, WorkflowFailureError):
            async with asyncio.timeout(timeout.total_seconds()):
                with temporal_errors(run_id=run_id):
                    await self._handle(run_id).result()

    async def end(self, description: WorkflowExecution) -> RunResult:
        """Return how a run that has ended did so, and what it had by then."""
        handle = self._client.get_workflow_handle_for(AgentRun.run, description.id, run_id=description.run_id)
        outside = RunResult(status=visibility.status(description), totals=known_totals(description))
        try:
            with temporal_errors(run_id=description.id):
                return await handle.result(follow_runs=False, rpc_timeout=RPC_TIMEOUT)
        except WorkflowFailureError as error:
            match error.cause:
                case ApplicationError(details=[details, *_]):
                    return RunResult.model_validate(details)
                case ApplicationError() as failure:
                    why = RunError(type=failure.type or "workflow_failed", message=failure.message)
                    return outside.model_copy(update={"error": why})
                case TerminatedError() as terminated:
                    why = RunError(type="terminated", message=terminated.message)
                    return outside.model_copy(update={"error": why})
                case _:
                    return await description.memo_value(MEMO_RESULT, outside, type_hint=RunResult)

    async def cancel(self, run_id: str, *, reason: str) -> None:
        """Ask the run to end; once more changes nothing.

        Raises:
            ConflictError: It has ended.
        """
        sealed = await seal(reason, self._client.data_converter)
        with temporal_errors(run_id=run_id):
            await self._handle(run_id).cancel(reason=sealed, rpc_timeout=RPC_TIMEOUT)

    async def signal(self, run_id: str, name: Signal, payload: Decision | Revocation | SteeringMessage | Hold) -> None:
        """Send the run what a human wants, which Temporal keeps until a worker takes it in.

        Raises:
            ConflictError: The run has ended.
        """
        with temporal_errors(run_id=run_id):
            await self._handle(run_id).signal(name, payload, rpc_timeout=RPC_TIMEOUT)

    def _handle(self, run_id: str) -> Handle:
        return self._client.get_workflow_handle_for(AgentRun.run, run_id)


def known_totals(description: WorkflowExecution) -> Totals:
    """Return what visibility knows of a run's use."""
    attributes = description.typed_search_attributes
    return Totals(steps=attributes.get(STEPS) or 0, cost_usd=Decimal(str(attributes.get(COST) or 0)))
