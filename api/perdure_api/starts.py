"""From a request to a started run: its id, its input, what lists show of it, and the sizes that Temporal can carry."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import ValidationError
from temporalio.client import Client
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    TypedSearchAttributes,
    WorkflowIDConflictPolicy,
    WorkflowIDReusePolicy,
)

from perdure.agent import Agent
from perdure.app import App
from perdure.contracts import MAX_INPUT_BYTES, RunStatus
from perdure.errors import InputTooLargeError, InvalidInputError
from perdure.principal import Principal
from perdure.priority import Priority
from perdure.search_attributes import (
    AGENT,
    MEMO_FORK,
    MEMO_INPUT,
    MEMO_REQUEST,
    MEMO_STARTED,
    MEMO_TRACE,
    MEMO_VERSION_SOURCE,
    ORG,
    ORIGIN,
    SESSION,
    STATUS,
    USER,
    VERSION,
)
from perdure.tracing import trace_id_of
from perdure_api.authority import roles_of
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import NewRun
from perdure_api.terms import check_cost_limit
from perdure_api.text import RUN_ID_PATTERN
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.state import RunArguments

BACKSTOP: Final = timedelta(minutes=5)
"""Temporal ends a run that is so long past its own time limit; left to itself it never gets there."""
MAX_METADATA_BYTES: Final = 16 * 1024
LISTED_INPUT: Final = 200
"""Characters of the input that lists show."""
SUMMARY_INPUT: Final = 80
"""Characters of the input in the one line that the Temporal Web UI shows above the run."""
DETAILS_INPUT: Final = 4000


def run_id_for(key: str | None, *, org: str | None) -> str:
    """Return the id of the run that a request starts: a new one, or the one that belongs to its idempotency key."""
    if key is None:
        return f"run-{uuid.uuid4().hex}"
    return f"run-{hashlib.sha256(json.dumps([org, key]).encode()).hexdigest()[:32]}"


def checked_run_id(run_id: str) -> str:
    """Return an id that a caller chose, if the API can reach a run by it.

    Raises:
        InvalidInputError: It cannot.
    """
    if not re.fullmatch(RUN_ID_PATTERN, run_id):
        raise InvalidInputError(
            f"{run_id!r} is no run id: at most 128 letters, digits and '_.:-', beginning with a letter or digit"
        )
    return run_id


def request_digest(new: NewRun) -> str:
    """Identify what a request asks for, so that a repeated one is recognised."""
    content = json.dumps(new.model_dump(mode="json", exclude_unset=True), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(content.encode()).hexdigest()


def run_arguments(
    new: NewRun, app: App, principal: Principal, *, changes: Mapping[str, object] | None = None
) -> RunArguments:
    """Return the workflow's input: the agent resolved, its limits replaced where the request says so.

    Args:
        new: The request.
        app: Has the agent.
        principal: Who asks.
        changes: Fields of the agent that are others for this run.

    Raises:
        UnknownAgentError: The app has no such agent.
        InputTooLargeError: Input or metadata are over their limit.
        InvalidInputError: The run would be allowed to cost more than the agent is.
    """
    _check_size("input", len(new.input.encode()), MAX_INPUT_BYTES)
    _check_size("metadata", sum(len((k + v).encode()) for k, v in new.metadata.items()), MAX_METADATA_BYTES)
    agent = _changed(app.agent(new.agent, new.version), changes or {})
    check_cost_limit(new.limits, agent)
    governing = app.governing(agent)
    spec = app.resolve(agent)
    given = {name: getattr(new.limits, name) for name in new.limits.model_fields_set}
    return RunArguments(
        spec=spec,
        input=new.input,
        limits=agent.limits.model_copy(update=given),
        user=new.user,
        org=new.org,
        session_id=new.session_id,
        metadata=new.metadata,
        policy=governing.policy if governing else None,
        roles=roles_of(principal, new),
        requested_by=principal.user,
        callback_url=new.callback_url,
        salt=secrets.token_hex(16) if any(tool.secrets for tool in spec.tools) else "",
    )


def _changed(agent: Agent, changes: Mapping[str, object]) -> Agent:
    if not changes:
        return agent
    try:
        return Agent.model_validate({**dict(agent), **changes})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise InvalidInputError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


async def start_workflow(
    client: Client, arguments: RunArguments, *, run_id: str, task_queue: str, request: str, priority: Priority
) -> None:
    """Start the run, unless there ever was one of that id.

    Raises:
        WorkflowAlreadyStartedError: There was one.
        ServerUnreachableError: Temporal does not answer; repeating the call with the same id is safe.
    """
    with temporal_errors():
        await client.start_workflow(
            AgentRun.run,
            arguments,
            id=run_id,
            task_queue=task_queue,
            priority=priority.keys(org=arguments.org),
            id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            execution_timeout=arguments.limits.run_timeout + BACKSTOP,
            search_attributes=TypedSearchAttributes(
                [SearchAttributePair(key, value) for key, value in attributes_of(arguments).items()]
            ),
            memo={
                **memo_of(arguments, request),
                **({MEMO_FORK: arguments.forked_from} if arguments.forked_from else {}),
                MEMO_STARTED: datetime.now(UTC),
            },
            static_summary=summary_of(arguments),
            static_details=details_of(arguments),
            rpc_timeout=RPC_TIMEOUT,
        )


def attributes_of(arguments: RunArguments) -> dict[SearchAttributeKey[str], str]:
    """Return the search attributes that a run starts with."""
    attributes = {
        AGENT: arguments.spec.name,
        VERSION: arguments.spec.version,
        USER: arguments.user,
        ORG: arguments.org,
        SESSION: arguments.session_id,
        STATUS: first_status(arguments).value,
        ORIGIN: arguments.forked_from.run_id if arguments.forked_from else None,
    }
    return {key: value for key, value in attributes.items() if value is not None}


def memo_of(arguments: RunArguments, request: str) -> dict[str, str]:
    """Return the memo that a run starts with, but for the time."""
    trace_id = trace_id_of(arguments.trace)
    shown = {MEMO_TRACE: trace_id, MEMO_VERSION_SOURCE: arguments.version_source}
    return {
        **{name: text for name, text in shown.items() if text},
        MEMO_INPUT: arguments.input[:LISTED_INPUT],
        MEMO_REQUEST: request,
    }


def first_status(arguments: RunArguments) -> RunStatus:
    """Return what lists show of a run before it has said anything itself."""
    queues = arguments.terms is not None and arguments.terms.places
    return RunStatus.QUEUED if queues else RunStatus.RUNNING


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise InputTooLargeError(f"the {what} is {size:,} bytes; at most {limit:,} fit, so nothing was started")


def summary_of(arguments: RunArguments) -> str:
    """Return the line that the Temporal Web UI shows above the run."""
    return f"{arguments.spec.name}: {' '.join(arguments.input.split())[:SUMMARY_INPUT]}"


def details_of(arguments: RunArguments) -> str:
    """Return what the Temporal Web UI shows of the run, in Markdown."""
    spec = arguments.spec
    facts = {
        "agent": f"{spec.name} {spec.version}",
        "model": spec.model,
        "user": arguments.user,
        "org": arguments.org,
        "session": arguments.session_id,
        "trace": trace_id_of(arguments.trace),
    }
    lines = [f"- {name}: `{value.replace('`', ' ')}`" for name, value in facts.items() if value]
    # Indented by four, Markdown shows a text as it is, whatever it holds.
    task = "\n".join(f"    {line}" for line in arguments.input[:DETAILS_INPUT].splitlines())
    return "\n".join([*lines, "", "Input:", "", task])
