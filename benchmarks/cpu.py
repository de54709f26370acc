"""`cpu`: whether a turn late in a long run costs the worker more CPU than an early one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from benchmarks.history import KB
from benchmarks.journal import Entry, Kind
from benchmarks.report import Figure, Report
from benchmarks.stage import Stage, open_stage
from benchmarks.workload import FIXED, Plan

MAX_RATIO = 2.0
"""Between the dearest and the cheapest of the places."""
SHORT = Plan(turns=130, reply_bytes=KB, result_bytes=3 * KB)
LABELS = {
    FIXED: "model in process",
    "anthropic": "Anthropic over HTTP",
    "openai": "OpenAI Responses over HTTP",
}


async def measure_cpu(*, quick: bool) -> Report:
    """Make short and long runs in turns, and read the worker's CPU around turn 10, 100 and 1,000."""
    long = Plan(turns=300 if quick else 1020, reply_bytes=KB, result_bytes=3 * KB)
    around = {10: 5, 100: 20, long.turns - 20: 20}
    figures: list[Figure] = []
    async with open_stage() as stage:
        await stage.start_model()
        for provider, label in LABELS.items():
            costs: dict[int, list[float]] = {turn: [] for turn in around}
            for plan in (SHORT, SHORT, long, SHORT, SHORT):
                cost_of = await _costs(stage, plan, provider=provider)
                for turn, half in around.items():
                    if turn + half <= len(cost_of):
                        window = cost_of[turn - half : turn + half]
                        costs[turn].append(sum(window) / len(window) * 1000)
            figures += _figures(label, {turn: median(found) for turn, found in costs.items()})
    return Report(
        name="cpu",
        method=(
            "CPU of the worker process a turn of 4 KB (1 KB reply, 3 KB result), as the mean around a place in the "
            "run; the early places are medians of five runs, each on a worker of its own."
        ),
        figures=figures,
    )


def _figures(label: str, costs: dict[int, float]) -> list[Figure]:
    figures = [Figure(f"{label}: CPU at turn {turn:,}", cost, "ms") for turn, cost in costs.items()]
    spread = max(costs.values()) / min(costs.values())
    return [*figures, Figure(f"{label}: dearest / cheapest", spread, "×", goal=MAX_RATIO)]


async def _costs(stage: Stage, plan: Plan, *, provider: str) -> Sequence[float]:
    """Make a run, and return the worker's CPU seconds of each turn."""
    worker = await stage.start_worker("perdure", plan=plan, provider=provider, journal=True)
    await (await stage.start_run(worker, plan, provider=provider)).result()
    worker.child.kill()
    return [later.cpu - earlier.cpu for earlier, later in pairwise(_beginnings(worker.journal))]


def _beginnings(journal: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in journal if entry.kind is Kind.MODEL and not entry.ended]
