"""The gateway to runs: what the HTTP routes and the command line do with Temporal, in types, without HTTP."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Final, Literal

from temporalio.client import Client, WorkflowExecutionDescription
from temporalio.exceptions import WorkflowAlreadyStartedError

from perdure import history
from perdure.app import App
from perdure.contracts import MAX_INPUT_BYTES, MAX_MESSAGE_BYTES, RunResult, RunView
from perdure.errors import (
    ApprovalNotFoundError,
    CallbackRefusedError,
    IdempotencyKeyReusedError,
    InputTooLargeError,
    InvalidInputError,
    PerdureError,
    UnknownAgentError,
)
from perdure.events import EventId, RunEvent, Step, steps
from perdure.grant import Grant
from perdure.input_guard import InputContext, check_input
from perdure.outgoing import NotResolvedError, Outgoing
from perdure.oversight import Hold, PendingApproval, Revocation, SteeringMessage
from perdure.personal_data import load_redactor
from perdure.principal import OPERATOR, Principal
from perdure.priority import priority_of
from perdure.redaction import redacted
from perdure.search_attributes import MEMO_REQUEST
from perdure.settings import Settings
from perdure_api import visibility
from perdure_api.authority import commissioned, signed, speaker, wanted_org
from perdure_api.decisions import Decisions
from perdure_api.executions import Executions, known_totals
from perdure_api.grants import Grants
from perdure_api.pending_calls import pending_calls
from perdure_api.pollers import Pollers, count_pollers
from perdure_api.records import approval_record
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import (
    AgentSummary,
    AgentTool,
    ApprovalDetail,
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
from perdure_workflows.state import RunArguments

MAX_PAGE: Final = 1000
INBOX_PAGE: Final = 100
"""Rows of the inbox that are read at once; each carries the arguments of its calls."""

BATCH_AT_ONCE: Final = 10
"""Decisions of one request that are under way at the same time."""


class Runs:
    """The runs that a principal may see, and what it can do with them."""

    def __init__(
        self,
        client: Client,
        app: App,
        settings: Settings,
        *,
        principal: Principal = OPERATOR,
        outgoing: Outgoing | None = None,
    ) -> None:
        """Take the connection and the app.

        Args:
            client: With Perdure's data converter, as `perdure.connection.connect` makes it.
            app: For starting runs and for checking edited arguments; an empty one serves everything else.
            settings: For task queue, links and redaction.
            principal: Who asks. Of an organisation, it has that organisation's runs; there are no others.
            outgoing: Checks callback URLs; default: by the networks that the settings allow.
        """
        self._client = client
        self._app = app
        self._settings = settings
        self._principal = principal
        self._redactor = load_redactor(settings)
        self._outgoing = outgoing or Outgoing(allowed=settings.callback_allowed_networks)
        self._executions = Executions(client, org=principal.org)
        self._decisions = Decisions(client, self._executions, app, principal)
        self._grants = Grants(client, self._executions)

    def of(self, principal: Principal) -> Runs:
        """Return the runs of another principal."""
        return Runs(self._client, self._app, self._settings, principal=principal, outgoing=self._outgoing)

    async def start(self, new: NewRun, *, idempotency_key: str | None = None, run_id: str | None = None) -> StartedRun:
        """Start a run.

        Args:
            new: What to start.
            idempotency_key: The same key again, of the same organisation, names the run that it started first.
            run_id: The run's id, which then is its idempotency key; default: a new one.

        Raises:
            PermissionDeniedError: The run would be of another organisation, or have roles that the principal lacks.
            UnknownAgentError: The app has no such agent.
            InputTooLargeError: Input or metadata are over their limit.
            InputRefusedError: The agent's input guard refuses the input.
            CallbackRefusedError: The callback URL leads where we do not call, or nothing would sign what is sent there.
            IdempotencyKeyReusedError: The key belongs to another request.
            InvalidInputError: The run's id cannot be one, or it would be allowed to cost more than the agent is.
        """
        new = commissioned(self._principal, new)
        arguments = run_arguments(new, self._app, self._principal)
        await self._check_input(new.input, _context_of(arguments), limit=MAX_INPUT_BYTES)
        if new.callback_url is not None:
            await self._check_callback(new.callback_url)
        arguments = await with_terms(arguments, self._settings)
        chosen = checked_run_id(run_id) if run_id else run_id_for(idempotency_key, org=new.org)
        request = request_digest(new)
        try:
            await start_workflow(
                self._client,
                arguments,
                run_id=chosen,
                task_queue=self._settings.task_queue,
                request=request,
                priority=new.priority,
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
            priority=priority_of(description.raw_description.workflow_execution_info.priority.priority_key),
            totals=known_totals(description),
            execution_id=description.run_id,
            ui_url=self._ui_url(run_id),
        )
        return await redacted(await self._as_it_is(detail, description), self._redactor)

    async def _as_it_is(self, detail: RunDetail, description: WorkflowExecutionDescription) -> RunDetail:
        if not visibility.is_open(description):
            return _ended(detail, await self._executions.end(description))
        detail = detail.model_copy(update={"pending_calls": await pending_calls(description)})
        view = await self._executions.view(detail.run_id)
        if view is not None and not view.status.ended:
            return _as_seen(detail, view)
        approvals, steering = await visibility.approvals_memo(description), await visibility.steering_memo(description)
        return detail.model_copy(update={"pending_approvals": approvals.pending, "paused": steering.paused})

    async def list(self, wanted: RunFilter, *, limit: int = 50, page_token: str | None = None) -> RunPage:
        """Return a page of runs, the newest first.

        Raises:
            InvalidInputError: The page token is none of ours.
        """
        query = visibility.run_query(wanted, orgs=wanted_org(self._principal, wanted.org))
        rows = self._client.list_workflows(
            query,
            page_size=min(limit, MAX_PAGE),
            next_page_token=visibility.decode_token(page_token, query=query),
            rpc_timeout=RPC_TIMEOUT,
        )
        with temporal_errors():
            await rows.fetch_next_page()
        # The query asks for the organisation, but some databases compare texts as if a and A were the same.
        owned = [row for row in rows.current_page or () if self._executions.owns(row)]
        items = [await redacted(await visibility.summary(row), self._redactor) for row in owned]
        return RunPage(items=tuple(items), next_page_token=visibility.encode_token(rows.next_page_token, query=query))

    async def cancel(self, run_id: str, *, reason: str = "") -> None:
        """Ask a run to end as cancelled. Asking again changes nothing.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        await self._executions.describe_open(run_id)
        await self._executions.cancel(run_id, reason=signed(self._principal, reason))

    async def message(self, run_id: str, request: MessageRequest) -> None:
        """Say something to the model before it is called next.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
            InputTooLargeError: The text is over its limit.
            InputRefusedError: The agent's input guard refuses it.
        """
        description = await self._executions.describe_open(run_id)
        sender = speaker(self._principal, request.sender, field="from")
        context = visibility.input_context(description, sender=sender)
        await self._check_input(request.text, context, limit=MAX_MESSAGE_BYTES)
        message = SteeringMessage(text=request.text, sender=sender or "")
        await self._executions.signal(run_id, "message", message)

    async def _check_callback(self, url: str) -> None:
        if not self._settings.webhook_secrets:
            raise CallbackRefusedError("callbacks are signed, and PERDURE_WEBHOOK_SECRETS is not set")
        with contextlib.suppress(NotResolvedError):  # each attempt to deliver checks again
            await self._outgoing.check(url)

    async def _check_input(self, text: str, context: InputContext, *, limit: int) -> None:
        with contextlib.suppress(UnknownAgentError):  # a run may be of a version that this app no longer has
            limit = min(limit, self._app.agent(context.agent, context.version).max_input_bytes)
        size = len(text.encode())
        if size > limit:
            raise InputTooLargeError(f"the {context.kind} is {size:,} bytes; at most {limit:,} fit")
        await check_input(self._app.input_guards(context.agent), text, context)

    async def pause(self, run_id: str, request: HoldRequest) -> None:
        """Have a run start no further step. Asking again changes nothing.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        await self._hold(run_id, "pause", request)

    async def resume(self, run_id: str, request: HoldRequest) -> None:
        """Have a paused run go on; one that is not paused is left to it. Raises as `pause`."""
        await self._hold(run_id, "resume", request)

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
            visibility.inbox_query(wanted, orgs=wanted_org(self._principal, wanted.org)),
            page_size=INBOX_PAGE,
            rpc_timeout=RPC_TIMEOUT,
        )
        found: list[InboxApproval] = []
        with temporal_errors():
            async for row in rows:
                if not self._executions.owns(row):
                    continue
                run = (await visibility.summary(row)).model_dump(include=set(InboxApproval.model_fields))
                pending = (await visibility.inbox_memo(row)).pending
                found += [InboxApproval(**dict(asked), **run) for asked in pending if _is_wanted(asked, wanted)]
        oldest = sorted(found, key=lambda approval: approval.asked_at)[:limit]
        return [await redacted(approval, self._redactor) for approval in oldest]

    async def approval(self, run_id: str, approval_id: str) -> ApprovalDetail:
        """Return an approval's durable record.

        Raises:
            RunNotFoundError: There is no such run.
            ApprovalNotFoundError: It never asked that.
        """
        record = approval_record(await self.events(run_id), run_id=run_id, approval_id=approval_id)
        if record is None:
            raise ApprovalNotFoundError(f"run {run_id!r} has no approval {approval_id!r}")
        return record

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
        found = await self._grants.list(wanted, orgs=wanted_org(self._principal, wanted.org))
        return [await redacted(grant, self._redactor) for grant in found]

    async def revoke_grant(self, grant_id: str, request: RevokeRequest) -> None:
        """End a standing grant.

        Raises:
            GrantNotFoundError: There is no such grant.
            ConflictError: It has expired, or is revoked.
        """
        by = speaker(self._principal, request.by, field="by")
        await self._grants.revoke(grant_id, by=by or "nobody named", reason=request.reason)

    async def revoke_run_grant(self, run_id: str, grant_id: str, request: RevokeRequest) -> None:
        """Ask a run to forget a grant that holds for it alone.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        await self._executions.describe_open(run_id)
        by = speaker(self._principal, request.by, field="by")
        revocation = Revocation(grant_id=grant_id, by=by or "", reason=request.reason)
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
        await self._executions.describe(run_id)
        with temporal_errors(run_id=run_id):
            return await history.read_events(self._client, run_id, after=after, redactor=self._redactor)

    async def follow(self, run_id: str, *, after: str | None = None) -> AsyncIterator[RunEvent]:
        """Iterate over a run's events, past ones first and then as they happen, until it ends; raises as `events`."""
        check_event_id(after)
        await self._executions.describe(run_id)
        with temporal_errors(run_id=run_id):
            async for event in history.follow_events(self._client, run_id, after=after, redactor=self._redactor):
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
        await self._executions.describe(run_id)
        with temporal_errors(run_id=run_id):
            histories = await history.fetch_executions(self._client, run_id)
        return await asyncio.to_thread(history.export, histories)

    async def pollers(self) -> Pollers:
        """Return how many workers ask Temporal for this task queue's work.

        Raises:
            ServerUnreachableError: Temporal does not answer.
        """
        queue = self._settings.task_queue
        rated = [rated.name for rated in self._app.rated_queues(queue)]
        return await count_pollers(self._client, queue, rated=rated)

    async def usage(self, wanted: UsageFilter) -> UsageReport:
        """Return what was used in a period, and what it cost.

        Raises:
            InvalidInputError: The period ends before it begins.
        """
        return await Usage(self._client).report(wanted, orgs=wanted_org(self._principal, wanted.org))

    def agents(self) -> builtins.list[AgentSummary]:
        """Return the app's agents, in order of registration."""
        return [
            AgentSummary(
                name=agent.name,
                version=agent.version,
                model=agent.model,
                fallbacks=tuple(agent.fallbacks),
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

    async def _hold(self, run_id: str, name: Literal["pause", "resume"], request: HoldRequest) -> None:
        by = speaker(self._principal, request.by, field="by")
        await self._executions.describe_open(run_id)
        await self._executions.signal(run_id, name, Hold(by=by or "", reason=request.reason))

    def _ui_url(self, run_id: str) -> str | None:
        base = self._settings.ui_url
        return f"{base.rstrip('/')}/namespaces/{self._client.namespace}/workflows/{run_id}" if base else None


def _context_of(arguments: RunArguments) -> InputContext:
    return InputContext(
        kind="input",
        agent=arguments.spec.name,
        version=arguments.spec.version,
        user=arguments.user,
        org=arguments.org,
        session_id=arguments.session_id,
    )


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
