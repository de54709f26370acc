"""One what-if run: the run's own workflow on a throw-away server in this process, with other terms than it had."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final

from temporalio.client import Client, WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from perdure.agent import AgentSpec
from perdure.app import App
from perdure.budget import LIMIT_NAME, RunCap, Terms
from perdure.codec import data_converter
from perdure.errors import HistoryFileError, InvalidInputError, ProcessError
from perdure.events import RunEnded, RunEvent, WorkerTrouble
from perdure.history import fetch_executions, follow_events
from perdure.ledger.contracts import ledger_id
from perdure.prices import price_ceilings
from perdure.redaction import SECRETS, Redactor
from perdure.settings import Price
from perdure_activities.breaker import Unguarded
from perdure_activities.model import ModelActivities
from perdure_activities.providers.provider import Provider
from perdure_activities.transcripts import Transcripts
from perdure_workers import dev_server
from perdure_workers.dev_server import NAMESPACE, DevServer
from perdure_workers.plugin import HEARTBEAT_INTERVAL
from perdure_workers.sandbox import strict
from perdure_workers.whatif.approver import Approver, Handle
from perdure_workers.whatif.playback import OnUnknown, Playback, Unknown
from perdure_workers.whatif.recording import Recording, Spoken, read_recording
from perdure_workflows.agent_run import AgentRun
from perdure_workflows.state import RunArguments

TASK_QUEUE: Final = "what-if"
NOBODYS_QUEUE: Final = "nobody"
TRANSCRIPT_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class Change:
    """What is to be otherwise. What is None stays."""

    model: str | None = None
    instructions: str | None = None


@dataclass(frozen=True)
class OfflineRun:
    """What came of a what-if."""

    histories: list[WorkflowHistory]
    recording: Recording
    """What its own history knows."""
    unknown: tuple[Unknown, ...]
    """Calls that the recorded run has no answer for."""
    stopped: bool
    """It was stopped at the last of these."""
    unsaid: int
    """Words of people that it ended before."""


async def run_offline(
    recording: Recording,
    change: Change,
    *,
    providers: Mapping[str, Provider],
    prices: Mapping[str, Price],
    on_unknown: OnUnknown = "stop",
    max_cost: Decimal | None = None,
    told: Callable[[RunEvent], None] = lambda _: None,
    redactor: Redactor = SECRETS,
) -> OfflineRun:
    """Run an agent again on what a recorded run knows.

    Args:
        recording: The run.
        change: What is to be otherwise.
        providers: Model providers by prefix.
        prices: The operator's own, by model reference.
        on_unknown: At a call that the recording does not know: stop, or answer it with an error and go on.
        max_cost: A model call that could cost more, in US dollars with all before it, is not made.
        told: Called with each event as it happens.
        redactor: Masks what events must not show.

    Raises:
        ConfigurationError: There is no program `temporal`.
        InvalidInputError: The limit of the cost cannot be kept, as nobody has a price for the model.
        HistoryFileError: The run goes on from messages that its history does not hold.
        ProcessError: The server does not come up, or the run's code fails.
    """
    arguments = changed(recording.arguments, change, max_cost=max_cost, prices=prices)
    playback = Playback(recording, on_unknown=on_unknown)
    async with dev_server.running(DevServer()) as server:
        client = await Client.connect(server.address, namespace=NAMESPACE, data_converter=data_converter())
        handle = await _start(client, arguments, recording)
        async with _serving(client, playback, handle, providers=providers, prices=prices):
            await _follow(client, handle, playback, told=told, redactor=redactor)
        histories = await fetch_executions(client, recording.run_id)
    return OfflineRun(
        histories=histories,
        recording=read_recording(histories),
        unknown=tuple(playback.unknown),
        stopped=playback.stopped.is_set(),
        unsaid=playback.unsaid,
    )


def changed(
    arguments: RunArguments, change: Change, *, max_cost: Decimal | None, prices: Mapping[str, Price]
) -> RunArguments:
    """Return what the what-if is started with: the run's input, without anything that reaches outside.

    Raises:
        InvalidInputError: Nobody has a price for the model, so that the limit of the cost cannot be kept.
        HistoryFileError: The run goes on from messages that its history does not hold.
    """
    spec = _changed_spec(arguments.spec, change)
    state = arguments.state
    if state is not None:  # it went on from another run, and so does this
        if state.transcript.segments:
            raise HistoryFileError("the run goes on from messages of another run, which its history does not hold")
        state = state.model_copy(update={"deadline": datetime.now(UTC) + arguments.limits.run_timeout})
    policy = arguments.policy
    return arguments.model_copy(
        update={
            "spec": spec,
            "state": state,
            "callback_url": None,
            "policy": policy.model_copy(update={"notify": (), "budgets": ()}) if policy else None,
            "terms": None if max_cost is None else _terms(spec, max_cost, prices),
        }
    )


def _changed_spec(spec: AgentSpec, change: Change) -> AgentSpec:
    update: dict[str, object] = {
        # Rates have task queues of their own, and would slow down what calls nothing.
        "provider_rates": {},
        "tools": tuple(tool.model_copy(update={"rate": None}) for tool in spec.tools),
        "on_budget": "stop",
        "scorers": (),
        "budget_model": None,
        "on_outage": "fail",
    }
    if change.model is not None:
        update |= {"model": change.model, "fallbacks": ()}
    if change.instructions is not None:
        update["instructions"] = change.instructions
    return AgentSpec.model_validate({**spec.model_dump(), **update})


def _terms(spec: AgentSpec, max_cost: Decimal, prices: Mapping[str, Price]) -> Terms:
    ceilings = price_ceilings(spec.models, overrides=prices)
    unpriced = [model for model in spec.models if model not in ceilings]
    if unpriced:
        raise InvalidInputError(
            f"nobody has a price for {unpriced[0]!r}, so no limit of its cost can be kept; set one in PERDURE_PRICES"
        )
    return Terms(caps=(RunCap(budget=LIMIT_NAME, usd=max_cost),), ceilings=ceilings)


async def _start(client: Client, arguments: RunArguments, recording: Recording) -> Handle:
    """Start the run before there is a worker, so that what was said at the beginning is there in time."""
    if arguments.terms is not None:
        # A run with terms speaks to a ledger. This one hears everything and counts nothing.
        await client.start_workflow("Silence", id=ledger_id(arguments.org), task_queue=NOBODYS_QUEUE)
    handle = await client.start_workflow(AgentRun.run, arguments, id=recording.run_id, task_queue=TASK_QUEUE)
    for spoken in recording.spoken:
        if spoken.before_call == 0:
            await handle.signal(spoken.name, spoken.payload)
    return handle


@asynccontextmanager
async def _serving(
    client: Client,
    playback: Playback,
    handle: Handle,
    *,
    providers: Mapping[str, Provider],
    prices: Mapping[str, Price],
) -> AsyncIterator[None]:
    """Run a worker that has no tool. Its app has no agent either: the run's own spec is asked of the run."""
    model = ModelActivities(
        App(),
        providers=providers,
        transcripts=Transcripts(max_bytes=TRANSCRIPT_BYTES),
        breaker=Unguarded(),
        prices=prices,
        worker="",
    )

    async def speak(spoken: Spoken) -> None:
        await handle.signal(spoken.name, spoken.payload)

    worker = Worker(
        client,
        task_queue=TASK_QUEUE,
        workflows=[AgentRun],
        activities=[
            playback.model_activity(model, speak),
            model.adopt_transcript,
            playback.call_tool,
            playback.check_call,
            playback.record_grant,
        ],
        workflow_runner=strict(),
        max_heartbeat_throttle_interval=HEARTBEAT_INTERVAL,
        graceful_shutdown_timeout=timedelta(0),
    )
    async with worker:
        yield
    for provider in providers.values():
        await provider.close()


async def _follow(
    client: Client, handle: Handle, playback: Playback, *, told: Callable[[RunEvent], None], redactor: Redactor
) -> None:
    """Follow the run to its end, answer what it asks people, and end it where it is to stop."""
    approver = Approver(handle, playback)
    stopping = asyncio.create_task(_end_when_stopped(handle, playback), name="what-if's stop")
    try:
        async for event in follow_events(client, handle.id, redactor=redactor):
            told(event)
            if isinstance(event, WorkerTrouble) and event.kind == "worker.failed":
                raise ProcessError(f"the run's code fails: {event.error}")
            if isinstance(event, RunEnded):
                return
            await approver.follow(event)
    finally:
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await stopping


async def _end_when_stopped(handle: Handle, playback: Playback) -> None:
    await playback.stopped.wait()
    try:
        await handle.terminate(reason=playback.unknown[0].why)
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
