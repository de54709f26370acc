"""Temporal's visibility: queries for runs, their rows, and page tokens. It answers while no worker is running."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog
from temporalio.client import WorkflowExecution, WorkflowExecutionStatus
from temporalio.common import SearchAttributeKey

from perdure.api_key import WORKFLOW_NAME as KEY_WORKFLOW
from perdure.contracts import WORKFLOW_NAME, ForkOrigin, RunStatus
from perdure.errors import DecryptionError, InvalidInputError
from perdure.feedback import FEEDBACK_WORKFLOW
from perdure.grant import GRANT_WORKFLOW
from perdure.input_guard import InputContext
from perdure.ledger.contracts import LEDGER_NAME, PAGE_NAME
from perdure.oversight import ApprovalsMemo, SteeringMemo
from perdure.rollout import VersionSource
from perdure.schedule import SCHEDULED_NAME, scheduled_id
from perdure.search_attributes import (
    AGENT,
    APPROVALS,
    COST,
    ERROR,
    MEMO_APPROVALS,
    MEMO_FORK,
    MEMO_INPUT,
    MEMO_STARTED,
    MEMO_STEERING,
    MEMO_TRACE,
    MEMO_VERSION_SOURCE,
    ORG,
    ORIGIN,
    PROBLEMS,
    SCORE,
    SESSION,
    STATUS,
    STEPS,
    USER,
    VERSION,
)
from perdure_api.schemas import GrantFilter, InboxFilter, RunFilter, RunSummary

log = structlog.get_logger(__name__)

CHECKSUM_BYTES: Final = 8

_ENDED_FROM_OUTSIDE: Final = {
    WorkflowExecutionStatus.FAILED: RunStatus.FAILED,
    WorkflowExecutionStatus.CANCELED: RunStatus.CANCELLED,
    WorkflowExecutionStatus.TERMINATED: RunStatus.TERMINATED,
    WorkflowExecutionStatus.TIMED_OUT: RunStatus.TIMED_OUT,
}
"""Ends that Temporal knows better than the run, which may not have come to write its own."""


def run_query(wanted: RunFilter, *, orgs: tuple[str, ...]) -> str:
    """Return the visibility query for these runs, each of which must be of all these organisations."""
    return " AND ".join(
        [
            f"WorkflowType = {_quoted(WORKFLOW_NAME)}",
            "ExecutionStatus != 'ContinuedAsNew'",  # earlier executions of a run that goes on
            *_equals({AGENT: wanted.agent, VERSION: wanted.version} | {USER: wanted.user, SESSION: wanted.session_id}),
            *_equals({ERROR: wanted.error}),
            *_of_orgs(orgs),
            *([_has_status(wanted.status)] if wanted.status else []),
            *([] if wanted.stuck is None else [_is_stuck(wanted=wanted.stuck)]),
        ]
    )


def open_query(wanted: RunFilter, *, orgs: tuple[str, ...]) -> str:
    """Return the visibility query for those of these runs that go on; organisations as in `run_query`."""
    return f"{run_query(wanted, orgs=orgs)} AND ExecutionStatus = 'Running'"


def ended_query(wanted: RunFilter, *, orgs: tuple[str, ...], since: datetime, until: datetime) -> str:
    """Return the visibility query for those of these runs that ended within a time, whatever became of them."""
    runs = run_query(wanted.model_copy(update={"status": None}), orgs=orgs)
    return f"{runs} AND CloseTime BETWEEN {_quoted(since.isoformat())} AND {_quoted(until.isoformat())}"


def session_query(agent: str, session_id: str, *, org: str | None) -> str:
    """Return the visibility query for an agent's runs in a session of an organisation, or of none."""
    return " AND ".join(
        [
            f"WorkflowType = {_quoted(WORKFLOW_NAME)}",
            "ExecutionStatus != 'ContinuedAsNew'",
            *_equals({AGENT: agent, SESSION: session_id, ORG: org}),
            *([f"{ORG.name} IS NULL"] if org is None else []),
        ]
    )


