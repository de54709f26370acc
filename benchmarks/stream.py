"""`stream`: what many viewers of a run that speaks for minutes cost its history, an approval, and each word."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any, Final

import httpx2
from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.audience import Audience
from benchmarks.journal import Kind
from benchmarks.report import Figure, Report
from benchmarks.speaker import ASKER, SPEAKER, TOKENS_A_SECOND
from benchmarks.stage import Stage, WorkerProcess, cpu_seconds, open_stage
from perdure_workers.dev import probe
from perdure_workers.ports import free_port
from perdure_workers.processes import Child

VIEWERS: Final = 50
SECONDS: Final = 300
QUICK_SECONDS: Final = 10
APPROVALS_EVERY: Final = 5.0
"""Seconds between two approvals given while the viewers watch."""
MAX_APPROVAL: Final = 1.0
MAX_DELAY_MS: Final = 50.0
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True)
class Shown:
    """What came of one streamed run."""

    events: int
    """In the run's history, in the end."""
    added: int
    """Events that came into its history while its model spoke."""
    delays: Sequence[float]
    """Of each word at each viewer, in seconds."""
    api_cpu: float
    """Seconds of CPU that the API used meanwhile."""
    approvals: Sequence[float]
    """Seconds between the request that approves a call of another run and the call."""


async def measure_stream(*, quick: bool) -> Report:
    """Stream a run to many viewers, the same words without a runtime, and a run that nobody watches."""
    seconds = QUICK_SECONDS if quick else SECONDS
    async with open_studio() as studio:
        unseen = await studio.show(seconds=QUICK_SECONDS, viewers=0)
        plain = await studio.show_plainly(seconds=seconds if quick else seconds // 5, viewers=VIEWERS)
        shown = await studio.show(seconds=seconds, viewers=VIEWERS)
    return Report(
        name="stream",
        method=(
            f"One run whose model says {TOKENS_A_SECOND} words a second for {seconds} s, watched over HTTP by "
            f"{VIEWERS} viewers; worker, API and Redis are processes of their own. Meanwhile, on the same worker and "
            f"API, a call of another run is approved each {APPROVALS_EVERY:g} s. Each word is the time at which "
            "the provider said it. The floor is a server that says the same words to as many viewers with no runtime "
            "between."
        ),
        figures=[
            Figure("events added to the run's history while it streams", shown.added, goal=0),
            Figure("events of the run, more than of one that nobody watches", shown.events - unseen.events, goal=0),
            Figure("words shown", len(shown.delays)),
            Figure("words shown / said", len(shown.delays) / (VIEWERS * seconds * TOKENS_A_SECOND), "×"),
            Figure("from the provider to the viewer, median", 1000 * median(shown.delays), "ms", goal=MAX_DELAY_MS),
            Figure("from the provider to the viewer, 95 of 100", 1000 * _p95(shown.delays), "ms"),
            Figure("floor: from the provider to the viewer, median", 1000 * median(plain), "ms"),
            Figure("floor: from the provider to the viewer, 95 of 100", 1000 * _p95(plain), "ms"),
            Figure("CPU of the API, of one core", 100 * shown.api_cpu / seconds, "%"),
            Figure("approvals given meanwhile", len(shown.approvals)),
            Figure("from an approval to its call, median", median(shown.approvals), "s"),
            Figure("from an approval to its call, longest", max(shown.approvals), "s", goal=MAX_APPROVAL),
        ],
    )


@dataclass(frozen=True)
class Studio:
    """Worker, API and Redis, on their server."""

    stage: Stage
    worker: WorkerProcess
    api: Child
    url: str
    """Of the API."""

    async def show(self, *, seconds: float, viewers: int) -> Shown:
        """Have a run speak for so long to so many, and approve calls of others meanwhile if anybody watches."""
        async with httpx2.AsyncClient(base_url=f"{self.url}/v1", trust_env=False, timeout=30) as http:
            before = cpu_seconds(self.api)
            run_id = await _start(http, SPEAKER, f"{seconds:g}")
            handle = self.stage.client.get_workflow_handle(run_id)
            audience = Audience(f"{self.url}/v1/runs/{run_id}/events", viewers=viewers)
            watching = asyncio.create_task(audience.watch())
            lengths: list[int] = []
            approvals: list[float] = []
            until = time.monotonic() + seconds - 1  # by then it speaks still
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(left, APPROVALS_EVERY if lengths else 1))
                lengths.append((await handle.describe()).history_length)
                if viewers:
                    approvals.append(await _approval(http, self.worker))
            await handle.result()
            await watching
            events = (await handle.describe()).history_length
        added = lengths[-1] - lengths[0] if lengths else 0
        used = cpu_seconds(self.api) - before
        return Shown(events=events, added=added, delays=audience.delays, api_cpu=used, approvals=approvals)

    async def show_plainly(self, *, seconds: float, viewers: int) -> Sequence[float]:
        """Say the words to so many without a runtime, and return the delay of each."""
        url = f"http://{LOOPBACK}:{(port := free_port())}"
        command = [sys.executable, "-m", "benchmarks.speaker", "--port", str(port)]
        child = await self.stage.start_process("plain", command, ready=probe(f"{url}/healthz"))
        audience = Audience(f"{url}/words?seconds={seconds}", viewers=viewers)
        await audience.watch()
        child.kill()
        await child.wait()
        return audience.delays


