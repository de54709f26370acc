"""API keys: made, listed, revoked, and found again for whoever is shown one. Temporal keeps them (`perdure.api_key`).

None of it needs a worker. The one workflow task of a key's workflow waits for a worker of the task queue.
"""

from __future__ import annotations

import builtins
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

import structlog
from pydantic import ConfigDict, Field, ValidationError
from temporalio.api.enums.v1 import EventType
from temporalio.client import Client, WorkflowExecution, WorkflowExecutionStatus, WorkflowHistoryEventFilterType
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy

from perdure.api_key import MEMO_RECORD, WORKFLOW_NAME, ApiKeyRecord, KeyText, workflow_id
from perdure.connection import ensure_search_attributes
from perdure.duration import Duration
from perdure.encryption import seal, unseal
from perdure.errors import ApiKeyNotFoundError, ConflictError, DecryptionError, InvalidInputError
from perdure.principal import Scope
from perdure.search_attributes import ORG
from perdure_api import visibility
from perdure_api.rpc import RPC_TIMEOUT, described, temporal_errors
from perdure_api.schemas import Answer, Request
from perdure_api.text import Line, SearchKey, Text
from perdure_workflows.api_key import ApiKey

log = structlog.get_logger(__name__)

DEFAULT_SCOPES: Final = (Scope.RUNS_READ, Scope.RUNS_WRITE)
MAX_LIFETIME: Final = timedelta(days=3650)
MAX_ROLES: Final = 50

KeyState = Literal["active", "expired", "revoked"]


class NewKey(Request):
    """A key to make."""

    name: SearchKey
    """What lists call it."""
    org: SearchKey | None
    """Whose runs its holder sees and starts; None: of every organisation."""
    user: SearchKey | None = None
    """Whom its holder acts as; default: the key's name."""
    roles: Annotated[tuple[Line, ...], Field(max_length=MAX_ROLES)] = ()
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)] = DEFAULT_SCOPES
    expires: Annotated[Duration, Field(gt=timedelta(0), le=MAX_LIFETIME)] | None = None
    """How long it works; None: until it is revoked."""


class KeyFilter(Request):
    """Which keys to list."""

    org: SearchKey | None = None


class Revocation(Request):
    """Who ends a key, and why."""

    by: Line
    reason: Annotated[Text, Field(min_length=1, max_length=1000)]


class FoundKey(Answer):
    """A key that there is, or was not long ago."""

    record: ApiKeyRecord
    state: KeyState


