"""Circuit breakers of the models: who failed too often of late is left alone for a while, and then tried with care.

Each model has a circuit of its own, not each provider: an overload is a model's, and a chain that falls back to a
smaller model of the same provider is the usual one. Whatever ails a whole provider opens the circuits of its models
one by one.

The circuits are a process's own. With a Redis they are shared: one process opens a circuit for all, and the probes of
all are counted together. A Redis that fails or hangs makes them the process's own again, until it is back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from contextvars import Context
from datetime import timedelta
from typing import Final, Protocol, TypeVar

import structlog
from interlock import AsyncStorage, CircuitBreaker, CircuitOpenError, Clock, Config, EventListener, State
from temporalio.exceptions import ApplicationError

from perdure import metrics
from perdure.errors import SettingsError
from perdure.settings import Settings
from perdure_activities.providers.posture import BY_TYPE, circuit_open

MINIMUM_SHARE: Final = 4
"""A circuit can open once a quarter of its window is filled, so that the first call of a day cannot open it."""

T = TypeVar("T")
log = structlog.get_logger(__name__)


class Breaker(Protocol):
    """Lets calls to a model through, or does not."""

    async def call(self, model: str, function: Callable[[], Awaitable[T]]) -> T:
        """Call the function and return what it returns.

        Args:
            model: The model that the function calls, as agents name it.
            function: One call. Its failures are `ApplicationError`s with a type of the posture table.

        Raises:
            ApplicationError: The function's own; or the function was not called, and its type is `circuit_open`.
        """
        ...


class SharedStorage(AsyncStorage, Protocol):
    """Where circuits are that several processes share."""

    async def disconnect(self) -> None:
        """Release the connections."""
        ...


class Unguarded:
    """A breaker that lets every call through."""

    async def call(self, model: str, function: Callable[[], Awaitable[T]]) -> T:
        """Call the function; see `Breaker.call`."""
        del model
        return await function()

    async def close(self) -> None:
        """Nothing to release."""


class CircuitBreakers:
    """A circuit for each model, over a sliding window of its latest calls."""

    def __init__(
        self,
        *,
        window: int,
        failure_rate: float,
        open_for: timedelta,
        probes: int,
        storage: SharedStorage | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Begin with closed circuits.

        Args:
            window: The latest calls of a model that are looked at; at least a quarter of them must have been made.
            failure_rate: The part of them, up to 1, whose failure opens the circuit.
            open_for: How long a model is left alone then.
            probes: Calls that it is tried with after that, one at a time; all others are refused meanwhile.
            storage: What shares the circuits between processes; None: they are this process's own.
            clock: Tells when a circuit of this process has been open for long enough; default: the system's.
        """
        self._config = Config(
            window_size=window,
            minimum_number_of_calls=max(1, math.ceil(window / MINIMUM_SHARE)),
            failure_rate_threshold=failure_rate,
            wait_duration_in_open=open_for.total_seconds(),
            permitted_calls_in_half_open=probes,
            max_concurrent_probes=1,
            # A model may think for as long as it likes: left at its default, a window of slow answers opens a circuit.
            slow_call_duration_threshold=math.inf,
        )
        self._storage = storage
        self._clock = clock
        self._now = time.monotonic if clock is None else clock.monotonic
        self._journal = _Journal(self._now)
        self._circuits: dict[str, CircuitBreaker] = {}
        self._last_failures: dict[str, str] = {}
        metrics.circuits.add(self)

    async def call(self, model: str, function: Callable[[], Awaitable[T]]) -> T:
        """Call the function unless the model's circuit is open; see `Breaker.call`."""

        async def outcome() -> T | ApplicationError:
            # Kept as a value: the library holds on to the last exception, whose frames hold a whole conversation.
            try:
                return await function()
            except ApplicationError as error:
                if _tells_against(error):
                    self._last_failures[model] = f"{error.type}: {error.message}"
                return error

        try:
            result = await self._circuit(model).call_async(outcome)
        except CircuitOpenError as refusal:
            wait = None if refusal.retry_after is None else timedelta(seconds=refusal.retry_after)
            raise circuit_open(model, wait, last=self._last_failures.get(model, "")) from None
        if isinstance(result, ApplicationError):
            raise result
        return result

    def states(self) -> dict[str, str]:
        """Return the state of each circuit: `closed`, `half_open` or `open`. May be called from any thread.

        A circuit whose time is over counts as half open, though the library has it open until the next call.
        """
        return {model: self._state(model, circuit) for model, circuit in list(self._circuits.items())}

    async def close(self) -> None:
        """Stop sharing the circuits."""
        for circuit in self._circuits.values():
            await circuit.aclose()
        self._circuits.clear()
        if self._storage is not None:
            await self._storage.disconnect()

    def _state(self, model: str, circuit: CircuitBreaker) -> str:
        state = circuit.state
        since = self._journal.opened.get(model)
        if state is State.OPEN and since is not None:
            lapsed = self._now() - since >= self._config.wait_duration_in_open
            state = State.HALF_OPEN if lapsed else state
        return state.value

    def _circuit(self, model: str) -> CircuitBreaker:
        circuit = self._circuits.get(model)
        if circuit is None:
            circuit = self._circuits[model] = CircuitBreaker(
                name=model,
                config=self._config,
                classifier=_Classifier(),
                listener=self._journal,
                storage=self._storage,
                clock=self._clock,
            )
        return circuit


