"""Circuits: which failures open them, who is let through then, and what processes with one Redis know of each other."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from temporalio.exceptions import ApplicationError

from perdure import metrics
from perdure.errors import SettingsError
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_activities.breaker import Breaker, CircuitBreakers, Unguarded, breaker_for
from perdure_activities.circuit_storage import CircuitStorage
from perdure_activities.providers.posture import BY_TYPE
from tests.redis_server import RedisServer

MODEL = "anthropic:claude-sonnet-5-5"
OPEN_FOR = timedelta(seconds=30)
WINDOW = 8


class HandMovedClock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now = 1.0

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self.now


def circuits(clock: HandMovedClock, *, probes: int = 1) -> CircuitBreakers:
    """Circuits that open when half of the latest eight calls failed, but not before two were made."""
    return CircuitBreakers(window=WINDOW, failure_rate=0.5, open_for=OPEN_FOR, probes=probes, clock=clock)


async def answers() -> str:
    """A call that succeeds."""
    return "ok"


async def fails(error_type: str = "model_overloaded") -> str:
    """A call that fails."""
    raise ApplicationError("much to do", type=error_type)


async def outcome(breaker: Breaker, function: object = answers, *, model: str = MODEL) -> str:
    """Make a call, and return its result or its error's type."""
    try:
        return await breaker.call(model, function)  # type: ignore[arg-type]  # one of the two above
    except ApplicationError as error:
        return error.type or ""


@pytest.mark.parametrize("error_type", [*filter(None, BY_TYPE), "of_somebody_elses_provider"])
async def test_a_circuit_opens_by_what_tells_that_the_model_is_ill(error_type: str) -> None:
    """Outages count; rate limits, and whatever is about us or our request, never do."""
    breaker = circuits(HandMovedClock())

    for _ in range(3 * WINDOW):
        await outcome(breaker, lambda: fails(error_type))

    posture = BY_TYPE.get(error_type)
    refused = await outcome(breaker) == "circuit_open"
    assert refused == (posture is not None and posture.opens_circuit)


async def test_an_open_circuit_refuses_at_once_and_says_until_when() -> None:
    """The model is not called, other models are, and the error carries the time that is left."""
    clock = HandMovedClock()
    breaker = circuits(clock)
    called: list[str] = []

    async def call() -> str:
        called.append("again")
        return "ok"

    results = [await outcome(breaker, fails) for _ in range(3)]
    clock.now += 12
    with pytest.raises(ApplicationError) as caught:
        await breaker.call(MODEL, call)
    other = await outcome(breaker, model="anthropic:claude-haiku-5")

    assert results == ["model_overloaded", "model_overloaded", "circuit_open"]
    assert called == []
    assert (caught.value.type, caught.value.non_retryable) == ("circuit_open", False)
    assert caught.value.next_retry_delay == OPEN_FOR - timedelta(seconds=12)
    assert caught.value.message == (
        f"{MODEL} failed too often of late and is left alone for now; the last time: model_overloaded: much to do"
    )
    assert other == "ok"


async def test_the_state_of_a_circuit_is_told() -> None:
    """Metrics see it open, then half open though nobody calls, then closed; models that nobody called have none."""
    clock = HandMovedClock()
    breaker = circuits(clock)
    seen = [breaker.states()]

    for _ in range(3):
        await outcome(breaker, fails)
    seen.append(breaker.states())
    clock.now += OPEN_FOR.total_seconds()
    seen.append(breaker.states())
    await outcome(breaker)
    seen.append(breaker.states())

    assert breaker in metrics.circuits
    assert seen == [{}, {MODEL: "open"}, {MODEL: "half_open"}, {MODEL: "closed"}]


async def test_one_failure_among_successes_opens_nothing() -> None:
    """It takes the given part of the latest calls."""
    breaker = circuits(HandMovedClock())

    results = [await outcome(breaker, fails if number % 3 == 0 else answers) for number in range(1, 30)]

    assert set(results) == {"ok", "model_overloaded"}


async def test_a_cancelled_call_says_nothing_about_the_model() -> None:
    """Runs that are cancelled, and workers that stop, open no circuit."""
    breaker = circuits(HandMovedClock())
    for _ in range(3 * WINDOW):
        call = asyncio.create_task(breaker.call(MODEL, asyncio.Event().wait))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    assert await outcome(breaker) == "ok"


