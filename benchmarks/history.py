"""`history`: what a long run leaves behind, in bytes, and how often its conversation was asked for."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from benchmarks.journal import Entry, Kind
from benchmarks.report import Figure, Report
from benchmarks.stage import Execution, Stage, open_stage
from benchmarks.workload import Plan

MAX_CONVERSATIONS = 1.5
MAX_BYTES_PER_TURN = 2048
"""History may be so many times the conversation, and this much a turn on top."""
MAX_EXPONENT = 1.1
KB = 1024
MB = 1024 * 1024


@dataclass(frozen=True)
class LongRun:
    """A run that has ended."""

    plan: Plan
    executions: Sequence[Execution]
    seconds: float
    workers: int
    queries: int

    @property
    def size(self) -> int:
        """Bytes of all its histories."""
        return sum(execution.size for execution in self.executions)


async def measure_history(*, quick: bool) -> Report:
    """Make one run for each way to split a turn's bytes, and weigh its histories."""
    turns = 60 if quick else 1000
    splits = [Plan(turns, KB, 3 * KB)] if quick else [Plan(turns, KB, 3 * KB), Plan(turns, 3 * KB, KB)]
    async with open_stage() as stage:
        runs = [await _long_run(stage, plan) for plan in splits]
    return Report(
        name="history",
        method=(
            f"A run of {turns:,} turns (a model call and a tool call each) of 4 KB of words that do not compress, "
            "whose worker is killed half way and replaced. History is the sum over all executions of the run, as the "
            "server counts it; the conversation is its words alone."
        ),
        figures=[figure for run in runs for figure in _figures(run)],
    )


async def _long_run(stage: Stage, plan: Plan) -> LongRun:
    worker = await stage.start_worker("perdure", plan=plan, journal=True)
    begin = time.monotonic()
    run = await stage.start_run(worker, plan)
    result = asyncio.create_task(run.result())
    await worker.until(lambda journal: _turns(journal) >= plan.turns // 2)
    worker.child.kill()
    worker = await stage.start_worker("perdure", plan=plan, queue=worker.queue, journal=True)
    ended = await result
    if ended.totals.model_calls != plan.turns + 1:
        raise RuntimeError(f"the run should have made {plan.turns + 1} model calls; it made {ended.totals.model_calls}")
    last = {entry.worker: entry.queries for entry in worker.journal}
    return LongRun(
        plan=plan,
        executions=await stage.executions(run),
        seconds=time.monotonic() - begin,
        workers=len(last),
        queries=sum(last.values()),
    )


def _turns(journal: Sequence[Entry]) -> int:
    return sum(entry.kind is Kind.TOOL and entry.ended for entry in journal)


def _figures(run: LongRun) -> list[Figure]:
    plan = run.plan
    conversation = plan.turns * plan.bytes_per_turn
    continued = len(run.executions) - 1
    split = f"{plan.reply_bytes // KB} KB reply, {plan.result_bytes // KB} KB result"
    return [
        Figure(f"{split}: conversation", conversation / MB, "MB"),
        Figure(
            f"{split}: history",
            run.size / MB,
            "MB",
            goal=(MAX_CONVERSATIONS * conversation + MAX_BYTES_PER_TURN * plan.turns) / MB,
        ),
        Figure(f"{split}: history / conversation", run.size / conversation, "×"),
        Figure(f"{split}: history beyond the conversation, a turn", (run.size - conversation) / plan.turns, "B"),
        Figure(f"{split}: exponent of growth", growth_exponent(growth(run)), goal=MAX_EXPONENT),
        Figure(f"{split}: executions (continue-as-new)", len(run.executions)),
        Figure(f"{split}: transcript Queries", run.queries, goal=run.workers + continued),
        Figure(f"{split}: time, the lost worker included", run.seconds, "s"),
    ]


def growth(run: LongRun) -> list[tuple[int, int]]:
    """Return how large the history was after n turns, for n from a twentieth of the run to all of it."""
    sizes = _sizes_by_turn(run.executions)
    return [(turn, sizes[turn]) for turn in (run.plan.turns * part // 20 for part in (1, 2, 4, 8, 20))]


def growth_exponent(points: Sequence[tuple[int, int]]) -> float:
    """Return e of the power law size = c · n^e that fits best: the slope through the logarithms, by least squares."""
    xs, ys = [math.log(n) for n, _ in points], [math.log(size) for _, size in points]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return slope / sum((x - x_mean) ** 2 for x in xs)


def _sizes_by_turn(executions: Sequence[Execution]) -> list[int]:
    """Return the bytes of history before each model call: before the first one, after one turn, and so on."""
    events = [event for execution in executions for event in execution.events]
    before = accumulate((event.ByteSize() for event in events), initial=0)
    return [
        size
        for event, size in zip(events, before, strict=False)
        if event.activity_task_scheduled_event_attributes.activity_type.name == "call_model"
    ]