def executions_query(run_ids: Sequence[str]) -> str:
    """Return the visibility query for all executions of these runs but those that continue-as-new has left."""
    ids = ", ".join(map(_quoted, run_ids))
    return f"WorkflowId IN ({ids}) AND ExecutionStatus != 'ContinuedAsNew'"


def fork_query(run_id: str, *, orgs: tuple[str, ...]) -> str:
    """Return the visibility query for a run's forks; organisations as in `run_query`."""
    return " AND ".join(
        [
            f"WorkflowType = {_quoted(WORKFLOW_NAME)}",
            "ExecutionStatus != 'ContinuedAsNew'",
            *_equals({ORIGIN: run_id}),
            *_of_orgs(orgs),
        ]
    )


def inbox_query(wanted: InboxFilter, *, orgs: tuple[str, ...]) -> str:
    """Return the visibility query for open runs that wait for a human; organisations as in `run_query`."""
    return " AND ".join(
        [
            f"WorkflowType = {_quoted(WORKFLOW_NAME)}",
            "ExecutionStatus = 'Running'",
            f"{APPROVALS.name} IS NOT NULL",
            *_equals({AGENT: wanted.agent, USER: wanted.user}),
            *_of_orgs(orgs),
        ]
    )


def stuck_query() -> str:
    """Return the visibility query for runs whose workflow code breaks, of everybody."""
    return run_query(RunFilter(stuck=True), orgs=())


def grant_query(wanted: GrantFilter, *, orgs: tuple[str, ...]) -> str:
    """Return the visibility query for grants that stand; organisations as in `run_query`."""
    return " AND ".join(
        [
            f"WorkflowType = {_quoted(GRANT_WORKFLOW)}",
            "ExecutionStatus = 'Running'",
            *_equals({AGENT: wanted.agent}),
            *_of_orgs(orgs),
        ]
    )


def feedback_query(run_id: str) -> str:
    """Return the visibility query for the feedback on a run."""
    return " AND ".join(
        [f"WorkflowType = {_quoted(FEEDBACK_WORKFLOW)}", "ExecutionStatus = 'Running'", *_equals({ORIGIN: run_id})]
    )


def opinion_query(agent: str, version: str, *, orgs: tuple[str, ...], since: datetime) -> str:
    """Return the visibility query for scores that runs of a version were given since then; as `run_query`."""
    return " AND ".join(
        [
            f"WorkflowType = {_quoted(FEEDBACK_WORKFLOW)}",
            "ExecutionStatus = 'Running'",
            f"{SCORE.name} IS NOT NULL",
            f"StartTime >= {_quoted(since.isoformat())}",
            *_equals({AGENT: agent, VERSION: version}),
            *_of_orgs(orgs),
        ]
    )


def errand_query(run_id: str, *, workflow_type: str) -> str:
    """Return the visibility query for workflows of a type that do something for a run, whatever became of them."""
    return " AND ".join([f"WorkflowType = {_quoted(workflow_type)}", *_equals({ORIGIN: run_id})])


def schedule_query(agent: str | None, *, orgs: tuple[str, ...]) -> str:
    """Return the visibility query for schedules; organisations as in `run_query`."""
    return " AND ".join([*_equals({AGENT: agent}), *_of_orgs(orgs)])


def outcome_query(schedule_id: str) -> str:
    """Return the visibility query for a schedule's runs, and for those that it could not start."""
    runs = (
        f"WorkflowType = {_quoted(WORKFLOW_NAME)} AND ExecutionStatus != 'ContinuedAsNew' "
        f"AND WorkflowId STARTS_WITH {_quoted(f'{schedule_id}-')}"
    )
    refused = (
        f"WorkflowType = {_quoted(SCHEDULED_NAME)} AND ExecutionStatus = 'Failed' "
        f"AND WorkflowId STARTS_WITH {_quoted(scheduled_id(schedule_id))}"
    )
    return f"({runs}) OR ({refused})"


def key_query(*, org: str | None) -> str:
    """Return the visibility query for API keys."""
    return " AND ".join([f"WorkflowType = {_quoted(KEY_WORKFLOW)}", *_equals({ORG: org})])


