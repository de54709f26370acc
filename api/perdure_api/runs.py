"""The gateway to runs: what the HTTP routes and the command line do with Temporal, in types, without HTTP."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.exceptions import WorkflowAlreadyStartedError

from perdure import history
from perdure.app import App
from perdure.contracts import (
    MAX_MESSAGE_BYTES,
    Hold,
    PendingApproval,
    Revocation,
    RunResult,
    RunView,
    SteeringMessage,
)
from perdure.errors import IdempotencyKeyReusedError, InputTooLargeError, InvalidInputError, PerdureError
from perdure.events import EventId, RunEvent, Step, steps
from perdure.grant import Grant
from perdure.search_attributes import MEMO_REQUEST
from perdure.settings import Settings
from perdure_api import visibility
from perdure_api.decisions import Decisions
from perdure_api.executions import Executions, known_totals
from perdure_api.grants import Grants
from perdure_api.pollers import Pollers, count_pollers
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import (
    AgentSummary,
    AgentTool,
    BatchItem,
    Decided,
    DecisionRequest,
    GrantFilter,
    HoldRequest,
    InboxApproval,
    InboxFilter,
    MessageRequest,
    NewRun,
    RevokeRequest,
    RunDetail,
    RunFilter,
    RunPage,
    StartedRun,
)
from perdure_api.starts import checked_run_id, request_digest, run_arguments, run_id_for, start_workflow
from perdure_api.terms import with_terms
from perdure_api.usage import Usage
from perdure_api.usage_schemas import UsageFilter, UsageReport

MAX_PAGE: Final = 1000
INBOX_PAGE: Final = 100
"""Rows of the inbox that are read at once; each carries the arguments of its calls."""

BATCH_AT_ONCE: Final = 10
"""Decisions of one request that are under way at the same time."""


class Runs:
    """All runs of a namespace, and what can be done with them."""

    def __init__(self, client: Client, app: App, settings: Settings) -> None:
        """Take the connection and the app.

        Args:
            client: With Perdure's data converter, as `perdure.connection.connect` makes it.
            app: For starting runs and for checking edited arguments; an empty one serves everything else.
            settings: For task queue and links.
        """
        self._client = client
        self._app = app
        self._settings = settings
        self._executions = Executions(client)
        self._decisions = Decisions(client, self._executions, app)
        self._grants = Grants(client)

    async def start(self, new: NewRun, *, idempotency_key: str | None = None, run_id: str | None = None) -> StartedRun:
        """Start a run.

        Args:
            new: What to start.
            idempotency_key: The same key again, of the same organisation, names the run that it started first.
            run_id: The run's id, which then is its idempotency key; default: a new one.

        Raises:
            UnknownAgentError: The app has no such agent.
            InputTooLargeError: Input or metadata are over their limit.
            IdempotencyKeyReusedError: The key belongs to another request.
            InvalidInputError: The run's id cannot be one, or it would be allowed to cost more than the agent is.
        """
        arguments = await with_terms(run_arguments(new, self._app), self._settings)
        chosen = checked_run_id(run_id) if run_id else run_id_for(idempotency_key, org=new.org)
        request = request_digest(new)
        try:
            await start_workflow(
                self._client, arguments, run_id=chosen, task_queue=self._settings.task_queue, request=request
            )
        except WorkflowAlreadyStartedError as error:
            description = await self._executions.describe(chosen)
            if await description.memo_value(MEMO_REQUEST, "", type_hint=str) != request:
                raise IdempotencyKeyReusedError(
                    f"another request has already started run {chosen!r}; a new request needs a new key"
                ) from error
            return StartedRun(run_id=chosen, created=False)
        return StartedRun(run_id=chosen, created=True)

    async def get(self, run_id: str) -> RunDetail:
        """Return a run as it is now, or how it ended.

        Raises:
            RunNotFoundError: There is no such run.
        """
        description = await self._executions.describe(run_id)
        detail = RunDetail(
            **dict(await visibility.summary(description)),
            live=False,
            totals=known_totals(description),
            execution_id=description.run_id,
            ui_url=self._ui_url(run_id),
        )
        if not visibility.is_open(description):
            return _ended(detail, await self._executions.end(description))
        view = await self._executions.view(run_id)
        if view is not None and not view.status.ended:
            return _as_seen(detail, view)
        approvals, steering = await visibility.approvals_memo(description), await visibility.steering_memo(description)
        return detail.model_copy(update={"pending_approvals": approvals.pending, "paused": steering.paused})

    async def list(self, wanted: RunFilter, *, limit: int = 50, page_token: str | None = None) -> RunPage:
        """Return a page of runs, the newest first.

        Raises:
            InvalidInputError: The page token is none of ours.
        """
        query = visibility.run_query(wanted)
        rows = self._client.list_workflows(
            query,
            page_size=min(limit, MAX_PAGE),
            next_page_token=visibility.decode_token(page_token, query=query),
            rpc_timeout=RPC_TIMEOUT,
        )
        with temporal_errors():
            await rows.fetch_next_page()
        items = [await visibility.summary(row) for row in rows.current_page or ()]
        return RunPage(items=tuple(items), next_page_token=visibility.encode_token(rows.next_page_token, query=query))

    async def cancel(self, run_id: str, *, reason: str = "") -> None:
        """Ask a run to end as cancelled. Asking again changes nothing.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        await self._executions.describe_open(run_id)
        await self._executions.cancel(run_id, reason=reason)

    async def message(self, run_id: str, request: MessageRequest) -> None:
        """Say something to the model before it is called next.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
            InputTooLargeError: The text is over its limit.
        """
        size = len(request.text.encode())
        if size > MAX_MESSAGE_BYTES:
            raise InputTooLargeError(f"the message is {size:,} bytes; at most {MAX_MESSAGE_BYTES:,} fit")
        await self._executions.describe_open(run_id)
        message = SteeringMessage(text=request.text, sender=request.sender or "")
        await self._executions.signal(run_id, "message", message)

    async def pause(self, run_id: str, request: HoldRequest) -> None:
        """Have a run start no further step. Asking again changes nothing.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        await self._executions.describe_open(run_id)
        await self._executions.signal(run_id, "pause", Hold(by=request.by or "", reason=request.reason))

    async def resume(self, run_id: str, request: HoldRequest) -> None:
        """Have a paused run go on; one that is not paused is left to it. Raises as `pause`."""
        await self._executions.describe_open(run_id)
        await self._executions.signal(run_id, "resume", Hold(by=request.by or "", reason=request.reason))

    async def ended(self, run_id: str) -> bool:
        """Return whether a run is over.

        Raises:
            RunNotFoundError: There is no such run.
        """
        return not visibility.is_open(await self._executions.describe(run_id))

    async def result(self, run_id: str, *, timeout: timedelta) -> RunDetail | None:
        """Wait for a run's end, and return the run; None if it goes on for longer.

        Raises:
            RunNotFoundError: There is no such run.
        """
        await self._executions.describe(run_id)
        await self._executions.wait(run_id, timeout=timeout)
        return await self.get(run_id) if await self.ended(run_id) else None

    async def approvals(self, wanted: InboxFilter, *, limit: int = MAX_PAGE) -> builtins.list[InboxApproval]:
        """Return the pending approvals of all runs, the oldest first."""
        rows = self._client.list_workflows(
            visibility.inbox_query(wanted), page_size=INBOX_PAGE, rpc_timeout=RPC_TIMEOUT
        )
        found: list[InboxApproval] = []
        with temporal_errors():
            async for row in rows:
                run = (await visibility.summary(row)).model_dump(include=set(InboxApproval.model_fields))
                pending = (await visibility.inbox_memo(row)).pending
                found += [InboxApproval(**dict(asked), **run) for asked in pending if _is_wanted(asked, wanted)]
        return sorted(found, key=lambda approval: approval.asked_at)[:limit]

    async def decide(self, run_id: str, approval_id: str, request: DecisionRequest) -> Decided:
        """Decide on an approval, and say whether the run has taken the decision.

        Raises:
            RunNotFoundError: There is no such run.
            ApprovalNotFoundError: It never asked that.
            ConflictError: It is decided, or its call is another one by now, or the run has ended.
            InvalidInputError: The decision does not fit the question, or the arguments the tool.
            InputTooLargeError: Arguments and result are over their limit.
        """
        return await self._decisions.decide(run_id, approval_id, request)

    async def decide_many(self, items: Sequence[BatchItem]) -> builtins.list[Decided | PerdureError]:
        """Decide on several approvals, each by itself, and return what became of each, in their order."""
        slots = asyncio.Semaphore(BATCH_AT_ONCE)

        async def one(item: BatchItem) -> Decided | PerdureError:
            request = DecisionRequest.model_validate(
                item.model_dump(exclude={"run_id", "approval_id"}, exclude_unset=True)
            )
            try:
                async with slots:
                    return await self.decide(item.run_id, item.approval_id, request)
            except PerdureError as error:
                return error

        return await asyncio.gather(*(one(item) for item in items))

    async def grants(self, wanted: GrantFilter) -> builtins.list[Grant]:
        """Return the standing grants, the newest first."""
        return await self._grants.list(wanted)

    async def revoke_grant(self, grant_id: str, request: RevokeRequest) -> None:
        """End a standing grant.

        Raises:
            GrantNotFoundError: There is no such grant.
            ConflictError: It has expired, or is revoked.
        """
        await self._grants.revoke(grant_id, request)

    async def revoke_run_grant(self, run_id: str, grant_id: str, request: RevokeRequest) -> None:
        """Ask a run to forget a grant that holds for it alone.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        await self._executions.describe_open(run_id)
        revocation = Revocation(grant_id=grant_id, by=request.by or "", reason=request.reason)
        await self._executions.signal(run_id, "revoke", revocation)

    async def events(self, run_id: str, *, after: str | None = None) -> builtins.list[RunEvent]:
        """Return the events of a run so far.

        Args:
            run_id: The run.
            after: An event's id; only later ones are returned.

        Raises:
            RunNotFoundError: There is no such run.
            InvalidInputError: `after` is no event's id.
        """
        check_event_id(after)
        with temporal_errors(run_id=run_id):
            return await history.read_events(self._client, run_id, after=after)

    async def follow(self, run_id: str, *, after: str | None = None) -> AsyncIterator[RunEvent]:
        """Iterate over a run's events, past ones first and then as they happen, until it ends; raises as `events`."""
        check_event_id(after)
        with temporal_errors(run_id=run_id):
            async for event in history.follow_events(self._client, run_id, after=after):
                yield event

    async def steps(self, run_id: str) -> builtins.list[Step]:
        """Return the model calls and tool calls of a run so far.

        Raises:
            RunNotFoundError: There is no such run.
        """
        return steps(await self.events(run_id))

    async def export(self, run_id: str) -> str:
        """Return a run's history as the JSON that `perdure replay` reads.

        Raises:
            RunNotFoundError: There is no such run.
        """
        with temporal_errors(run_id=run_id):
            histories = await history.fetch_executions(self._client, run_id)
        return await asyncio.to_thread(history.export, histories)

    async def pollers(self) -> Pollers:
        """Return how many workers ask Temporal for this task queue's work.

        Raises:
            ServerUnreachableError: Temporal does not answer.
        """
        return await count_pollers(self._client, self._settings.task_queue)

    async def usage(self, wanted: UsageFilter) -> UsageReport:
        """Return what was used in a period, and what it cost.

        Raises:
            InvalidInputError: The period ends before it begins.
        """
        return await Usage(self._client).report(wanted)

    def agents(self) -> builtins.list[AgentSummary]:
        """Return the app's agents, in order of registration."""
        return [
            AgentSummary(
                name=agent.name,
                version=agent.version,
                model=agent.model,
                description=agent.description,
                tools=tuple(
                    AgentTool.model_validate(tool.model_dump(include=set(AgentTool.model_fields)))
                    for tool in self._app.resolve(agent).tools
                ),
                limits=agent.limits,
                default=self._app.agent(agent.name) is agent,
            )
            for agent in self._app.agents()
        ]

    def _ui_url(self, run_id: str) -> str | None:
        base = self._settings.ui_url
        return f"{base.rstrip('/')}/namespaces/{self._client.namespace}/workflows/{run_id}" if base else None