class _Classifier:
    """Counts what the posture table says opens a circuit."""

    def is_failure(self, *, result: object, exception: Exception | None) -> bool:
        """Look at the call's outcome; an exception is none of the table's, and says nothing against the model."""
        del exception
        return isinstance(result, ApplicationError) and _tells_against(result)


def _tells_against(error: ApplicationError) -> bool:
    posture = BY_TYPE.get(error.type)
    return posture is not None and posture.opens_circuit


class _Journal(EventListener):
    """Tells operators what becomes of circuits, and of the Redis that shares them; each change once.

    Its lines name no run: the one whose call is under way, or was when the sharing began, is not what they are about.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.opened: dict[str, float] = {}
        """When each circuit was last found to have opened, in seconds."""
        self._now = now
        self._degraded: set[str] = set()

    def on_state_change(self, *, name: str, old: State, new: State) -> None:
        """A circuit opened, is tried, or closed."""
        if new is State.OPEN:
            self.opened[name] = self._now()
        report = log.warning if new is State.OPEN else log.info
        Context().run(report, "circuit_changed", model=name, before=old.value, now=new.value)

    def on_storage_degraded(self, *, name: str, error: BaseException) -> None:
        """The Redis does not answer: circuits are this process's own for now."""
        if not self._degraded:
            Context().run(log.warning, "circuits_not_shared", reason=f"{type(error).__name__}: {error}")
        self._degraded.add(name)

    def on_storage_recovered(self, *, name: str) -> None:
        """The Redis answers again."""
        self._degraded.discard(name)
        if not self._degraded:
            Context().run(log.info, "circuits_shared_again")


def breaker_for(settings: Settings) -> CircuitBreakers | Unguarded:
    """Return the breaker that the settings ask for; nothing is connected before its first call.

    Raises:
        SettingsError: A Redis is to be used, and its client is not installed or cannot read the address.
    """
    if not settings.breaker_window:
        return Unguarded()
    return CircuitBreakers(
        window=settings.breaker_window,
        failure_rate=settings.breaker_failure_rate,
        open_for=timedelta(seconds=settings.breaker_open_seconds),
        probes=settings.breaker_probes,
        storage=_storage(settings),
    )


def _storage(settings: Settings) -> SharedStorage | None:
    if settings.redis_url is None:
        return None
    try:
        from perdure_activities.circuit_storage import CircuitStorage
    except ModuleNotFoundError as error:
        raise SettingsError(
            "PERDURE_REDIS_URL is set but the client is missing: pip install 'perdure[redis]'"
        ) from error
    try:
        # Deployments that share a Redis may well have other keys and other addresses of their providers.
        return CircuitStorage(settings.redis_url.get_secret_value(), prefix=f"perdure:{settings.task_queue}:circuit:")
    except ValueError as error:
        raise SettingsError(f"PERDURE_REDIS_URL is no address of a Redis: {error}") from error
