"""`budget`: whether a cap holds while workers die, whether anything stays reserved, and what this costs a run."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from statistics import median
from typing import Any, Final

from benchmarks.report import Figure, Report
from benchmarks.stage import PerdureRun, Stage, WorkerProcess, cpu_seconds, open_stage
from benchmarks.workload import FIXED, Plan
from perdure.budget import Line, PriceCeiling, Terms
from perdure.contracts import RunResult, RunStatus
from perdure.ledger.contracts import LedgerView, Standing
from perdure.testing import eventually

PLAN: Final = Plan(turns=4, reply_bytes=250, result_bytes=250)
PAUSE: Final = timedelta(milliseconds=200)
"""How long each call takes while workers die, so that some are in flight whenever one does."""
PRICE: Final = Decimal(100)
"""US dollars per million tokens."""
SETTINGS: Final[Mapping[str, Any]] = {"prices": {f"{FIXED}:{PLAN}": {"input": str(PRICE), "output": str(PRICE)}}}
WORKERS: Final = 2
KILL_EVERY: Final = 4.0
"""Seconds."""
KILLS: Final = 10
IN_PARALLEL: Final = 20
RUNS_ALONE: Final = 6
"""Of each round."""
MAX_EVENTS_COUNTED: Final = 5
"""What a run's history may be longer by for being counted."""
MAX_EVENTS_LIMITED: Final = 16
"""The same for reserving, and being counted."""
MAX_TIME_COUNTED: Final = 1.3
MAX_TIME_LIMITED: Final = 2.0
"""Of runs whose model answers at once; what is added does not grow with what it takes."""
MAX_CPU: Final = 1.5
PLAIN, COUNTED, LIMITED = "plain", "counted", "limited"


@dataclass(frozen=True)
class Crowd:
    """What became of many runs of one organisation against a cap that was too small for all."""

    results: Sequence[RunResult]
    standing: Standing
    view: LedgerView
    cap: Decimal
    work: Decimal
    """What all of the runs would have cost."""
    seconds: float
    kills: int

    @property
    def cost(self) -> Decimal:
        """What the runs say that they cost."""
        return sum((result.totals.cost_usd for result in self.results), Decimal(0))


@dataclass(frozen=True)
class Cost:
    """What a run of one kind cost in one round."""

    wall: float
    """Milliseconds, one run at a time."""
    cpu: float
    """Milliseconds of worker and server together, many at a time."""


async def measure_budget(*, quick: bool) -> Report:
    """Let a crowd loose on a cap while workers are killed, then compare runs with and without the mechanism."""
    runs, rounds = (40, 2) if quick else (200, 10)
    async with open_stage() as stage:
        crowd = await against_a_cap(stage, runs=runs)
    async with open_stage() as stage:
        worker = await stage.start_worker("perdure", plan=PLAN, settings=SETTINGS)
        kinds = _kinds(stage, worker)
        costs = await _costs(stage, worker, kinds, rounds=rounds)
        events = {name: await _events(stage, start) for name, start in kinds.items()}
        ledgers = {name: await _ledger_events(stage, name) for name in (COUNTED, LIMITED)}
    return Report(
        name="budget",
        method=(
            f"{runs} runs of one organisation at once, of {PLAN.turns} turns each, against a cap of half of what they "
            f"would cost together, on {WORKERS} workers, one of which is killed (SIGKILL) every {KILL_EVERY:g} s, at "
            f"most {KILLS} times, and started again at once. Then runs without the mechanism, runs that are only "
            "counted, and runs that are limited by a budget with room for all, in turns: medians of the ratios of "
            f"{rounds} rounds; time: {RUNS_ALONE} runs of each kind, one at a time; CPU of worker and server: "
            f"{IN_PARALLEL} at a time."
        ),
        figures=[*_crowd_figures(crowd), *_cost_figures(costs, events, ledgers)],
    )


def _crowd_figures(crowd: Crowd) -> list[Figure]:
    ends = Counter(result.status for result in crowd.results)
    return [
        Figure("crowd: what it would cost / cap", float(crowd.work / crowd.cap), "×"),
        Figure("crowd: settled / cap", float(crowd.standing.spent_usd / crowd.cap), "×", goal=1),
        Figure(
            "crowd: settled and not in the runs, or the reverse",
            float(abs(crowd.standing.spent_usd - crowd.cost)),
            "$",
            goal=0,
        ),
        Figure("crowd: still reserved at the end", float(crowd.standing.reserved_usd), "$", goal=0),
        Figure("crowd: still waiting at the end", crowd.view.waiting_runs + crowd.view.queued_runs, goal=0),
        Figure("crowd: runs that completed", ends[RunStatus.COMPLETED]),
        Figure("crowd: runs that were out of budget", ends[RunStatus.OUT_OF_BUDGET]),
        Figure("crowd: workers killed", crowd.kills),
        Figure("crowd: time", crowd.seconds, "s"),
    ]