def ledger_query(orgs: tuple[str, ...]) -> str:
    """Return the visibility query for ledgers; organisations as in `run_query`."""
    return " AND ".join([f"WorkflowType = {_quoted(LEDGER_NAME)}", "ExecutionStatus = 'Running'", *_of_orgs(orgs)])


def page_query(orgs: tuple[str, ...], *, first: date) -> str:
    """Return the visibility query for pages of usage that can be of that day or a later one; as `ledger_query`."""
    # A page is written when its day is over, or full; never before it begins in the easternmost zone.
    since = first - timedelta(days=1)
    return " AND ".join(
        [
            f"WorkflowType = {_quoted(PAGE_NAME)}",
            "ExecutionStatus = 'Running'",
            f"StartTime >= '{since.isoformat()}T00:00:00Z'",
            *_of_orgs(orgs),
        ]
    )


async def summary(execution: WorkflowExecution) -> RunSummary:
    """Return the run that a row of visibility, or a description, tells of.

    A run whose key is gone is listed all the same, as it must not keep the others from being listed.
    """
    attributes = execution.typed_search_attributes
    steps, cost = attributes.get(STEPS), attributes.get(COST)
    try:
        text = await execution.memo_value(MEMO_INPUT, "", type_hint=str)
        started_at = await execution.memo_value(MEMO_STARTED, execution.start_time, type_hint=datetime)
    except DecryptionError as error:
        text, started_at = f"({error})", execution.start_time
    return RunSummary(
        run_id=execution.id,
        agent=attributes.get(AGENT) or "",
        version=attributes.get(VERSION) or "",
        status=status(execution),
        input=text,
        user=attributes.get(USER),
        org=attributes.get(ORG),
        session_id=attributes.get(SESSION),
        started_at=started_at,
        ended_at=execution.close_time,
        steps=steps or 0,
        cost_usd=None if steps and cost is None else Decimal(str(cost or 0)),
        error_type=attributes.get(ERROR),
        waiting_for=tuple(attributes.get(APPROVALS) or ()) if is_open(execution) else (),
    )


def input_context(execution: WorkflowExecution, *, sender: str | None) -> InputContext:
    """Return what an input guard is told of a message to a run."""
    attributes = execution.typed_search_attributes
    return InputContext(
        kind="message",
        agent=attributes.get(AGENT) or "",
        version=attributes.get(VERSION) or "",
        user=attributes.get(USER),
        org=attributes.get(ORG),
        session_id=attributes.get(SESSION),
        run_id=execution.id,
        sender=sender,
    )


def status(execution: WorkflowExecution) -> RunStatus:
    """Return where a run is: its own word, unless Temporal knows that it is outdated."""
    if execution.status in _ENDED_FROM_OUTSIDE:
        return _ENDED_FROM_OUTSIDE[execution.status]
    said = execution.typed_search_attributes.get(STATUS)
    known = next((known for known in RunStatus if known == said), None)
    if is_open(execution):
        return known if known is not None and not known.ended else RunStatus.RUNNING
    return known if known is not None and known.ended else RunStatus.COMPLETED


def is_open(execution: WorkflowExecution) -> bool:
    """Whether the run goes on, in this execution or in the next one."""
    return execution.status in (None, WorkflowExecutionStatus.RUNNING, WorkflowExecutionStatus.CONTINUED_AS_NEW)


async def approvals_memo(execution: WorkflowExecution) -> ApprovalsMemo:
    """Return what the run last wrote about its approvals."""
    return await execution.memo_value(MEMO_APPROVALS, ApprovalsMemo(), type_hint=ApprovalsMemo)


async def trace_id(execution: WorkflowExecution) -> str | None:
    """Return the id of the run's trace, if it was started with one."""
    return await execution.memo_value(MEMO_TRACE, None, type_hint=str)


async def version_source(execution: WorkflowExecution) -> VersionSource | None:
    """Return what the run's version was chosen by, if its start says."""
    return await execution.memo_value(MEMO_VERSION_SOURCE, None, type_hint=VersionSource)


