"""Ways back from a failure: retries from the step that failed, forks, and what fails why."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from temporalio.client import WorkflowExecution, WorkflowExecutionDescription, WorkflowFailureError, WorkflowHandle
from temporalio.common import (
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError

from perdure import history
from perdure.contracts import MAX_MESSAGE_BYTES, ForkOrigin, RunStatus
from perdure.errors import NotRetriableError, PerdureError
from perdure.priority import priority_of
from perdure.recovery import MEMO_RETRY, NOT_RETRIABLE, RetryOrder, RetryOutcome, retry_id
from perdure.reset_point import reset_point
from perdure.search_attributes import AGENT, ERROR, ORG, ORIGIN, USER
from perdure_api import visibility
from perdure_api.authority import commissioned, speaker
from perdure_api.fork_step import find_step
from perdure_api.forks import forked_state
from perdure_api.reach import Reach
from perdure_api.recovery_schemas import (
    FailureFilter,
    FailureGroup,
    Failures,
    ForkRequest,
    Retried,
    RetriesRequest,
    RetryRequest,
)
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.runs import Runs, context_of
from perdure_api.schemas import NewRun, RunFilter, RunSummary, StartedRun
from perdure_api.starts import run_arguments, run_id_for
from perdure_api.superseded import current
from perdure_api.terms import with_terms
from perdure_workflows.retry import Retry

PATIENCE: Final = 5.0
"""Seconds to wait for a worker to reset the run, before the answer is that the request is stored."""
LONGEST: Final = timedelta(minutes=1)
"""How long a request may take to begin its retries."""
CHECKED_AT_ONCE: Final = 8
MAX_COUNTED: Final = 5000
PAGE: Final = 1000
SHOWN: Final = 5
"""Ids of a group of failures that are told."""

_Handle = WorkflowHandle[Retry, RetryOutcome]


@dataclass(frozen=True)
class RetriesOutcome:
    """What became of a page of runs, each with its retry, or why it has none; None: it could be retried."""

    runs: list[tuple[RunSummary, Retried | PerdureError | None]]
    next_page_token: str | None


class Recovery:
    """What a principal may do about its runs that ended badly."""

    def __init__(self, reach: Reach, runs: Runs) -> None:
        self._reach = reach
        self._runs = runs

    async def retry(self, run_id: str, request: RetryRequest) -> Retried:
        """Have a run that ended badly go on from the step that failed. Of several requests for one failure one counts.

        Raises:
            RunNotFoundError: There is no such run.
            NotRetriableError: It goes on, has ended well or by somebody's will, or can go on from nowhere.
        """
        by = speaker(self._reach.principal, request.by, field="by")
        description = await self._reach.executions.describe(run_id)
        await self._check(description)
        order = RetryOrder(run_id=run_id, execution_id=description.run_id, by=by or "", reason=request.reason)
        try:
            handle, created = await self._start(order, description), True
        except WorkflowAlreadyStartedError as error:
            handle = self._reach.client.get_workflow_handle_for(Retry.run, error.workflow_id)
            created = False
        outcome = await _outcome(handle, run_id)
        return Retried(
            run_id=run_id,
            created=created,
            confirmed=outcome is not None,
            execution_id=outcome.execution_id if outcome else None,
            step=outcome.step if outcome else None,
        )

    async def retry_many(self, request: RetriesRequest) -> RetriesOutcome:
        """Retry a page of runs, each as `retry` does, or find out which of them could be.

        Raises:
            InvalidInputError: The page token is none of ours.
        """
        most = max(1, min(request.limit, int(request.per_second * LONGEST.total_seconds())))
        wanted = RunFilter.model_validate(request.runs.model_dump())
        page = await self._runs.list(wanted, limit=most, page_token=request.page_token)
        slots = asyncio.Semaphore(CHECKED_AT_ONCE)

        async def one(place: int, run: RunSummary) -> Retried | PerdureError | None:
            try:
                if not request.dry_run:
                    await asyncio.sleep(place / request.per_second)
                    return await self.retry(run.run_id, request)
                async with slots:
                    await self._check(await self._reach.executions.describe(run.run_id))
            except PerdureError as error:
                return error
            return None

        outcomes = await asyncio.gather(*(one(place, run) for place, run in enumerate(page.items)))
        return RetriesOutcome(list(zip(page.items, outcomes, strict=True)), page.next_page_token)

    async def fork(self, run_id: str, request: ForkRequest, *, idempotency_key: str | None = None) -> StartedRun:
        """Start a run that goes on from a step of another one, with something changed.

        Policy, roles, budgets and limits are those of a new run that the principal starts.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has no such step, or the step cannot be where a fork begins.
            UnknownAgentError: The app does not have that version of the agent.
            InvalidInputError: What is changed does not fit the step or the agent.
            InputRefusedError: The agent's input guard refuses the message.
            NoWorkerError: No worker answers, which has to read the conversation.
        """
        description = await self._reach.executions.describe(run_id)
        origin = await find_step(self._reach.client, run_id, request.step)
        run = origin.run
        new = commissioned(
            self._reach.principal,
            NewRun.model_construct(
                agent=run.spec.name,
                version=request.version or run.spec.version,
                input=run.input,
                user=None if self._reach.principal.authenticated else run.user,
                org=run.org,
                roles=request.roles,
                session_id=run.session_id,
                limits=request.limits,
                metadata=run.metadata,
                callback_url=None,
            ),
        )
        changes = {name: value for name in ("model", "instructions") if (value := getattr(request, name)) is not None}
        arguments = run_arguments(new, self._reach.app, self._reach.principal, changes=changes)
        if request.message is not None:
            await self._runs.check_input_of(request.message, context_of(arguments), limit=MAX_MESSAGE_BYTES)
        arguments = await with_terms(arguments, self._reach.settings)
        state = await forked_state(self._reach.client, description, origin, request, arguments)
        forked_from = ForkOrigin(run_id=run_id, step=origin.step)
        arguments = arguments.model_copy(update={"state": state, "forked_from": forked_from})
        content = f"{run_id} {request.model_dump_json(exclude_unset=True)}"
        priority = priority_of(description.raw_description.workflow_execution_info.priority.priority_key)
        return await self._runs.begin(
            arguments,
            chosen=run_id_for(idempotency_key, org=new.org),
            request=hashlib.sha256(content.encode()).hexdigest(),
            priority=priority,
        )

    async def failures(self, wanted: FailureFilter) -> Failures:
        """Return what runs failed of, as far as they were not retried since."""
        fields = {field: getattr(wanted, field) for field in FailureFilter.model_fields}
        query = visibility.run_query(RunFilter(**fields, status=RunStatus.FAILED), orgs=self._reach.orgs(wanted.org))
        found: list[WorkflowExecution] = []
        rows = self._reach.client.list_workflows(query, page_size=PAGE, rpc_timeout=RPC_TIMEOUT)
        with temporal_errors():
            while len(found) < MAX_COUNTED:
                await rows.fetch_next_page()
                found += [row for row in rows.current_page or () if self._reach.executions.owns(row)]
                if not rows.next_page_token:
                    break
            failed = await current(self._reach.client, found)
        groups: dict[str, list[WorkflowExecution]] = {}
        for row in failed:
            groups.setdefault(row.typed_search_attributes.get(ERROR) or "", []).append(row)
        items = sorted((_group(error, runs) for error, runs in groups.items()), key=lambda group: -group.count)
        return Failures(items=tuple(items), total=len(failed), complete=not rows.next_page_token)

    async def _check(self, description: WorkflowExecutionDescription) -> None:
        run_id = description.id
        if visibility.is_open(description):
            raise NotRetriableError(f"run {run_id!r} goes on; only one that has failed can be retried")
        with temporal_errors(run_id=run_id):
            ended = await history.fetch_execution(self._reach.client, run_id, description.run_id)
        try:
            await asyncio.to_thread(reset_point, ended.events)
        except NotRetriableError as error:
            raise NotRetriableError(f"run {run_id!r} cannot be retried: {error}") from None

    async def _start(self, order: RetryOrder, description: WorkflowExecutionDescription) -> _Handle:
        kept = [pair for pair in description.typed_search_attributes if pair.key in (AGENT, ORG, USER)]
        with temporal_errors():
            return await self._reach.client.start_workflow(
                Retry.run,
                order,
                id=retry_id(order.run_id, order.execution_id),
                task_queue=self._reach.settings.task_queue,
                # One that failed for a reason that is gone by now can be asked for again.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY,
                id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
                search_attributes=TypedSearchAttributes([SearchAttributePair(ORIGIN, order.run_id), *kept]),
                memo={MEMO_RETRY: order},
                static_summary=f"retry of {order.run_id}",
                rpc_timeout=RPC_TIMEOUT,
            )


async def _outcome(handle: _Handle, run_id: str) -> RetryOutcome | None:
    """Wait a little for what becomes of a retry."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            try:
                with temporal_errors():
                    return await handle.result()
            except WorkflowFailureError as error:
                if isinstance(error.cause, ApplicationError) and error.cause.type == NOT_RETRIABLE:
                    why = f"run {run_id!r} cannot be retried: {error.cause.message}"
                    raise NotRetriableError(why) from error
                raise
    return None


def _group(error: str, runs: list[WorkflowExecution]) -> FailureGroup:
    ends: list[datetime] = sorted(run.close_time or run.start_time for run in runs)
    agents = Counter(run.typed_search_attributes.get(AGENT) or "" for run in runs)
    return FailureGroup(
        error=error,
        count=len(runs),
        agents=dict(agents.most_common()),
        first_at=ends[0],
        last_at=ends[-1],
        latest=tuple(run.id for run in runs[:SHOWN]),
    )