def _ended(detail: RunDetail, result: RunResult) -> RunDetail:
    return detail.model_copy(
        update={
            "live": True,
            "status": result.status,
            "totals": result.totals,
            "steps": result.totals.steps,
            "cost_usd": result.totals.known_cost,
            "output": result.output,
            "error": result.error,
            "reason": result.reason,
            "refusal": result.refusal,
        }
    )


def _is_wanted(asked: PendingApproval, wanted: InboxFilter) -> bool:
    return (
        wanted.tool in (None, asked.tool)
        and wanted.kind in (None, asked.kind)
        and (wanted.role is None or asked.requirement.may_decide((wanted.role,)))
    )


def _as_seen(detail: RunDetail, view: RunView) -> RunDetail:
    return detail.model_copy(
        update={
            "live": True,
            "status": view.status,
            "totals": view.totals,
            "steps": view.totals.steps,
            "cost_usd": view.totals.known_cost,
            "waiting_for": tuple(approval.approval_id for approval in view.pending_approvals),
            "pending_approvals": view.pending_approvals,
            "paused": view.paused,
            "grants": view.grants,
            "output": view.output,
        }
    )


def check_event_id(text: str | None) -> None:
    """Refuse what is no event's id.

    Raises:
        InvalidInputError: It is none.
    """
    try:
        if text is not None:
            EventId.parse(text)
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
