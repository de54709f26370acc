"""Reading a run's Temporal history: whole, as events, live as it grows, and as a file.

A long run is a chain of executions, each with a history of its own. Histories leave here in plain text, with payloads
decoded and failures spelled out, so that events, files and replay need neither codec nor key nor external storage; only
events are redacted. Not for workflow code.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Any

from google.protobuf.json_format import ParseError
from google.protobuf.message import Message as Proto
from pydantic import BaseModel, ValidationError
from temporalio.api.common.v1 import Payload, SearchAttributes
from temporalio.api.failure.v1 import Failure
from temporalio.api.history.v1 import HistoryEvent, WorkflowExecutionStartedEventAttributes
from temporalio.client import Client, WorkflowHistory
from temporalio.common import RawValue
from temporalio.converter import DataConverter
from temporalio.service import RPCError, RPCStatusCode

from perdure.codec import decode_payloads
from perdure.contracts import WORKFLOW_NAME
from perdure.encryption import KEY_ID, is_encrypted, unseal
from perdure.errors import HistoryFileError, RunNotFoundError
from perdure.events import EventId, Projector, RunEnded, RunEvent
from perdure.redaction import SECRETS, Redactor, redact_model, redacted


async def fetch_executions(client: Client, run_id: str) -> list[WorkflowHistory]:
    """Return the histories of a run's executions, first to latest, as far as the server still has them.

    Raises:
        RunNotFoundError: There is no such run.
    """
    chain = await _execution_ids(client, run_id)
    return [await fetch_execution(client, run_id, execution_id) for execution_id in chain]


async def fetch_latest_first(client: Client, run_id: str) -> AsyncIterator[WorkflowHistory]:
    """Iterate over the histories of a run's executions, latest to first; raises as `fetch_executions`."""
    for execution_id in reversed(await _execution_ids(client, run_id)):
        yield await fetch_execution(client, run_id, execution_id)


async def read_events(
    client: Client, run_id: str, *, after: str | None = None, redactor: Redactor = SECRETS
) -> list[RunEvent]:
    """Return the events of a run so far.

    Args:
        after: An event's id; only later ones are returned.
        redactor: Masks what they must not show.

    Raises:
        RunNotFoundError: There is no such run.
        ValueError: `after` is no event id.
    """
    seen = EventId.parse(after) if after else None
    chain = await _execution_ids(client, run_id)
    first = _execution_of(seen, chain)
    histories = [await fetch_execution(client, run_id, execution_id) for execution_id in chain[first:]]
    events = await asyncio.to_thread(lambda: list(project(histories, first=first, redactor=redactor)))
    return [event for event in events if _is_after(event, seen)]


async def read_withdrawn(
    client: Client, run_id: str, execution_id: str, *, reset: EventId, redactor: Redactor = SECRETS
) -> tuple[list[RunEvent], list[RunEvent]]:
    """Return the events of an execution that a reset left behind: those that count still, and those that do not.

    Args:
        execution_id: As the `run.reset` names it.
        reset: The id of the `run.reset`.
        redactor: Masks what they must not show.

    Raises:
        RPCError: There is no such execution, or its history is deleted.
    """
    history = await fetch_execution(client, run_id, execution_id)
    events = await asyncio.to_thread(lambda: list(project([history], first=reset.execution, redactor=redactor)))
    # Up to the reset, the new execution's history is a copy of the old one's.
    counting = [event for event in events if EventId.parse(event.id).history_event < reset.history_event]
    return counting, events[len(counting) :]


async def follow_events(
    client: Client, run_id: str, *, after: str | None = None, redactor: Redactor = SECRETS
) -> AsyncIterator[RunEvent]:
    """Iterate over the events of a run, past ones first and then as they happen, until it ends.

    Args:
        after: An event's id; only later ones are yielded.
        redactor: Masks what they must not show.

    Raises:
        RunNotFoundError: There is no such run.
        ValueError: `after` is no event id.
    """
    seen = EventId.parse(after) if after else None
    chain = await _execution_ids(client, run_id)
    execution = _execution_of(seen, chain)
    execution_id = chain[execution]
    while execution_id:
        handle = client.get_workflow_handle(run_id, run_id=execution_id)
        projector, execution_id = Projector(execution), ""
        async for history_event in handle.fetch_history_events(wait_new_event=True):
            await decode_event(history_event, client.data_converter)
            for event in projector.feed(history_event):
                if _is_after(event, seen):
                    yield await redacted(event, redactor)
                if isinstance(event, RunEnded):
                    return
            execution_id = history_event.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
        execution += 1