def _cost_figures(
    costs: Mapping[str, Sequence[Cost]], events: Mapping[str, float], ledgers: Mapping[str, float]
) -> list[Figure]:
    plain = costs[PLAIN]
    figures = [
        Figure("plain: events a run", events[PLAIN]),
        Figure("plain: time a run", median(cost.wall for cost in plain), "ms"),
        Figure("plain: CPU a run, worker and server", median(cost.cpu for cost in plain), "ms"),
    ]
    goals = ((COUNTED, MAX_EVENTS_COUNTED, MAX_TIME_COUNTED), (LIMITED, MAX_EVENTS_LIMITED, MAX_TIME_LIMITED))
    for name, most, slowest in goals:
        pairs = list(zip(costs[name], plain, strict=True))
        figures += [
            Figure(f"{name}: events more a run", events[name] - events[PLAIN], goal=most),
            Figure(f"{name}: events of the ledger a run", ledgers[name]),
            Figure(f"{name}: time / plain", median(cost.wall / base.wall for cost, base in pairs), "×", slowest),
            Figure(f"{name}: time more a run", median(cost.wall - base.wall for cost, base in pairs), "ms"),
            Figure(f"{name}: CPU / plain", median(cost.cpu / base.cpu for cost, base in pairs), "×", MAX_CPU),
        ]
    return figures


Start = Callable[[], Awaitable[PerdureRun]]


def _kinds(stage: Stage, worker: WorkerProcess) -> dict[str, Start]:
    """Return what starts a run of each kind."""

    def starting(name: str, terms: Terms | None) -> Start:
        return lambda: stage.start_run(worker, PLAN, org=name, terms=terms)

    return {PLAIN: starting(PLAIN, None), COUNTED: starting(COUNTED, Terms()), LIMITED: starting(LIMITED, _terms())}


def _terms(cap: Decimal = Decimal(1_000_000)) -> Terms:
    return Terms(
        lines=(Line(budget="crowd", per="month", subject="org", usd=cap),),
        ceilings={f"{FIXED}:{PLAN}": PriceCeiling(input=PRICE, output=PRICE)},
    )


async def against_a_cap(stage: Stage, *, runs: int, kill_every: float = KILL_EVERY, kills: int = KILLS) -> Crowd:
    """Start the runs, kill workers while they go on, and return what became of them all."""
    queue = f"crowd-{uuid.uuid4().hex[:8]}"

    async def start_worker() -> WorkerProcess:
        return await stage.start_worker("perdure", plan=PLAN, queue=queue, journal=True, pause=PAUSE, settings=SETTINGS)

    workers = [await start_worker() for _ in range(WORKERS)]
    alone = await (await stage.start_run(workers[0], PLAN, org="alone", terms=_terms())).result()
    work = alone.totals.cost_usd * runs
    cap = (work / 2).quantize(Decimal("0.01"))
    begin = time.monotonic()
    handles = [await stage.start_run(workers[0], PLAN, org="crowd", terms=_terms(cap)) for _ in range(runs)]
    ending = asyncio.gather(*(handle.result() for handle in handles))
    killed = 0
    while not (await asyncio.wait([ending], timeout=kill_every if killed < kills else None))[0]:
        workers[killed % WORKERS].child.kill()
        workers[killed % WORKERS] = await start_worker()
        killed += 1
    seconds = time.monotonic() - begin
    ledger = stage.ledger("crowd")

    async def at_rest() -> list[LedgerView]:
        seen: LedgerView = await ledger.query("view", result_type=LedgerView)
        return [seen] if sum(row.use.calls for page in seen.pages for row in page.rows) == calls else []

    results = ending.result()
    calls = sum(result.totals.model_calls for result in results)
    [view] = await eventually(at_rest, within=timedelta(seconds=60), what="the ledger's last statements")
    [standing] = view.standings
    return Crowd(results=results, standing=standing, view=view, cap=cap, work=work, seconds=seconds, kills=killed)


async def _costs(
    stage: Stage, worker: WorkerProcess, kinds: Mapping[str, Start], *, rounds: int
) -> dict[str, list[Cost]]:
    for start in kinds.values():
        await _crowd_cpu(stage, worker, start)
    costs: dict[str, list[Cost]] = {name: [] for name in kinds}
    for number in range(rounds):
        for name in list(kinds)[:: 1 if number % 2 else -1]:
            begin = time.perf_counter()
            for _ in range(RUNS_ALONE):
                await (await kinds[name]()).result()
            wall = (time.perf_counter() - begin) / RUNS_ALONE
            cpu = await _crowd_cpu(stage, worker, kinds[name])
            costs[name].append(Cost(wall=wall * 1000, cpu=cpu / IN_PARALLEL * 1000))
    return costs


async def _crowd_cpu(stage: Stage, worker: WorkerProcess, start: Start) -> float:
    """Make many runs at once; return the CPU seconds of worker and server."""
    before = cpu_seconds(worker.child) + cpu_seconds(stage.server)
    await asyncio.gather(*[(await start()).result() for _ in range(IN_PARALLEL)])
    return cpu_seconds(worker.child) + cpu_seconds(stage.server) - before


async def _events(stage: Stage, start: Start) -> float:
    """Return the events of a run by itself."""
    run = await start()
    await run.result()
    return sum(len(execution.events) for execution in await stage.executions(run))


async def _ledger_events(stage: Stage, org: str) -> float:
    """Return the events of a ledger for each of its runs, one at a time and many at once mixed as they were."""
    ledger = stage.ledger(org)
    view: LedgerView = await ledger.query("view", result_type=LedgerView)
    calls = sum(row.use.calls for page in view.pages for row in page.rows)
    events = sum(len(execution.events) for execution in await stage.executions(ledger))
    return events / (calls / (PLAN.turns + 1))