async def test_a_model_may_think_for_as_long_as_it_likes() -> None:
    """Slow answers are answers."""
    clock = HandMovedClock()
    breaker = circuits(clock)

    async def ponders() -> str:
        clock.now += 3600
        return "ok"

    assert {await outcome(breaker, ponders) for _ in range(3 * WINDOW)} == {"ok"}


@pytest.mark.parametrize(("function", "then"), [(answers, "ok"), (fails, "circuit_open")])
async def test_after_its_time_one_call_tries_the_model_and_decides(function: object, then: str) -> None:
    """While it is under way all others are refused; its success closes the circuit, its failure opens it again."""
    clock = HandMovedClock()
    breaker = circuits(clock)
    go_on = asyncio.Event()

    async def probe() -> str:
        await go_on.wait()
        return await function()  # type: ignore[no-any-return, operator]  # one of the two above

    await outcome(breaker, fails)
    await outcome(breaker, fails)
    clock.now += OPEN_FOR.total_seconds()
    trying = asyncio.create_task(outcome(breaker, probe))
    await asyncio.sleep(0)
    meanwhile = [await outcome(breaker) for _ in range(5)]
    go_on.set()
    await trying

    assert meanwhile == ["circuit_open"] * 5
    assert [await outcome(breaker) for _ in range(5)] == [then] * 5


async def test_a_probe_that_is_cancelled_makes_room_for_the_next() -> None:
    """A model is not left alone for good because the run that tried it was cancelled."""
    clock = HandMovedClock()
    breaker = circuits(clock)
    await outcome(breaker, fails)
    await outcome(breaker, fails)
    clock.now += OPEN_FOR.total_seconds()
    probe = asyncio.create_task(breaker.call(MODEL, asyncio.Event().wait))
    await asyncio.sleep(0)
    before = await outcome(breaker)

    probe.cancel()
    await asyncio.gather(probe, return_exceptions=True)

    assert before == "circuit_open"
    assert await outcome(breaker) == "ok"


async def test_a_circuit_holds_on_to_no_conversation() -> None:
    """What a failed call had in hand is freed, though a circuit remembers that it failed."""

    class Conversation:
        """Megabytes of it."""

    breaker = circuits(HandMovedClock())
    held: list[weakref.ref[Conversation]] = []

    async def fails_with_much_in_hand() -> str:
        conversation = Conversation()
        held.append(weakref.ref(conversation))
        raise ApplicationError("no", type="model_overloaded")

    await outcome(breaker, fails_with_much_in_hand)
    gc.collect()

    assert held[0]() is None


@pytest.fixture(scope="module")
async def redis(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisServer]:
    """A Redis for tests that leave it alone."""
    async with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@asynccontextmanager
async def sharing(
    server: RedisServer, prefix: Path, *, processes: int = 2, open_for: float = 0.3, state_ttl: float = 60
) -> AsyncIterator[list[CircuitBreakers]]:
    """Breakers as several processes would have them, with one Redis."""
    async with AsyncExitStack() as stack:
        breakers = []
        for _ in range(processes):
            storage = CircuitStorage(server.url, prefix=f"{prefix.name}:", state_ttl=state_ttl)
            breaker = CircuitBreakers(
                window=WINDOW, failure_rate=0.5, open_for=timedelta(seconds=open_for), probes=1, storage=storage
            )
            stack.push_async_callback(breaker.close)
            await outcome(breaker)
            breakers.append(breaker)
        yield breakers


async def open_circuit(breaker: CircuitBreakers) -> None:
    """Have calls fail until the circuit opens."""

    async def is_open() -> bool:
        return await outcome(breaker, fails) == "circuit_open"

    await eventually(is_open, what="an open circuit")


async def until(breaker: CircuitBreakers, wanted: str, *, function: object = answers, within: float = 25) -> None:
    """Make calls until one comes to what is wanted."""

    async def came_to_it() -> bool:
        return await outcome(breaker, function) == wanted

    await eventually(came_to_it, within=timedelta(seconds=within), what=wanted)


