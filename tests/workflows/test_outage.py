"""Models that do not answer: the next one does, or the run fails, waits or apologises, as its agent has it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from redis.asyncio import Redis
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ApplicationError

from perdure import App, Limits
from perdure.contracts import RunResult, RunStatus
from perdure.events import ModelReplied, Step, StepStatus, steps
from perdure.history import read_events
from perdure.messages import AssistantMessage, Message, OpaquePart
from perdure.settings import Settings
from perdure.testing import Call, Fault, ScriptedModel, ScriptedRequest, Turn, eventually
from perdure_activities.breaker import Breaker
from perdure_activities.providers.posture import circuit_open
from perdure_activities.providers.provider import Provider, ProviderReply
from perdure_activities.transcripts import Transcripts
from perdure_workers.plugin import Perdure
from perdure_workers.worker import build_worker
from tests.harness import Handle, InProcessModel, agent, answer, assert_valid, in_turns, start, transcript, turn, wish
from tests.redis_server import RedisServer

T = TypeVar("T")
FIRST, SECOND = "first:one", "second:two"
CLAUDE, GPT, LOCAL = "anthropic:claude-sonnet-5-5", "openai:gpt-5", "openai-chat:gpt-5"
ALWAYS = 50
"""More attempts than a test makes."""


def failing(error_type: str, *, times: int = ALWAYS, message: str = "no", retried: bool = True) -> InProcessModel:
    """A model that fails so often before it answers."""
    left = [times]

    def script(messages: list[Message]) -> ProviderReply:
        left[0] -= 1
        if left[0] >= 0:
            raise ApplicationError(message, type=error_type, non_retryable=not retried)
        return answer("back again")

    return InProcessModel(script)


@asynccontextmanager
async def serving(
    client: Client,
    app: App,
    providers: Mapping[str, Provider] | None,
    *,
    breaker: Breaker | None = None,
    **changes: object,
) -> AsyncIterator[Settings]:
    """Run a worker with these providers, or with the built-in ones."""
    settings = Settings.model_validate(
        {"task_queue": f"queue-{uuid.uuid4().hex}", "max_cached_runs": 0, "shutdown_grace_seconds": 0, **changes}
    )
    async with build_worker(client, settings, Perdure(app, settings=settings, providers=providers, breaker=breaker)):
        yield settings


def app_of(**changes: object) -> App:
    """An app whose agent has two models."""
    app = App()

    @app.tool()
    def look(at: int) -> str:
        """Look."""
        return f"seen {at}"

    app.add(agent(**{"model": FIRST, "fallbacks": (SECOND,), "tools": ("look",), **changes}))
    return app


async def run_of(client: Client, app: App, providers: Mapping[str, Provider]) -> tuple[RunResult, Handle]:
    """Make a run to its end, and check the conversation that it leaves."""
    async with serving(client, app, providers) as settings:
        handle = await start(client, app, settings)
        result = await handle.result()
        assert_valid(await transcript(handle))
        return result, handle


async def steps_of(client: Client, handle: Handle) -> list[Step]:
    """Read a run's steps from its history."""
    return steps(await read_events(client, handle.id))


async def test_the_next_model_answers_and_the_step_says_why_not_the_first(client: Client) -> None:
    """Each step begins with the first model again, so a run returns to it when it is back."""
    first = failing("model_overloaded", times=1, message="Overloaded")
    second = InProcessModel(in_turns(wish(("look", {"at": 1}))))

    result, handle = await run_of(client, app_of(), {"first": first, "second": second})

    assert result.output == "back again"
    asked, _, told = await steps_of(client, handle)
    assert (asked.attempts, asked.reference) == (1, SECOND)
    [skipped] = asked.skipped
    assert (skipped.model, skipped.error_type, skipped.why) == (FIRST, "model_overloaded", "Overloaded")
    assert (told.reference, told.skipped) == (FIRST, ())


