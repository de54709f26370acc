"""`audit`: what it costs a run, how far the auditor is behind, and how fast it catches up and is verified."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from temporalio.client import Client

from benchmarks.report import Figure, Report
from benchmarks.stage import PerdureRun, Stage, WorkerProcess, cpu_seconds, open_stage
from benchmarks.workload import Plan
from perdure.audit.contracts import Anchors
from perdure.audit.facts import keyed
from perdure.audit.folder import FolderStore
from perdure.audit.reading import AuditFilter, search, verify_chain
from perdure.audit.record import AuditRecord
from perdure_activities.audit.auditor import Auditor

PLAN = Plan(turns=5, reply_bytes=250, result_bytes=250)
IN_PARALLEL = 20
MAX_BEHIND = 10.0
"""Seconds, under load."""
CATCH_UP_SECONDS = 120


@dataclass(frozen=True)
class Crowd:
    """Many runs that have ended."""

    runs: list[PerdureRun]
    seconds: float
    cpu: float
    """Of worker and server, in seconds."""
    events: list[int]
    """Of each run's history."""


async def measure_audit(*, quick: bool) -> Report:
    """Make the same runs without an audit and with one; then audit and verify what there is once more."""
    count = 20 if quick else 100
    with tempfile.TemporaryDirectory(prefix="perdure-audit-") as folder:
        async with open_stage() as stage:
            without = await _crowd(stage, await stage.start_worker("perdure", plan=PLAN), count)
        store = FolderStore(Path(folder) / "live")
        async with open_stage() as stage:
            worker = await stage.start_worker("perdure", plan=PLAN, audit=store.url)
            audited = await _crowd(stage, worker, count)
            records = await _all_recorded(store, count)
            anew = FolderStore(Path(folder) / "anew")
            catching_up, caught_up = await _catch_up(stage.client, anew)
        verifying, verified = await _verify(anew)
    return Report(
        name="audit",
        method=(
            f"{count} runs of {PLAN.turns} turns of {PLAN.bytes_per_turn} B, {IN_PARALLEL} at a time, on a worker "
            "without an audit and on one with an auditor beside the runs, which keeps it in a folder. Then an auditor "
            "that begins with nothing reads all histories again, and its chains are verified."
        ),
        figures=[
            Figure("events added to a run's history", max(audited.events) - max(without.events), goal=0),
            Figure("time, audited / without", audited.seconds / without.seconds, "×"),
            Figure("CPU of worker and server a run, without", 1000 * without.cpu / count, "ms"),
            Figure("CPU of worker and server a run, audited", 1000 * audited.cpu / count, "ms"),
            Figure("records a run", len(records) / count),
            Figure("from a run's end to its record, median", median(_lags(records)), "s"),
            Figure("from a run's end to its record, longest", max(_lags(records)), "s", goal=MAX_BEHIND),
            Figure("catching up: records a second", caught_up / catching_up),
            Figure("verifying: records a second", verified / verifying),
        ],
    )


async def _crowd(stage: Stage, worker: WorkerProcess, count: int) -> Crowd:
    slots = asyncio.Semaphore(IN_PARALLEL)

    async def one() -> PerdureRun:
        async with slots:
            run = await stage.start_run(worker, PLAN)
            await run.result()
            return run

    await one()  # what is loaded once is not counted
    before, begin = cpu_seconds(worker.child) + cpu_seconds(stage.server), time.perf_counter()
    runs = await asyncio.gather(*(one() for _ in range(count)))
    seconds, cpu = time.perf_counter() - begin, cpu_seconds(worker.child) + cpu_seconds(stage.server) - before
    events = [len(execution.events) for run in runs[:10] for execution in await stage.executions(run)]
    return Crowd(runs, seconds, cpu, events)


async def _all_recorded(store: FolderStore, count: int) -> list[AuditRecord]:
    """Wait until the ends of all runs are recorded."""
    async with asyncio.timeout(CATCH_UP_SECONDS):
        while True:
            records = [record async for record in search(store, "", AuditFilter())]
            if sum(record.kind == "run.ended" for record in records) >= count:
                return records
            await asyncio.sleep(0.5)


def _lags(records: list[AuditRecord]) -> list[float]:
    return [(record.recorded_at - record.at).total_seconds() for record in records if record.kind == "run.ended"]


async def _catch_up(client: Client, store: FolderStore) -> tuple[float, int]:
    """Have an auditor record everything that has ended; return seconds and records."""
    auditor = Auditor(
        client, store, await store.prepare(), anchors=Anchors(), digest=keyed(None), execution="benchmark"
    )
    await auditor.begin()
    begin = time.perf_counter()
    async for _ in auditor.sweep():
        pass
    return time.perf_counter() - begin, auditor.stretch.records


async def _verify(store: FolderStore) -> tuple[float, int]:
    begin = time.perf_counter()
    report = await verify_chain(store, "")
    if not report.sound:
        raise RuntimeError(f"the chain should be sound: {report.problems}")
    return time.perf_counter() - begin, report.records
