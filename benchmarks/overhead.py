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
    rounds, runs = (2, 20) if quick else (7, 100)
    async with open_stage() as stage:
        await stage.start_model()
        contenders = [await _floor(stage), await _perdure(stage, FIXED), await _perdure(stage, "anthropic")]
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
            f"{rounds} rounds in turns, medians of each round's ratio. "
            f"Time: runs of {ALONE.turns} turns, one at a time. CPU of worker and server: {runs} runs of "
            f"{CROWD.turns} turns, {IN_PARALLEL} at a time."
        ),
        figures=_figures(costs),
    )


def _figures(costs: dict[str, list[Cost]]) -> list[Figure]:
    floor = costs.pop("floor")
    figures = [
        Figure("floor, time a turn", median(cost.wall for cost in floor), "ms"),
        Figure("floor, CPU a turn", median(cost.cpu for cost in floor), "ms"),
        Figure("… of which worker", median(cost.worker for cost in floor), "ms"),
    ]
    for name, found in costs.items():
        goal = name == FIXED
        label = "model in process" if goal else "model over HTTP through the SDK"
        pairs = list(zip(found, floor, strict=True))
        figures += [
            Figure(
                f"{label}: time a turn / floor",
                median(cost.wall / base.wall for cost, base in pairs),
                "×",
                goal=MAX_TIME_RATIO if goal else None,
            ),
            Figure(
                f"{label}: CPU a turn / floor",
                median(cost.cpu / base.cpu for cost, base in pairs),
                "×",
                goal=MAX_CPU_RATIO if goal else None,
            ),
            Figure(
                f"{label}: CPU a turn / floor, worker only",
                median(cost.worker / base.worker for cost, base in pairs),
                "×",
            ),
            Figure(
                f"{label}: CPU a turn / floor, server only",
                median(cost.server / base.server for cost, base in pairs),
                "×",
            ),
        ]
    return figures


async def _floor(stage: Stage) -> Contender:
    worker = await stage.start_worker("floor")
    return Contender(
        "floor",
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
    for _ in range(3):
        await (await contender.alone()).result()
    wall = (time.perf_counter() - begin) / (3 * ALONE.turns)
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