async def test_one_process_opens_the_circuit_for_all(redis: RedisServer, tmp_path: Path) -> None:
    """What one has learned the others need not learn, and one's probe closes it for all."""
    async with sharing(redis, tmp_path, open_for=6) as (one, other):
        await open_circuit(one)
        await until(other, "circuit_open", within=5)

        await until(one, "ok")
        await until(other, "ok")


async def test_the_probes_of_all_processes_are_counted_together(redis: RedisServer, tmp_path: Path) -> None:
    """A model that has hardly recovered gets one call, not one from each process."""
    go_on = asyncio.Event()
    tried: list[str] = []

    async def probe() -> str:
        tried.append("tried")
        await go_on.wait()
        return "ok"

    async with sharing(redis, tmp_path, processes=4, open_for=1) as breakers:
        await open_circuit(breakers[0])
        for breaker in breakers:
            await until(breaker, "circuit_open", function=fails)

        async def is_tried() -> bool:
            calls.extend(asyncio.create_task(outcome(breaker, probe)) for breaker in breakers)
            await asyncio.sleep(0.05)
            return bool(tried)

        calls: list[asyncio.Task[str]] = []
        await eventually(is_tried, what="a probe")
        for breaker in breakers:
            assert await outcome(breaker) == "circuit_open"
        assert tried == ["tried"]
        go_on.set()
        results = await asyncio.gather(*calls)

        assert results.count("ok") == 1
        for breaker in breakers:
            await until(breaker, "ok")


async def test_a_probe_whose_process_is_killed_does_not_close_the_door_for_good(
    redis: RedisServer, tmp_path: Path
) -> None:
    """It never reports, and others keep asking: after a while the model is used again all the same."""
    async with sharing(redis, tmp_path, state_ttl=4) as (killed, other):
        await open_circuit(killed)
        await until(other, "circuit_open", function=fails)

        async def is_under_way() -> bool:
            call = asyncio.create_task(killed.call(MODEL, asyncio.Event().wait))
            await asyncio.sleep(0.05)
            if call.done():
                await asyncio.gather(call, return_exceptions=True)
                return False
            call.cancel()  # a shared probe is not given back by a cancel, as it would not be by a kill
            await asyncio.gather(call, return_exceptions=True)
            return True

        await eventually(is_under_way, what="a probe")

        await until(other, "ok")


async def test_without_its_redis_a_process_has_circuits_of_its_own(tmp_path: Path) -> None:
    """No call fails for the Redis's sake, the circuit still works, and the log says it once; so when it is back."""
    server = RedisServer(tmp_path)
    named = structlog.contextvars.bound_contextvars(run_id="run-1")
    with named, structlog.testing.capture_logs([structlog.contextvars.merge_contextvars]) as logs:
        async with sharing(server, tmp_path, processes=1) as (breaker,):
            assert {await outcome(breaker) for _ in range(3)} == {"ok"}
            await open_circuit(breaker)
            await until(breaker, "ok")
            await server.start()
            try:
                await eventually(lambda: [line for line in logs if line["event"] == "circuits_shared_again"])
            finally:
                await server.stop()

    assert [line["event"] for line in logs].count("circuits_not_shared") == 1
    assert not any("run_id" in line for line in logs)


async def test_a_redis_that_hangs_delays_no_call_for_long(tmp_path: Path) -> None:
    """Even the call that tries a model again waits for it for a second at most, and then goes on without it."""
    async with RedisServer(tmp_path) as server, sharing(server, tmp_path, processes=1) as (breaker,):
        await open_circuit(breaker)
        server.hang()
        loop = asyncio.get_running_loop()
        longest = 0.0

        async def goes_through() -> bool:
            nonlocal longest
            began = loop.time()
            result = await outcome(breaker)
            longest = max(longest, loop.time() - began)
            return result == "ok"

        await eventually(goes_through, within=timedelta(seconds=20), what="an answer")
        server.go_on()

    assert longest < 5


def test_settings_choose_the_breaker() -> None:
    """Circuits are on by default; an address that is none stops the program at its start."""
    assert isinstance(breaker_for(Settings()), CircuitBreakers)
    assert isinstance(breaker_for(Settings(breaker_window=0)), Unguarded)
    with pytest.raises(SettingsError, match="PERDURE_REDIS_URL is no address of a Redis"):
        breaker_for(Settings.model_validate({"redis_url": "localhost:6379"}))
