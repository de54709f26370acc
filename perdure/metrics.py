"""The numbers that a process tells Prometheus of runs, models and tools. docs/observability.md has a row for each.

Labels are names that an app declares, or closed sets: no run, user or organisation is one. Nothing is recorded, at next
to no cost, until the process configures metrics (`perdure.metrics_export`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Protocol
from weakref import WeakSet

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

LATENCY_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds."""
RUN_BUCKETS: Final = (1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0, 604800.0)
"""Seconds; runs wait for people."""

meter = metrics.get_meter("perdure")

runs_started = meter.create_counter("perdure_runs_started", description="Runs that a worker has begun.")
runs_ended = meter.create_counter("perdure_runs_ended", description="Runs that ended by themselves, by their status.")
run_duration = meter.create_histogram(
    "perdure_run_duration",
    unit="s",
    description="From a run's start to its end, waiting for people included.",
    explicit_bucket_boundaries_advisory=RUN_BUCKETS,
)
model_duration = meter.create_histogram(
    "perdure_model_call_duration",
    unit="s",
    description="One request to a model, from sending it to the reply's end.",
    explicit_bucket_boundaries_advisory=LATENCY_BUCKETS,
)
tool_duration = meter.create_histogram(
    "perdure_tool_call_duration",
    unit="s",
    description="One attempt at a tool call.",
    explicit_bucket_boundaries_advisory=LATENCY_BUCKETS,
)
tokens = meter.create_counter("perdure_tokens", description="Tokens of model calls, by kind.")
cost = meter.create_counter("perdure_cost_usd", description="US dollars that model calls with a known price cost.")
unpriced_calls = meter.create_counter("perdure_unpriced_calls", description="Model calls that nobody has a price for.")
tool_errors = meter.create_counter("perdure_tool_errors", description="Failed attempts at tool calls, by type.")
model_errors = meter.create_counter("perdure_model_errors", description="Requests to models that failed, by type.")
http_duration = meter.create_histogram(
    "perdure_http_request_duration",
    unit="s",
    description="One request to the API.",
    explicit_bucket_boundaries_advisory=LATENCY_BUCKETS,
)


class Circuits(Protocol):
    """The circuits of models, as one runtime of this process has them."""

    def states(self) -> Mapping[str, str]:
        """Return the state of each model's circuit, one of `CIRCUIT_STATES`."""
        ...


CIRCUIT_STATES: Final = ("closed", "half_open", "open")
"""From well to ill."""
circuits: Final[WeakSet[Circuits]] = WeakSet()
"""Whose states are told; of two that know a model the worse one counts."""


def _circuit_states(_: CallbackOptions) -> Iterable[Observation]:
    worst: dict[str, str] = {}
    for known in list(circuits):
        for model, state in known.states().items():
            worst[model] = max(worst.get(model, state), state, key=CIRCUIT_STATES.index)
    for model, current in worst.items():
        for state in CIRCUIT_STATES:
            yield Observation(int(state == current), {"model": model, "state": state})


meter.create_observable_gauge(
    "perdure_breaker_state",
    callbacks=[_circuit_states],
    description="1 for the state that the circuit of a model is in, 0 for the others.",
)