async def test_by_default_a_run_fails_after_its_attempts_and_names_every_model(client: Client) -> None:
    """An outage is no secret of the last model's."""
    app = app_of(limits=Limits(model_attempts=2))
    providers = {
        "first": failing("model_overloaded", message="Overloaded"),
        "second": failing("model_authentication", message="bad key", retried=False),
    }

    with pytest.raises(WorkflowFailureError) as caught:
        await run_of(client, app, providers)

    cause = caught.value.cause
    assert isinstance(cause, ApplicationError)
    assert cause.type == "model_overloaded"
    assert cause.message == f"no model answered: {FIRST}: Overloaded; {SECOND}: bad key"
    assert len(providers["first"].seen) == len(providers["second"].seen) == 2


async def test_an_agent_may_apologise_instead(client: Client) -> None:
    """The run completes with the agent's words, what it had, and the error that tells operators what happened."""
    app = app_of(on_outage="answer", outage_message="Please call us.", limits=Limits(model_attempts=1))
    first = InProcessModel(lambda messages: wish(("look", {"at": 1})) if turn(messages) == 0 else _overloaded())

    result, handle = await run_of(client, app, {"first": first, "second": failing("model_connection")})

    assert (result.status, result.output) == (RunStatus.COMPLETED, "Please call us.")
    assert result.error is not None
    assert result.error.type == "model_overloaded"
    assert (result.totals.model_calls, result.totals.tool_calls) == (1, 1)
    assert [step.status for step in await steps_of(client, handle)][-1] is StepStatus.FAILED


async def test_an_apology_hides_no_mistake_of_the_agent(client: Client) -> None:
    """A request that is rejected is nobody's outage."""
    app = app_of(on_outage="answer")

    with pytest.raises(WorkflowFailureError) as caught:
        await run_of(client, app, {"first": failing("model_request_rejected", retried=False), "second": failing("")})

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "model_request_rejected"


@pytest.mark.parametrize(("error_type", "retried"), [("model_overloaded", True), ("model_authentication", False)])
async def test_a_parked_run_goes_on_when_a_model_is_back(client: Client, error_type: str, retried: bool) -> None:
    """It waits as a call that Temporal tries again, past all attempts, and for what an operator mends as well."""
    app = app_of(fallbacks=(), on_outage="park", limits=Limits(model_attempts=1))
    model = failing(error_type, times=2, retried=retried)

    result, handle = await run_of(client, app, {"first": model})

    assert (result.status, result.output) == (RunStatus.COMPLETED, "back again")
    [step] = await steps_of(client, handle)
    assert step.attempts == 3


async def test_a_parked_run_ends_with_its_time(client: Client) -> None:
    """Whatever happens to its models, a run is over when its time is."""
    app = app_of(fallbacks=(), on_outage="park", limits=Limits(run_timeout=timedelta(seconds=2)))

    result, _ = await run_of(client, app, {"first": failing("model_overloaded")})

    assert result.status is RunStatus.TIMED_OUT