@asynccontextmanager
async def open_studio() -> AsyncIterator[Studio]:
    """Start all of it for the length of a block."""
    async with open_stage() as stage, _redis(stage) as redis:
        worker = await stage.start_worker("speaker", journal=True, settings={"redis_url": redis})
        studio = Studio(stage, worker, *await _start_api(stage, worker, redis))
        await studio.show(seconds=0, viewers=0)  # what a worker's first run costs is nobody's viewing
        yield studio


def _p95(delays: Sequence[float]) -> float:
    return quantiles(delays, n=20)[-1]


@asynccontextmanager
async def _redis(stage: Stage) -> AsyncIterator[str]:
    """Serve a Redis that keeps nothing on disk."""
    port = free_port()
    url = f"redis://{LOOPBACK}:{port}/0"

    async def answers() -> bool:
        async with Redis.from_url(url) as client:
            with suppress(RedisError):
                return bool(await client.ping())
        return False

    program = shutil.which("redis-server")
    if program is None:
        raise FileNotFoundError("this benchmark needs redis-server; on Debian: apt-get install redis-server")
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        options = ["--bind", LOOPBACK, "--save", "", "--appendonly", "no", "--dir", folder]
        child = await stage.start_process("redis", [program, "--port", str(port), *options], ready=answers)
        yield url
        child.kill()
        await child.wait()


async def _start_api(stage: Stage, worker: WorkerProcess, redis: str) -> tuple[Child, str]:
    url = f"http://{LOOPBACK}:{(port := free_port())}"
    api = await stage.start_process(
        "api",
        [sys.executable, "-m", "perdure_workers.cli", "api", "--app", "benchmarks.speaker:APP", "--port", str(port)],
        ready=probe(f"{url}/readyz"),
        environment={
            "TEMPORAL_ADDRESS": stage.client.service_client.config.target_host,
            "PERDURE_TASK_QUEUE": worker.queue,
            "PERDURE_REDIS_URL": redis,
        },
    )
    return api, url


async def _start(http: httpx2.AsyncClient, agent: str, text: str) -> str:
    response = await http.post("/runs", json={"agent": agent, "input": text})
    response.raise_for_status()
    return str(response.json()["run_id"])


async def _approval(http: httpx2.AsyncClient, worker: WorkerProcess) -> float:
    """Have another run ask for an approval, give it, and return how long it was until the call."""
    run_id = await _start(http, ASKER, "0")
    asked: list[dict[str, Any]] = []
    while not asked:
        asked = (await http.get(f"/runs/{run_id}")).raise_for_status().json()["pending_approvals"]
    began = time.time()
    decision = {"decision": "approve", "decided_by": "bench"}
    approved = await http.post(f"/runs/{run_id}/approvals/{asked[0]['approval_id']}", json=decision)
    approved.raise_for_status()
    await worker.until(lambda journal: any(entry.run == run_id for entry in journal if entry.kind is Kind.TOOL))
    return next(entry.at for entry in worker.journal if entry.run == run_id) - began