def project(
    histories: Iterable[WorkflowHistory], *, first: int = 0, redactor: Redactor = SECRETS
) -> Iterator[RunEvent]:
    """Return the events that a run's histories tell of.

    Args:
        histories: Of consecutive executions, payloads decoded.
        first: Which execution of the run the first one is.
        redactor: Masks what they must not show.
    """
    for execution, history in enumerate(histories, first):
        projector = Projector(execution)
        for event in history.events:
            yield from (redact_model(told, redactor) for told in projector.feed(event))


def export(histories: Sequence[WorkflowHistory]) -> str:
    """Write a run as JSON: one execution as `temporal workflow show -o json` does, several as a list of those."""
    if len(histories) == 1:
        return json.dumps(histories[0].to_json_dict(), indent=2)
    executions = [{"run_id": history.run_id, **history.to_json_dict()} for history in histories]
    return json.dumps({"executions": executions}, indent=2)


def load(text: str) -> list[WorkflowHistory]:
    """Read what `export`, the API, the `temporal` command or the Web UI wrote.

    Raises:
        HistoryFileError: It is something else.
    """
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HistoryFileError(f"this is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("executions", content.get("events")), list):
        raise HistoryFileError(
            "this is JSON, but no history: expected {\"events\": [...]} as 'temporal workflow show -o json' writes it, "
            'or {"executions": [{"events": [...]}, ...]}'
        )
    executions = content.get("executions", [content])
    if not executions:
        raise HistoryFileError("the file holds no execution: 'executions' is an empty list")
    return [_load_execution(execution, place) for place, execution in enumerate(executions)]


def _load_execution(content: Any, place: int) -> WorkflowHistory:
    if not isinstance(content, dict) or not isinstance(content.get("events"), list):
        raise HistoryFileError(f"execution {place} is no history: expected an object with the list 'events'")
    try:
        events = WorkflowHistory.from_json("", {"events": content["events"]}).events
        for part in (part for event in events for part in _parts(event)):
            if isinstance(part, Failure):
                _spell_out(part)
            else:
                _refuse_encrypted(part, place)
                part.CopyFrom(decode_payloads([part])[0])
    except (ParseError, ValueError, TypeError, AttributeError) as error:
        raise HistoryFileError(f"execution {place} is not readable as a Temporal history: {error}") from error
    if not events or not events[0].HasField("workflow_execution_started_event_attributes"):
        raise HistoryFileError(f"execution {place} does not begin with the event WorkflowExecutionStarted")
    for expected, event in enumerate(events, 1):
        if event.event_id != expected:
            raise HistoryFileError(f"execution {place} has event {event.event_id} where event {expected} should be")
    started = events[0].workflow_execution_started_event_attributes
    return WorkflowHistory(started.workflow_id or started.original_execution_run_id or "unknown", events)


async def _execution_ids(client: Client, run_id: str) -> list[str]:
    """Return Temporal's run ids of a run's executions, first to latest, without those that a reset left behind."""
    try:
        latest = await client.get_workflow_handle(run_id).describe()
    except RPCError as error:
        # An id that Temporal could not have is refused as an argument.
        if error.status in (RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT):
            raise RunNotFoundError(f"no run has the id {run_id!r}") from error
        raise
    if latest.workflow_type != WORKFLOW_NAME:
        raise RunNotFoundError(f"no run has the id {run_id!r}: it is a workflow of type {latest.workflow_type!r}")
    chain: list[str] = []
    execution_id = latest.run_id
    while execution_id and (started := await _started(client, run_id, execution_id)):
        chain.insert(0, execution_id)
        execution_id = started.continued_execution_run_id
    if not chain:
        raise RunNotFoundError(f"the history of run {run_id!r} is deleted")
    return chain


async def _started(client: Client, run_id: str, execution_id: str) -> WorkflowExecutionStartedEventAttributes | None:
    """Return how an execution was started; None when its retention time is over."""
    handle = client.get_workflow_handle(run_id, run_id=execution_id)
    try:
        first = await anext(handle.fetch_history_events(page_size=1))
    except RPCError as error:
        if error.status == RPCStatusCode.NOT_FOUND:
            return None
        raise
    return first.workflow_execution_started_event_attributes


async def fetch_execution(client: Client, run_id: str, execution_id: str) -> WorkflowHistory:
    """Return the history of one execution of a run."""
    history = await client.get_workflow_handle(run_id, run_id=execution_id).fetch_history()
    for event in history.events:
        await decode_event(event, client.data_converter)
    return history


class _Attributes(BaseModel):
    """What a failure says, where a codec keeps it apart from Temporal's own fields."""

    message: str
    stack_trace: str = ""


async def read_input(client: Client, workflow_id: str, *, execution_id: str) -> RawValue | None:
    """Return what a workflow was started with, decoded; None when its history is deleted."""
    started = await _started(client, workflow_id, execution_id)
    if started is None or not started.input.payloads:
        return None
    values: list[RawValue] = await client.data_converter.decode(started.input.payloads[:1], [RawValue])
    return values[0]


async def decode_event(event: HistoryEvent, converter: DataConverter) -> None:
    """Replace what an event holds in code by what codec and external storage make of it."""
    for part in _parts(event):
        if isinstance(part, Failure):
            _spell_out(part)
        else:
            raw: list[RawValue] = await converter.decode([part], [RawValue])
            part.CopyFrom(raw[0].payload)
    if event.HasField("workflow_execution_cancel_requested_event_attributes"):
        requested = event.workflow_execution_cancel_requested_event_attributes
        requested.cause = await unseal(requested.cause, converter)
    elif event.HasField("workflow_task_failed_event_attributes"):
        failed = event.workflow_task_failed_event_attributes
        failed.failure.message = await unseal(failed.failure.message, converter)
    elif event.HasField("workflow_execution_terminated_event_attributes"):
        terminated = event.workflow_execution_terminated_event_attributes
        terminated.reason = await unseal(terminated.reason, converter)


def is_readable(event: HistoryEvent) -> bool:
    """Whether nothing in a decoded event is encrypted still, as it is for a client that has no keys at all."""
    return not any(isinstance(part, Payload) and is_encrypted(part) for part in _parts(event))


def _spell_out(failure: Failure) -> None:
    """Have a failure say what it says, its attributes being decoded."""
    if not failure.HasField("encoded_attributes"):
        return
    try:
        said = _Attributes.model_validate_json(failure.encoded_attributes.data)
    except ValidationError:  # of a converter that its owner wrote
        return
    failure.message, failure.stack_trace = said.message, said.stack_trace
    failure.ClearField("encoded_attributes")


def _refuse_encrypted(payload: Payload, place: int) -> None:
    if is_encrypted(payload):
        key_id = payload.metadata[KEY_ID].decode("utf-8", "replace")
        raise HistoryFileError(
            f"execution {place} is encrypted with the key {key_id!r}; write the file with 'perdure runs export', or "
            "with 'temporal workflow show -o json --codec-endpoint …'"
        )


def _parts(message: Proto) -> Iterator[Payload | Failure]:
    """Iterate over payloads and failures anywhere in a message, the inner before the outer.

    Search attributes are left out, which are never encoded.
    """
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            nested = value.values() if field.message_type.fields_by_name["value"].message_type else ()
        elif isinstance(value, Proto):
            nested = (value,)
        else:
            nested = value
        for item in nested:
            if isinstance(item, Payload):
                yield item
            elif not isinstance(item, SearchAttributes):
                yield from _parts(item)
    if isinstance(message, Failure):
        yield message


def _execution_of(seen: EventId | None, chain: Sequence[str]) -> int:
    return min(seen.execution, len(chain) - 1) if seen else 0


def _is_after(event: RunEvent, seen: EventId | None) -> bool:
    return seen is None or EventId.parse(event.id) > seen