async def inbox_memo(execution: WorkflowExecution) -> ApprovalsMemo:
    """Return what the run last wrote about its approvals; nothing, and a warning, if its key is gone."""
    try:
        return await approvals_memo(execution)
    except DecryptionError as error:
        log.warning("approvals_unreadable", run_id=execution.id, error=str(error))
        return ApprovalsMemo()


async def steering_memo(execution: WorkflowExecution) -> SteeringMemo:
    """Return what the run last wrote about being steered."""
    return await execution.memo_value(MEMO_STEERING, SteeringMemo(), type_hint=SteeringMemo)


async def fork_origin(execution: WorkflowExecution) -> ForkOrigin | None:
    """Return where a fork began; None for a run that is none."""
    return await execution.memo_value(MEMO_FORK, None, type_hint=ForkOrigin)


def encode_token(token: bytes | None, *, query: str) -> str | None:
    """Write Temporal's page token so that it fits into an address."""
    return base64.urlsafe_b64encode(_checksum(token, query) + token).decode() if token else None


def decode_token(text: str | None, *, query: str) -> bytes | None:
    """Read what `encode_token` wrote for the same query.

    Raises:
        InvalidInputError: It is something else. Temporal itself would take ten seconds to refuse it.
    """
    if text is None:
        return None
    try:
        decoded = base64.b64decode(text, altchars=b"-_", validate=True)
    except ValueError:
        decoded = b""
    checksum, token = decoded[:CHECKSUM_BYTES], decoded[CHECKSUM_BYTES:]
    if not token or checksum != _checksum(token, query):
        raise InvalidInputError(
            f"{text[:80]!r} is no page token of this list; take next_page_token of the page before, with its filters"
        )
    return token


def _has_status(wanted: RunStatus) -> str:
    said = f"{STATUS.name} = {_quoted(wanted)}"
    match wanted:
        case RunStatus.RUNNING:
            others = (RunStatus.QUEUED, RunStatus.WAITING, RunStatus.PAUSED)
            held_up = f"{STATUS.name} IN ({', '.join(map(_quoted, others))})"
            return f"ExecutionStatus = 'Running' AND NOT {held_up}"
        case RunStatus.QUEUED | RunStatus.WAITING | RunStatus.PAUSED:
            return f"ExecutionStatus = 'Running' AND {said}"
        case RunStatus.FAILED:
            return "ExecutionStatus = 'Failed'"
        case RunStatus.CANCELLED:
            return "ExecutionStatus = 'Canceled'"
        case RunStatus.TERMINATED:
            return "ExecutionStatus = 'Terminated'"
        case RunStatus.TIMED_OUT:
            return f"(ExecutionStatus = 'TimedOut' OR (ExecutionStatus = 'Completed' AND {said}))"
        case RunStatus.COMPLETED | RunStatus.MAX_STEPS | RunStatus.REJECTED | RunStatus.OUT_OF_BUDGET:
            return f"ExecutionStatus = 'Completed' AND {said}"


def _is_stuck(*, wanted: bool) -> str:
    stuck = f"(ExecutionStatus = 'Running' AND {PROBLEMS.name} IS NOT NULL)"  # a run that was terminated keeps it
    return stuck if wanted else f"NOT {stuck}"


def _equals(values: dict[SearchAttributeKey[str], str | None]) -> Iterator[str]:
    return (f"{key.name} = {_quoted(value)}" for key, value in values.items() if value is not None)


def _of_orgs(orgs: tuple[str, ...]) -> Iterator[str]:
    return (f"{ORG.name} = {_quoted(org)}" for org in orgs)


def _checksum(token: bytes, query: str) -> bytes:
    return hashlib.sha256(query.encode() + b"\0" + token).digest()[:CHECKSUM_BYTES]


def _quoted(value: str) -> str:
    # No double quote and no backslash comes here (`SearchKey`): Temporal reads a literal's escapes as MySQL does, and
    # then compares with the literal written anew, escapes included.
    return "'" + value.replace("'", "''") + "'"
