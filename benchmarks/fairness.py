"""`fairness`: how long ten runs of one organisation take while another one floods the same worker with hundreds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import Final

from temporalio.common import Priority as PriorityKeys

from benchmarks.journal import Kind
from benchmarks.report import Figure, Report
from benchmarks.stage import PerdureRun, Stage, WorkerProcess, open_stage
from benchmarks.workload import Plan
from perdure.priority import Priority

MAX_RATIO: Final = 2.0
"""Between what the small organisation's runs take beside the flood and what they take alone."""
PLAN: Final = Plan(turns=1, reply_bytes=250, result_bytes=250)
FLOODING, SMALL = "acme", "globex"


@dataclass(frozen=True)
class Load:
    """What is started, on which worker."""

    flood: int
    """Runs of the flooding organisation."""
    runs: int
    """Runs of the small one."""
    pause: timedelta
    """How long each call takes."""
    settings: Mapping[str, int]
    """Of the worker, where they differ from the defaults."""


WHOLE: Final = Load(flood=500, runs=10, pause=timedelta(seconds=3), settings={})
QUICK: Final = Load(flood=60, runs=5, pause=timedelta(seconds=1), settings={"max_concurrent_activities": 20})


@dataclass(frozen=True)
class Waits:
    """What the small organisation's runs waited, in seconds from the start of each; medians."""

    begun: float
    """Until the run's first model call began."""
    done: float
    """Until the run's end."""


async def measure_fairness(*, quick: bool) -> Report:
    """Have the small organisation's runs alone, then beside the flood with the keys, then beside it without."""
    load = QUICK if quick else WHOLE
    async with open_stage() as stage:
        alone = await _waits(stage, load, flood=0, keys=True)
        fair = await _waits(stage, load, flood=load.flood, keys=True)
        unfair = await _waits(stage, load, flood=load.flood, keys=False)
    slots = load.settings.get("max_concurrent_activities", 100)
    return Report(
        name="fairness",
        method=(
            f"One organisation starts {load.flood} runs of three calls of {load.pause.total_seconds():g} s each, on "
            f"one worker of {slots} calls at a time; when all are started, another one starts {load.runs}. Seconds are "
            "the medians of these, from the start of each run."
        ),
        figures=[
            Figure("alone: until the first model call", alone.begun, "s"),
            Figure("alone: until done", alone.done, "s"),
            Figure("beside the flood: until the first model call", fair.begun, "s"),
            Figure("beside the flood: until done", fair.done, "s"),
            Figure("beside the flood: until done / alone", fair.done / alone.done, "×", goal=MAX_RATIO),
            Figure("without fairness keys: until the first model call", unfair.begun, "s"),
            Figure("without fairness keys: until done", unfair.done, "s"),
            Figure("without fairness keys: until done / alone", unfair.done / alone.done, "×"),
        ],
    )


async def _waits(stage: Stage, load: Load, *, flood: int, keys: bool) -> Waits:
    worker = await stage.start_worker("perdure", plan=PLAN, journal=True, pause=load.pause, settings=load.settings)

    async def start(org: str) -> tuple[PerdureRun, float]:
        priority = Priority.NORMAL.keys(org=org) if keys else PriorityKeys.default
        began = time.time()
        return await stage.start_run(worker, PLAN, priority=priority), began

    await (await start(SMALL))[0].result()  # what a worker's first run costs is no wait of the others
    await asyncio.gather(*(start(FLOODING) for _ in range(flood)))
    runs = await asyncio.gather(*(start(SMALL) for _ in range(load.runs)))
    done = median(await asyncio.gather(*(_ended(run, began) for run, began in runs)))
    first_calls = _first_calls(worker)
    begun = median(first_calls[run.id] - began for run, began in runs)
    worker.child.kill()  # the rest of the flood stays where it is
    return Waits(begun=begun, done=done)


async def _ended(run: PerdureRun, began: float) -> float:
    await run.result()
    return time.time() - began


def _first_calls(worker: WorkerProcess) -> dict[str, float]:
    return {entry.run: entry.at for entry in reversed(worker.journal) if entry.kind is Kind.MODEL and not entry.ended}