async def test_a_parked_run_does_not_wait_for_a_transcript_that_is_gone(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can mend that: after some attempts the run fails, though it would wait for a model for ever."""

    async def nothing(self: Transcripts, *_: object, **__: object) -> list[Message]:
        return []

    monkeypatch.setattr(Transcripts, "_extend", lambda *_: False)
    monkeypatch.setattr(Transcripts, "messages", nothing)
    monkeypatch.setattr("perdure_activities.model.TRANSCRIPT_ATTEMPTS", 2)

    with pytest.raises(WorkflowFailureError) as caught:
        await run_of(client, app_of(fallbacks=(), on_outage="park"), {"first": failing("", times=0)})

    assert isinstance(caught.value.cause, ApplicationError)
    assert caught.value.cause.type == "transcript_lost"


async def test_a_worker_takes_any_breaker(client: Client) -> None:
    """An object with one method: it may keep models from being called by whatever it knows."""

    class NeverFirst:
        async def call(self, model: str, function: Callable[[], Awaitable[T]]) -> T:
            if model == FIRST:
                raise circuit_open(model, None)
            return await function()

    providers = {"first": failing("model_overloaded", times=0), "second": failing("model_overloaded", times=0)}
    async with serving(client, app_of(), providers, breaker=NeverFirst()) as settings:
        handle = await start(client, app_of(), settings)
        await handle.result()

    [step] = await steps_of(client, handle)
    assert (step.reference, step.skipped[0].error_type) == (SECOND, "circuit_open")
    assert not providers["first"].seen


async def test_workers_with_one_redis_share_what_they_learned(client: Client, tmp_path: Path) -> None:
    """A worker that starts during an outage passes the model over that another one has found dead."""
    shared: dict[str, Any] = {"task_queue": f"queue-{uuid.uuid4().hex}", "breaker_open_seconds": 600}
    well = {"first": failing("", times=0), "second": failing("", times=0)}
    async with RedisServer(tmp_path) as redis:
        # With a window of four calls a single failure opens the circuit.
        shared |= {"redis_url": redis.url, "breaker_window": 4}
        async with serving(client, app_of(), {**well, "first": failing("model_timeout")}, **shared) as settings:
            await (await start(client, app_of(), settings)).result()
            async with Redis.from_url(redis.url, decode_responses=True) as store:
                key = f"perdure:{settings.task_queue}:circuit:{FIRST}"
                await eventually(lambda: store.hget(key, "state"), what="the circuit in Redis")
        async with serving(client, app_of(), well, **shared) as settings:

            async def passed_over() -> bool:
                handle = await start(client, app_of(), settings)
                await handle.result()
                [step] = await steps_of(client, handle)
                return [skipped.error_type for skipped in step.skipped] == ["circuit_open"]

            await eventually(passed_over, within=timedelta(seconds=30), what="a skipped model")


@pytest.fixture
def moody() -> ScriptedModel:
    """A vendor of three wire formats, of which another one answers at each turn."""

    def script(request: ScriptedRequest) -> Turn:
        order = (CLAUDE, GPT, LOCAL)
        spoken = sum(isinstance(message, AssistantMessage) for message in request.messages)
        wires = {"anthropic": CLAUDE, "openai": GPT, "openai-chat": LOCAL}
        busy = wires[request.wire] != order[spoken % 3]
        faults = [Fault.overloaded(status=503)] * ALWAYS if busy else []
        if spoken == 6:
            return Turn("done", faults=faults)
        thinking = "" if request.wire == "openai-chat" else f"thought {spoken}"
        return Turn(f"look {spoken}", calls=[Call("look", {"at": spoken})], thinking=thinking, faults=faults)

    return ScriptedModel(script)


async def test_a_run_may_change_its_provider_at_every_step(
    client: Client, moody: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the official SDKs: each vendor takes the conversation that the others began, with its own thoughts."""
    app = app_of(model=CLAUDE, fallbacks=(GPT, LOCAL))

    async with moody:
        for name, value in moody.environment().items():
            monkeypatch.setenv(name, value)
        async with serving(client, app, None, breaker_window=0) as settings:
            handle = await start(client, app, settings)
            result = await handle.result()
            messages = await transcript(handle)

    assert result.output == "done"
    replies = [event for event in await read_events(client, handle.id) if isinstance(event, ModelReplied)]
    assert [reply.reference for reply in replies] == [CLAUDE, GPT, LOCAL, CLAUDE, GPT, LOCAL, CLAUDE]
    assert [len(reply.skipped) for reply in replies] == [0, 1, 2, 0, 1, 2, 0]
    assert {request.fault for request in moody.requests.recent} == {None, "status"}
    spoken = [message for message in messages if isinstance(message, AssistantMessage)]
    thoughts = [part.wire for message in spoken for part in message.parts if isinstance(part, OpaquePart)]
    assert thoughts == ["anthropic", "openai-responses"] * 2
    assert_valid(messages)


def test_a_chain_names_each_model_once() -> None:
    """Within an attempt nobody is asked twice; a wrong chain stops the program and not a run."""
    with pytest.raises(ValueError, match="named twice"):
        agent(model=FIRST, fallbacks=(SECOND, FIRST))
    with pytest.raises(ValueError, match="'two' is not a model reference"):
        agent(model=FIRST, fallbacks=("two",))


def _overloaded() -> ProviderReply:
    raise ApplicationError("Overloaded", type="model_overloaded")
