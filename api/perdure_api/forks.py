"""What a fork starts with: the conversation of another run up to a step, and of its turn there what counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from temporalio.client import (
    Client,
    WorkflowExecutionDescription,
    WorkflowHandle,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
)
from temporalio.service import RPCError, RPCStatusCode

from perdure.activities import Finish, Segment, TranscriptPage, TranscriptRequest
from perdure.contracts import Totals, cut
from perdure.errors import ConflictError, InvalidInputError, NoWorkerError
from perdure.messages import (
    EMPTY_DIGEST,
    AssistantMessage,
    Message,
    ToolMessage,
    ToolResult,
    UserMessage,
    canonical,
    fold,
)
from perdure.plan import PLAN_TOOL, latest_plan
from perdure.secret_arguments import unmask_arguments
from perdure_api.fork_step import Origin, once
from perdure_api.recovery_schemas import ForkRequest
from perdure_api.rpc import RPC_TIMEOUT
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.calls import opened
from perdure_workflows.dialogue import GO_ON
from perdure_workflows.state import Call, PurseState, RunArguments, RunState, SteeringState, TranscriptState
from perdure_workflows.transcript import MAX_CARRIED_BYTES

UNKNOWN: Final = "the run that this one was forked from was making the call, and nobody knows what became of it"
_ASK_A_HUMAN: Final = 1_000
"""A call lost so often is no probe's: it would look for a call of the fork, which is another."""


async def forked_state(
    client: Client,
    description: WorkflowExecutionDescription,
    origin: Origin,
    request: ForkRequest,
    arguments: RunArguments,
) -> RunState:
    """Return what a fork knows when it starts.

    Args:
        client: Of the server.
        description: The latest execution of the run that is forked.
        origin: Where the fork begins.
        request: What it does otherwise.
        arguments: How it is started.

    Raises:
        ConflictError: The step cannot be where a fork begins.
        InvalidInputError: What is changed does not fit the step.
        NoWorkerError: No worker answers.
    """
    _check_fit(origin, request)
    turn = origin.turn
    length = turn.call.length + (0 if origin.is_model_call else 1)
    messages, pages = await _messages(client, description, end=length + 1)
    if _digest(messages[: turn.call.length]) != turn.call.digest:
        raise ConflictError("the run's conversation is not that of its history any more; it was reset meanwhile")
    results = messages[length] if len(messages) > length and turn.heard else None
    calls = [] if origin.is_model_call or origin.is_behind else _calls(origin, request, results, arguments)
    steps = origin.step - 1 if origin.is_model_call else turn.last_step
    kept = messages[:length]
    now = datetime.now(UTC)
    return RunState(
        deadline=now + arguments.limits.run_timeout,
        totals=Totals(steps=steps),
        transcript=_transcript(description, kept, pages, now=now),
        calls=calls,
        steering=SteeringState(messages=[request.message] if request.message else []),
        purse=PurseState(queued=bool(arguments.terms and arguments.terms.places), began_at=now),
        mid_turn=origin.is_model_call and origin.before is not None and _is_paused(origin),
        plan=latest_plan(kept) if PLAN_TOOL in arguments.spec.tools else (),
        last_words=_last_words(kept),
        unfinished_text=_unfinished(kept) if origin.is_model_call else "",
    )


def _check_fit(origin: Origin, request: ForkRequest) -> None:
    is_tool_call = not origin.is_model_call and not origin.is_behind
    if not is_tool_call and (request.arguments is not None or request.result is not None):
        raise InvalidInputError(f"step {origin.step} is no tool call: it has neither arguments nor a result")
    if origin.is_behind:
        if not request.message:
            raise InvalidInputError(f"step {origin.step} would be behind the run's answer: say a message to go on")
        if origin.turn.reply and origin.turn.reply.message.tool_calls:
            raise ConflictError(f"the run has no step {origin.step} yet; its last one is {origin.turn.last_step}")
    if request.arguments is not None and request.result is not None:
        raise InvalidInputError("a call with a result of yours is not made, so it needs no arguments")


def _calls(origin: Origin, request: ForkRequest, results: Message | None, arguments: RunArguments) -> list[Call]:
    """Return the turn's calls: what is known of each stays, and the one that the fork begins with is open."""
    turn = origin.turn
    assert turn.reply is not None  # noqa: S101  # or it would have no calls
    heard = results.results if isinstance(results, ToolMessage) else ()
    calls: list[Call] = []
    for place, part in enumerate(turn.reply.message.tool_calls):
        call = opened(part, step=turn.call.step + 1 + place, salt=arguments.salt)
        if call.step == origin.step:
            _change(call, origin, request, by=arguments.requested_by)
        elif len(heard) > place:
            call.result = heard[place]
        elif outcome := turn.outcomes.get(call.step):
            call.result = ToolResult(call_id=part.id, content=outcome.content, is_error=outcome.is_error)
        elif once(turn.dispatched.get(call.step)):
            call.dispatched, call.lost, call.lost_because = True, _ASK_A_HUMAN, UNKNOWN
            call.approved_by = "whoever approved it before"
        calls.append(call)
    return calls


