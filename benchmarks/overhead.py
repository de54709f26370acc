"""`overhead`: what a turn costs more than the floor's two no-op activities, in time and in CPU of worker and server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from benchmarks.report import Figure, Report
from benchmarks.stage import Stage, WorkerProcess, cpu_seconds, open_stage
from benchmarks.workload import FIXED, Plan

MAX_TIME_RATIO = 1.12
MAX_CPU_RATIO = 1.15
ALONE = Plan(turns=20, reply_bytes=250, result_bytes=250)
"""A run by itself, for the time of a turn."""
CROWD = Plan(turns=5, reply_bytes=250, result_bytes=250)
"""One of many runs at a time, for the CPU of a turn."""
IN_PARALLEL = 20
RUNS_ALONE = 2
"""Of each round."""
FLOOR = "floor"
LABELS = {FIXED: "model in process", "anthropic": "model over HTTP, through the SDK"}


class Handle(Protocol):
    """A started run, of whichever kind."""

    async def result(self) -> object: ...


@dataclass(frozen=True)
class Contender:
    """Something that makes runs of so many turns."""

    name: str
    worker: WorkerProcess
    alone: Callable[[], Awaitable[Handle]]
    crowd: Callable[[], Awaitable[Handle]]


@dataclass(frozen=True)
class Cost:
    """What a turn cost, in milliseconds."""

    wall: float
    worker: float
    server: float

    @property
    def cpu(self) -> float:
        """CPU of worker and server."""
        return self.worker + self.server


async def measure_overhead(*, quick: bool) -> Report:
    """Run floor and Perdure in turns, and compare each with the floor of its own round."""
    rounds, runs = (2, 20) if quick else (15, 20)
    async with open_stage() as stage:
        await stage.start_model()
        contenders = [await _floor(stage), *[await _perdure(stage, provider) for provider in LABELS]]
        for contender in contenders:
            await _crowd(stage, contender, runs=IN_PARALLEL)
        costs: dict[str, list[Cost]] = {contender.name: [] for contender in contenders}
        for number in range(rounds):
            for contender in contenders[:: 1 if number % 2 else -1]:
                cost = await _cost(stage, contender, runs=runs)
                costs[contender.name].append(cost)
    return Report(
        name="overhead",
        method=(
            f"Turns of {ALONE.bytes_per_turn} B against a loop of two no-op activities that passes no data; "
            f"medians of the ratios of {rounds} rounds in which each takes its turn. Time: {RUNS_ALONE} runs of "
            f"{ALONE.turns} turns a round, one at a time. CPU of worker and server: {runs} runs of {CROWD.turns} turns "
            f"a round, {IN_PARALLEL} at a time."
        ),
        figures=_figures(costs),
    )


def _figures(costs: dict[str, list[Cost]]) -> list[Figure]:
    floor = costs[FLOOR]
    figures = [
        Figure("floor: time a turn", median(cost.wall for cost in floor), "ms"),
        Figure("floor: CPU a turn, worker", median(cost.worker for cost in floor), "ms"),
        Figure("floor: CPU a turn, server", median(cost.server for cost in floor), "ms"),
    ]
    for name, label in LABELS.items():
        pairs = list(zip(costs[name], floor, strict=True))
        # Over HTTP the figures contain the vendor's SDK, which is no cost of ours to have a goal for.
        max_time, max_cpu = (MAX_TIME_RATIO, MAX_CPU_RATIO) if name == FIXED else (None, None)
        figures += [
            Figure(f"{label}: time / floor", median(cost.wall / base.wall for cost, base in pairs), "×", max_time),
            Figure(f"{label}: CPU / floor", median(cost.cpu / base.cpu for cost, base in pairs), "×", max_cpu),
            Figure(f"{label}: CPU / floor, worker", median(cost.worker / base.worker for cost, base in pairs), "×"),
            Figure(f"{label}: CPU / floor, server", median(cost.server / base.server for cost, base in pairs), "×"),
        ]
    return figures


async def _floor(stage: Stage) -> Contender:
    worker = await stage.start_worker("floor")
    return Contender(
        FLOOR,
        worker,
        alone=lambda: stage.start_floor_run(worker, turns=ALONE.turns),
        crowd=lambda: stage.start_floor_run(worker, turns=CROWD.turns),
    )


async def _perdure(stage: Stage, provider: str) -> Contender:
    worker = await stage.start_worker("perdure", plan=ALONE, provider=provider)
    return Contender(
        provider,
        worker,
        alone=lambda: stage.start_run(worker, ALONE, provider=provider),
        crowd=lambda: stage.start_run(worker, CROWD, provider=provider),
    )


async def _cost(stage: Stage, contender: Contender, *, runs: int) -> Cost:
    begin = time.perf_counter()
    for _ in range(RUNS_ALONE):
        await (await contender.alone()).result()
    wall = (time.perf_counter() - begin) / (RUNS_ALONE * ALONE.turns)
    worker, server = await _crowd(stage, contender, runs=runs)
    turns = runs * CROWD.turns
    return Cost(wall=wall * 1000, worker=worker / turns * 1000, server=server / turns * 1000)


async def _crowd(stage: Stage, contender: Contender, *, runs: int) -> tuple[float, float]:
    """Make many runs; return the CPU seconds of worker and server."""
    slots = asyncio.Semaphore(IN_PARALLEL)

    async def one() -> None:
        async with slots:
            await (await contender.crowd()).result()

    worker, server = cpu_seconds(contender.worker.child), cpu_seconds(stage.server)
    await asyncio.gather(*(one() for _ in range(runs)))
    return cpu_seconds(contender.worker.child) - worker, cpu_seconds(stage.server) - server
