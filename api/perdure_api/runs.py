"""Runs: started, looked at, listed, steered, followed."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Final, Literal

import structlog
from temporalio.client import WorkflowExecutionDescription
from temporalio.exceptions import WorkflowAlreadyStartedError

from perdure import history
from perdure.contracts import MAX_INPUT_BYTES, MAX_MESSAGE_BYTES, RunResult, RunView
from perdure.errors import (
    CallbackRefusedError,
    IdempotencyKeyReusedError,
    InputTooLargeError,
    InvalidInputError,
    UnknownAgentError,
)
from perdure.events import EventId, RunEvent, Step, steps
from perdure.input_guard import InputContext, check_input
from perdure.outgoing import NotResolvedError
from perdure.oversight import Hold, SteeringMessage
from perdure.priority import Priority, priority_of
from perdure.redaction import redacted
from perdure.schedule import PreparedRun
from perdure.search_attributes import MEMO_REQUEST
from perdure_api import visibility
from perdure_api.agent_span import agent_span
from perdure_api.authority import commissioned, signed, speaker
from perdure_api.executions import known_totals
from perdure_api.feedback import feedback_of
from perdure_api.pending_calls import pending_calls
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import (
    HoldRequest,
    MessageRequest,
    NewRun,
    PendingCall,
    RunDetail,
    RunFilter,
    RunPage,
    StartedRun,
)
from perdure_api.starts import (
    BACKSTOP,
    attributes_of,
    checked_run_id,
    details_of,
    memo_of,
    request_digest,
    run_arguments,
    run_id_for,
    start_workflow,
    summary_of,
)
from perdure_api.superseded import current
from perdure_api.terms import with_terms
from perdure_workflows.state import RunArguments

MAX_PAGE: Final = 1000
MAX_FORKS: Final = 100

log = structlog.get_logger(__name__)


class Runs:
    """The runs that a principal may see, and what it can do with them."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach

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
        new = commissioned(self._reach.principal, new)
        arguments = await self._prepared(new)
        chosen = checked_run_id(run_id) if run_id else run_id_for(idempotency_key, org=new.org)
        return await self.begin(arguments, chosen=chosen, request=request_digest(new), priority=new.priority)

    async def begin(self, arguments: RunArguments, *, chosen: str, request: str, priority: Priority) -> StartedRun:
        """Start a run whose input is complete.

        Raises:
            IdempotencyKeyReusedError: Another request has started a run of that id.
        """
        try:
            with agent_span(arguments, run_id=chosen) as trace:
                await start_workflow(
                    self._reach.client,
                    arguments.model_copy(update={"trace": trace}),
                    run_id=chosen,
                    task_queue=self._reach.settings.task_queue,
                    request=request,
                    priority=priority,
                )
        except WorkflowAlreadyStartedError as error:
            description = await self._reach.executions.describe(chosen)
            if await description.memo_value(MEMO_REQUEST, "", type_hint=str) != request:
                raise IdempotencyKeyReusedError(
                    f"another request has already started run {chosen!r}; a new request needs a new key"
                ) from error
            return StartedRun(run_id=chosen, created=False)
        log.info("run_started", run_id=chosen, agent=arguments.spec.name, user=arguments.user, org=arguments.org)
        return StartedRun(run_id=chosen, created=True)

    async def prepare(self, new: NewRun, *, run_id: str) -> PreparedRun:
        """Return what a run of that id would start with now, for who starts it elsewhere; raises as `start`."""
        new = commissioned(self._reach.principal, new)
        arguments = await self._prepared(new)
        with agent_span(arguments, run_id=run_id) as trace:
            arguments = arguments.model_copy(update={"trace": trace})
        keys = new.priority.keys(org=arguments.org)
        return PreparedRun(
            arguments=arguments,
            attributes={key.name: value for key, value in attributes_of(arguments).items()},
            memo=memo_of(arguments, request_digest(new)),
            summary=summary_of(arguments),
            details=details_of(arguments),
            timeout=arguments.limits.run_timeout + BACKSTOP,
            priority_key=keys.priority_key,
            fairness_key=keys.fairness_key,
        )

    async def check(self, new: NewRun) -> None:
        """Refuse what could not be started now; raises as `start`."""
        await self._prepared(commissioned(self._reach.principal, new))

    async def _prepared(self, new: NewRun) -> RunArguments:
        arguments = run_arguments(new, self._reach.app, self._reach.principal)
        await self.check_input_of(new.input, context_of(arguments), limit=MAX_INPUT_BYTES)
        if new.callback_url is not None:
            await self._check_callback(new.callback_url)
        return await with_terms(arguments, self._reach.settings)

    async def get(self, run_id: str) -> RunDetail:
        """Return a run as it is now, or how it ended.

        Raises:
            RunNotFoundError: There is no such run.
        """
        description = await self._reach.executions.describe(run_id)
        feedback, forks = await asyncio.gather(feedback_of(self._reach, run_id), self._forks(run_id))
        detail = RunDetail(
            **dict(await visibility.summary(description)),
            live=False,
            priority=priority_of(description.raw_description.workflow_execution_info.priority.priority_key),
            totals=known_totals(description),
            feedback=feedback,
            forked_from=await visibility.fork_origin(description),
            forks=forks,
            execution_id=description.run_id,
            ui_url=self._ui_url(run_id),
            trace_id=await visibility.trace_id(description),
        )
        return await redacted(await self._as_it_is(detail, description), self._reach.redactor)

    async def _as_it_is(self, detail: RunDetail, description: WorkflowExecutionDescription) -> RunDetail:
        if not visibility.is_open(description):
            return _ended(detail, await self._reach.executions.end(description))
        detail = detail.model_copy(update={"pending_calls": await pending_calls(description)})
        view = await self._reach.executions.view(detail.run_id)
        if view is not None and not view.status.ended:
            return _as_seen(detail, view)
        approvals, steering = await visibility.approvals_memo(description), await visibility.steering_memo(description)
        return detail.model_copy(update={"pending_approvals": approvals.pending, "paused": steering.paused})

    async def calls(self, run_id: str) -> tuple[PendingCall, ...] | None:
        """Return a run's calls under way; None if it has ended. It takes no worker.

        Raises:
            RunNotFoundError: There is no such run.
        """
        description = await self._reach.executions.describe(run_id)
        if not visibility.is_open(description):
            return None
        return tuple([await redacted(call, self._reach.redactor) for call in await pending_calls(description)])

    async def list(self, wanted: RunFilter, *, limit: int = 50, page_token: str | None = None) -> RunPage:
        """Return a page of runs, the newest first.

        Raises:
            InvalidInputError: The page token is none of ours.
        """
        query = visibility.run_query(wanted, orgs=self._reach.orgs(wanted.org))
        rows = self._reach.client.list_workflows(
            query,
            page_size=min(limit, MAX_PAGE),
            next_page_token=visibility.decode_token(page_token, query=query),
            rpc_timeout=RPC_TIMEOUT,
        )
        with temporal_errors():
            await rows.fetch_next_page()
            found = await current(self._reach.client, rows.current_page or ())
        # The query asks for the organisation, but some databases compare texts as if a and A were the same.
        owned = [row for row in found if self._reach.executions.owns(row)]
        items = [await redacted(await visibility.summary(row), self._reach.redactor) for row in owned]
        return RunPage(items=tuple(items), next_page_token=visibility.encode_token(rows.next_page_token, query=query))

    async def cancel(self, run_id: str, *, reason: str = "") -> None:
        """Ask a run to end as cancelled. Asking again changes nothing.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
        """
        await self._reach.executions.describe_open(run_id)
        await self._reach.executions.cancel(run_id, reason=signed(self._reach.principal, reason))

    async def message(self, run_id: str, request: MessageRequest) -> None:
        """Say something to the model before it is called next.

        Raises:
            RunNotFoundError: There is no such run.
            ConflictError: It has ended.
            InputTooLargeError: The text is over its limit.
            InputRefusedError: The agent's input guard refuses it.
        """
        description = await self._reach.executions.describe_open(run_id)
        sender = speaker(self._reach.principal, request.sender, field="from")
        context = visibility.input_context(description, sender=sender)
        await self.check_input_of(request.text, context, limit=MAX_MESSAGE_BYTES)
        message = SteeringMessage(text=request.text, sender=sender or "")
        await self._reach.executions.signal(run_id, "message", message)

    async def _check_callback(self, url: str) -> None:
        if not self._reach.settings.webhook_secrets:
            raise CallbackRefusedError("callbacks are signed, and PERDURE_WEBHOOK_SECRETS is not set")
        with contextlib.suppress(NotResolvedError):  # each attempt to deliver checks again
            await self._reach.outgoing.check(url)

    async def check_input_of(self, text: str, context: InputContext, *, limit: int) -> None:
        """Refuse what people say if it is too large, or the agent's guards refuse it.

        Raises:
            InputTooLargeError: It is over its limit.
            InputRefusedError: A guard refuses it.
        """
        with contextlib.suppress(UnknownAgentError):  # a run may be of a version that this app no longer has
            limit = min(limit, self._reach.app.agent(context.agent, context.version).max_input_bytes)
        size = len(text.encode())
        if size > limit:
            raise InputTooLargeError(f"the {context.kind} is {size:,} bytes; at most {limit:,} fit")
        await check_input(self._reach.app.input_guards(context.agent), text, context)

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
        return not visibility.is_open(await self._reach.executions.describe(run_id))

    async def result(self, run_id: str, *, timeout: timedelta) -> RunDetail | None:
        """Wait for a run's end, and return the run; None if it goes on for longer.

        Raises:
            RunNotFoundError: There is no such run.
        """
        await self._reach.executions.describe(run_id)
        await self._reach.executions.wait(run_id, timeout=timeout)
        return await self.get(run_id) if await self.ended(run_id) else None

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
        await self._reach.executions.describe(run_id)
        with temporal_errors(run_id=run_id):
            return await history.read_events(self._reach.client, run_id, after=after, redactor=self._reach.redactor)

    async def withdrawn(
        self, run_id: str, execution_id: str, *, reset: str
    ) -> tuple[builtins.list[RunEvent], builtins.list[RunEvent]]:
        """Return the events of an execution that a retry left behind: those that count still, and those that do not.

        Args:
            run_id: The run.
            execution_id: As the `run.reset` names it.
            reset: The id of the `run.reset`.

        Raises:
            RunNotFoundError: There is no such run, or the history of that execution is deleted.
            InvalidInputError: `reset` is no event's id.
        """
        check_event_id(reset)
        await self._reach.executions.describe(run_id)
        with temporal_errors(run_id=run_id):
            return await history.read_withdrawn(
                self._reach.client,
                run_id,
                execution_id,
                reset=EventId.parse(reset),
                redactor=self._reach.redactor,
            )

    async def follow(self, run_id: str, *, after: str | None = None) -> AsyncIterator[RunEvent]:
        """Iterate over a run's events, past ones first and then as they happen, until it ends; raises as `events`."""
        check_event_id(after)
        await self._reach.executions.describe(run_id)
        with temporal_errors(run_id=run_id):
            async for event in history.follow_events(
                self._reach.client, run_id, after=after, redactor=self._reach.redactor
            ):
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
        await self._reach.executions.describe(run_id)
        with temporal_errors(run_id=run_id):
            histories = await history.fetch_executions(self._reach.client, run_id)
        return await asyncio.to_thread(history.export, histories)

    async def _hold(self, run_id: str, name: Literal["pause", "resume"], request: HoldRequest) -> None:
        by = speaker(self._reach.principal, request.by, field="by")
        await self._reach.executions.describe_open(run_id)
        await self._reach.executions.signal(run_id, name, Hold(by=by or "", reason=request.reason))

    async def _forks(self, run_id: str) -> tuple[str, ...]:
        query = visibility.fork_query(run_id, orgs=self._reach.orgs(None))
        with temporal_errors():
            rows = self._reach.client.list_workflows(query, limit=MAX_FORKS, rpc_timeout=RPC_TIMEOUT)
            return tuple(dict.fromkeys([row.id async for row in rows if self._reach.executions.owns(row)]))

    def _ui_url(self, run_id: str) -> str | None:
        base = self._reach.settings.ui_url
        return f"{base.rstrip('/')}/namespaces/{self._reach.client.namespace}/workflows/{run_id}" if base else None


def context_of(arguments: RunArguments) -> InputContext:
    """Return what an input guard is told of a run's beginning."""
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
            "plan": result.plan,
        }
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
            "plan": view.plan,
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