def _change(call: Call, origin: Origin, request: ForkRequest, *, by: str) -> None:
    if request.result is not None:
        text = request.result if isinstance(request.result, str) else json.dumps(request.result)
        call.result = ToolResult(call_id=call.provider_id, content=cut(text, MAX_CARRIED_BYTES))
    elif request.arguments is not None:
        tool = origin.run.spec.tool(call.tool)
        edited = unmask_arguments(request.arguments, call.arguments or {}, tool.secrets if tool else ())
        call.arguments, call.malformed, call.edited_by = edited, None, by or "the fork"
    elif once(origin.turn.dispatched.get(call.step)):
        raise ConflictError(
            f"step {call.step} called {call.tool}, which must not be repeated; fork behind it, or say with which other "
            "arguments it is made, or what it returned"
        )


async def _messages(
    client: Client, description: WorkflowExecutionDescription, *, end: int
) -> tuple[list[Message], TranscriptPage]:
    """Return the run's conversation up to there, or to its end, and where the latest execution begins to hold it."""
    found: list[Message] = []
    latest = await _page(client, description.id, description.run_id, start=0)
    while len(found) < end:
        page = await _page(client, description.id, description.run_id, start=len(found))
        if len(found) < page.base:
            segment = next(one for one in page.segments if one.start <= len(found) < one.end)
            page = await _page(client, segment.run_id or description.id, segment.execution_id, start=len(found))
        if not page.messages:
            break
        found += page.messages[: end - len(found)]
    return found, latest


async def _page(client: Client, run_id: str, execution_id: str, *, start: int) -> TranscriptPage:
    handle: WorkflowHandle[AgentRun, object] = client.get_workflow_handle_for(AgentRun.run, run_id, run_id=execution_id)
    try:
        return await handle.query(AgentRun.transcript, TranscriptRequest(start=start), rpc_timeout=RPC_TIMEOUT)
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            raise ConflictError(f"earlier messages of run {run_id!r} are deleted with their history") from error
        raise NoWorkerError(f"no worker reads the conversation of run {run_id!r}: {error.message}") from error
    except (WorkflowQueryFailedError, WorkflowQueryRejectedError) as error:
        raise NoWorkerError(f"no worker can read the conversation of run {run_id!r}: {error}") from error


def _transcript(
    description: WorkflowExecutionDescription, messages: Sequence[Message], latest: TranscriptPage, *, now: datetime
) -> TranscriptState:
    """Return the conversation itself, or if it is large, where it is."""
    size = sum(len(canonical(message)) for message in messages)
    digest = _digest(messages)
    if size <= MAX_CARRIED_BYTES:
        return TranscriptState(digest=digest, messages=list(messages), size=size)
    end = len(messages)
    here = Segment(execution_id=description.run_id, start=latest.base, end=end, closed_at=description.close_time or now)
    segments = [
        segment.model_copy(update={"end": min(segment.end, end), "run_id": segment.run_id or description.id})
        for segment in (*latest.segments, here)
        if segment.start < end
    ]
    return TranscriptState(base=end, digest=digest, segments=segments, size=size)


def _is_paused(origin: Origin) -> bool:
    return origin.before is not None and origin.before.finish is Finish.PAUSE and not origin.before.message.tool_calls


def _last_words(messages: Sequence[Message]) -> str:
    said = (message.text for message in reversed(messages) if isinstance(message, AssistantMessage) and message.text)
    return next(said, "")


def _unfinished(kept: Sequence[Message]) -> str:
    """Return what replies said that were cut one after the other, if the last one was."""
    parts: list[str] = []
    for message in reversed(kept):
        if isinstance(message, UserMessage) and message.text == GO_ON:
            continue
        if not isinstance(message, AssistantMessage) or message.tool_calls:
            break
        parts.insert(0, message.text)
    is_cut = bool(kept) and isinstance(kept[-1], UserMessage) and kept[-1].text == GO_ON
    return "".join(parts) if is_cut else ""


def _digest(messages: Sequence[Message]) -> str:
    digest = EMPTY_DIGEST
    for message in messages:
        digest = fold(digest, canonical(message))
    return digest
