"""`recovery`: how soon runs go on after their worker is killed in the middle of their calls, and what is repeated."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from benchmarks.journal import Entry, Kind
from benchmarks.overhead import Handle
from benchmarks.report import Figure, Report
from benchmarks.stage import Stage, WorkerProcess, open_stage
from benchmarks.workload import Plan

MAX_SECONDS = 10.0
PLAN = Plan(turns=4, reply_bytes=250, result_bytes=250)
PAUSE = timedelta(seconds=1)
"""How long each call takes."""


@dataclass(frozen=True)
class Recovery:
    """What came after a worker's death; seconds count from the start of its successor."""

    gone_on: float
    """Until each run had one more call behind it."""
    done: float
    """Until all runs had ended."""
    lost: int
    """Calls in flight when the worker was killed."""
    model_calls_repeated: int
    tool_calls_repeated: int
    effects_repeated: int


async def measure_recovery(*, quick: bool) -> Report:
    """Kill the workers of Perdure and of the floor at the same time, and start both again at once."""
    runs = 5 if quick else 20
    async with open_stage() as stage:
        jobs = [_perdure(stage, runs)] if quick else [_perdure(stage, runs), _floor(stage, runs)]
        found = await asyncio.gather(*jobs)
    return Report(
        name="recovery",
        method=(
            f"{runs} concurrent runs of {PLAN.turns} turns, whose model and tool calls take {PAUSE.total_seconds():g} "
            "s each; the worker is killed (SIGKILL) while all are in a call, and started again at once. The floor "
            "beside it, killed at the same time, has Temporal's defaults: no heartbeats, a timeout of 60 s a call."
        ),
        figures=_figures(found[0], goal=True)
        + [figure for floor in found[1:] for figure in _figures(floor, goal=False)],
    )


def _figures(recovery: Recovery, *, goal: bool) -> list[Figure]:
    name = "Perdure" if goal else "floor"
    return [
        Figure(f"{name}: until every run has gone on", recovery.gone_on, "s", goal=MAX_SECONDS if goal else None),
        Figure(f"{name}: until all are done", recovery.done, "s"),
        Figure(f"{name}: calls in flight at the kill", recovery.lost),
        Figure(f"{name}: model calls repeated", recovery.model_calls_repeated),
        Figure(f"{name}: tool calls repeated", recovery.tool_calls_repeated),
        Figure(f"{name}: tool effects repeated", recovery.effects_repeated, goal=0 if goal else None),
    ]


async def _perdure(stage: Stage, runs: int) -> Recovery:
    async def start_worker(queue: str | None) -> WorkerProcess:
        return await stage.start_worker("perdure", plan=PLAN, queue=queue, journal=True, pause=PAUSE)

    async def start_run(worker: WorkerProcess) -> Handle:
        return await stage.start_run(worker, PLAN)

    return await _kill_and_recover(start_worker, start_run, runs=runs)


async def _floor(stage: Stage, runs: int) -> Recovery:
    async def start_worker(queue: str | None) -> WorkerProcess:
        return await stage.start_worker("floor", queue=queue, journal=True, pause=PAUSE, plain=True)

    async def start_run(worker: WorkerProcess) -> Handle:
        return await stage.start_floor_run(worker, turns=PLAN.turns)

    return await _kill_and_recover(start_worker, start_run, runs=runs)


async def _kill_and_recover(
    start_worker: Callable[[str | None], Awaitable[WorkerProcess]],
    start_run: Callable[[WorkerProcess], Awaitable[Handle]],
    *,
    runs: int,
) -> Recovery:
    worker = await start_worker(None)
    handles = [await start_run(worker) for _ in range(runs // 2)]
    # The others start when these are at their first tool call, so that calls of both kinds are lost.
    await worker.until(lambda journal: any(entry.kind is Kind.TOOL for entry in journal))
    handles += [await start_run(worker) for _ in range(runs - runs // 2)]
    await worker.until(lambda journal: _all_amid_calls(journal, runs=runs))
    worker.child.kill()
    await worker.child.wait()
    before = worker.journal
    restarted = time.time()
    worker = await start_worker(worker.queue)
    await asyncio.gather(*(handle.result() for handle in handles))
    done = time.time() - restarted
    return _recovery(before, worker.journal, restarted=restarted, done=done)


def _all_amid_calls(journal: Sequence[Entry], *, runs: int) -> bool:
    """Whether each run has a call behind it and one in flight."""
    ended = {entry.run for entry in journal if entry.ended}
    return len(ended) == runs and len(_in_flight(journal)) == runs


def _in_flight(journal: Sequence[Entry]) -> set[tuple[str, str]]:
    begun = {(entry.run, entry.key) for entry in journal if not entry.ended}
    return begun - {(entry.run, entry.key) for entry in journal if entry.ended}


def _recovery(before: Sequence[Entry], journal: Sequence[Entry], *, restarted: float, done: float) -> Recovery:
    next_end: dict[str, float] = {}
    for entry in journal[len(before) :]:
        if entry.ended:
            next_end.setdefault(entry.run, entry.at - restarted)
    return Recovery(
        gone_on=max(next_end.values()),
        done=done,
        lost=len(_in_flight(before)),
        model_calls_repeated=_repeated(journal, Kind.MODEL, ended=False),
        tool_calls_repeated=_repeated(journal, Kind.TOOL, ended=False),
        effects_repeated=_repeated(journal, Kind.TOOL, ended=True),
    )


def _repeated(journal: Sequence[Entry], kind: Kind, *, ended: bool) -> int:
    times = Counter((entry.run, entry.key) for entry in journal if entry.kind is kind and entry.ended is ended)
    return sum(count - 1 for count in times.values())