class ListedKey(Answer):
    """A key in a list: all that is known of it but its secret's digest."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    key_id: str
    name: str
    user: str
    org: str | None
    roles: tuple[str, ...]
    scopes: tuple[Scope, ...]
    created_by: str
    created_at: datetime
    expires_at: datetime | None
    state: KeyState
    ended_at: datetime | None = None
    ended_because: str = ""
    """Who revoked it, and why."""


class ApiKeys:
    """The API keys of a namespace."""

    def __init__(self, client: Client, *, task_queue: str) -> None:
        self._client = client
        self._task_queue = task_queue

    async def create(self, new: NewKey, *, by: str) -> tuple[KeyText, ApiKeyRecord]:
        """Make a key. Its text is nowhere but in what this returns.

        Raises:
            ServerUnreachableError: Temporal does not answer.
            ConfigurationError: The namespace lacks our search attributes, and they cannot be added from here.
        """
        key, now = KeyText.new(), datetime.now(UTC)
        record = ApiKeyRecord(
            key_id=key.key_id,
            name=new.name,
            digest=key.digest,
            user=new.user or new.name,
            org=new.org,
            roles=tuple(dict.fromkeys(new.roles)),
            scopes=tuple(dict.fromkeys(new.scopes)),
            created_by=by,
            created_at=now,
            expires_at=now + new.expires if new.expires else None,
        )
        try:
            await self._keep(record, lifetime=new.expires)
        except InvalidInputError:
            # Before the first worker or API came to this namespace, it has no search attributes of ours.
            await ensure_search_attributes(self._client)
            await self._keep(record, lifetime=new.expires)
        return key, record

    async def list(self, wanted: KeyFilter) -> builtins.list[ListedKey]:
        """Return the keys, the newest first; those that ended are kept as long as the namespace keeps workflows."""
        rows = self._client.list_workflows(visibility.key_query(org=wanted.org), rpc_timeout=RPC_TIMEOUT)
        found: list[ListedKey] = []
        with temporal_errors():
            async for row in rows:
                if (key := await _listable(row)) is not None:
                    ended_because = await self._why_ended(row) if key.state == "revoked" else ""
                    found.append(
                        ListedKey(
                            **dict(key.record), state=key.state, ended_at=row.close_time, ended_because=ended_because
                        )
                    )
        return sorted(found, key=lambda key: key.created_at, reverse=True)

    async def find(self, key_id: str) -> FoundKey | None:
        """Return the key of an id, as it is now; None if there is none.

        Raises:
            ServerUnreachableError: Temporal does not answer.
            DecryptionError: The record is encrypted with a key that is not here.
        """
        description = await described(self._client, workflow_id(key_id))
        key = await _read(description) if description is not None else None
        return key if key is not None and key.record.key_id == key_id else None

    async def revoke(self, key_id: str, revocation: Revocation) -> ApiKeyRecord:
        """End a key for good.

        Raises:
            ApiKeyNotFoundError: There is no such key.
            ConflictError: It has expired or is revoked already.
        """
        key = await self.find(key_id)
        if key is None:
            raise ApiKeyNotFoundError(f"no API key has the id {key_id!r}; 'perdure keys list' has them")
        if key.state != "active":
            raise ConflictError(f"API key {key_id!r} is already {key.state}")
        handle = self._client.get_workflow_handle(workflow_id(key_id))
        sealed = await seal(f"by {revocation.by}: {revocation.reason}", self._client.data_converter)
        with temporal_errors():
            await handle.terminate(reason=sealed, rpc_timeout=RPC_TIMEOUT)
        return key.record

    async def _keep(self, record: ApiKeyRecord, *, lifetime: timedelta | None) -> None:
        with temporal_errors():
            await self._client.start_workflow(
                ApiKey.run,
                record,
                id=workflow_id(record.key_id),
                task_queue=self._task_queue,
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                execution_timeout=lifetime,
                search_attributes=TypedSearchAttributes(
                    [] if record.org is None else [SearchAttributePair(ORG, record.org)]
                ),
                memo={MEMO_RECORD: record},
                static_summary=f"API key of {record.user}",
                rpc_timeout=RPC_TIMEOUT,
            )

    async def _why_ended(self, row: WorkflowExecution) -> str:
        handle = self._client.get_workflow_handle(row.id, run_id=row.run_id)
        closing = WorkflowHistoryEventFilterType.CLOSE_EVENT
        async for event in handle.fetch_history_events(event_filter_type=closing, rpc_timeout=RPC_TIMEOUT):
            if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
                reason = event.workflow_execution_terminated_event_attributes.reason
                return await unseal(reason, self._client.data_converter)
        return ""


async def _read(execution: WorkflowExecution) -> FoundKey | None:
    """Return the key that a workflow keeps; None if it keeps none."""
    if execution.workflow_type != WORKFLOW_NAME:
        return None
    try:
        record = await execution.memo_value(MEMO_RECORD, None, type_hint=ApiKeyRecord)
    except ValidationError:
        return None
    return FoundKey(record=record, state=_state(execution, record)) if record else None


async def _listable(row: WorkflowExecution) -> FoundKey | None:
    """Return the key of a row; None, and a warning, if its record cannot be read here."""
    try:
        return await _read(row)
    except DecryptionError as error:  # it must not keep the others from being listed
        log.warning("api_key_unreadable", workflow_id=row.id, error=str(error))
        return None


def _state(execution: WorkflowExecution, record: ApiKeyRecord) -> KeyState:
    match execution.status:
        case WorkflowExecutionStatus.RUNNING:
            # The server's timer may be late, and its clock is not ours.
            late = record.expires_at is not None and record.expires_at <= datetime.now(UTC)
            return "expired" if late else "active"
        case WorkflowExecutionStatus.TIMED_OUT:
            return "expired"
    return "revoked"
