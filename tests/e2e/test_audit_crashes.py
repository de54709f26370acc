"""The audit when processes die: workers, the server, and writers who append to the same store at once."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from temporalio.client import Client

from perdure.app import load_app
from perdure.errors import PerdureError
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_api.gateway import Gateway
from perdure_api.schemas import DecisionRequest, InboxFilter, NewRun, RunFilter
from tests.audit_stores import Place, assert_complete, bucket_place, facts_in_chains, folder_place
from tests.e2e.cluster import APP, Cluster, running_cluster
from tests.e2e.kill_schedule import SEED_VARIABLE, chosen_seed

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

RUNS = 14
SPREAD = (0, 2)
"""Seconds between the starts of two runs, from and to."""
KILLS = 14
INTO = (0, 1.2)
"""Seconds from a process's first sign of work until it is killed, from and to."""
SIGN = {
    "worker-1": "worker_started",
    "worker-2": "worker_started",
    "writer-1": "audit_begun",
    "writer-2": "audit_begun",
}
"""What a process says when it begins to work."""
MEMBERS = tuple(SIGN)
UP = timedelta(seconds=20)
CHAOS = timedelta(seconds=200)
CAUGHT_UP = timedelta(seconds=60)


@pytest.fixture(params=["folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Where the audit is kept."""
    return folder_place(tmp_path) if request.param == "folder" else bucket_place(request.getfixturevalue("s3"))


@pytest.fixture
async def cluster(tmp_path: Path, place: Place) -> AsyncIterator[Cluster]:
    """A server, two workers that keep an auditor, and two auditors of their own beside it, all on one store."""
    variables = {**place.environment, "PERDURE_AUDIT_INTERVAL_SECONDS": "0.1"}
    async with running_cluster(tmp_path) as cluster:
        for name in MEMBERS[:2]:
            cluster.add_worker(name, **variables)
        for name in MEMBERS[2:]:
            cluster.add_program(name, "tests.e2e.audit_writer", **variables)
        yield cluster


async def kill_at_random(cluster: Cluster, source: random.Random) -> None:
    """Kill with SIGKILL, again and again, whoever has a turn, some time after it has begun to work; the server once."""
    begun = dict.fromkeys(MEMBERS, 0)
    for number in range(KILLS):
        if number == KILLS // 2:
            cluster.members["temporal"].kill()
        name = source.choice(MEMBERS)

        def at_work(name: str = name) -> bool:
            return cluster.members[name].up and cluster.log(name).count(SIGN[name]) > begun[name]

        with contextlib.suppress(AssertionError):  # on a busy machine it is killed while it starts
            await eventually(at_work, within=UP)
        begun[name] = cluster.log(name).count(SIGN[name])
        await asyncio.sleep(source.uniform(*INTO))
        cluster.members[name].kill()


async def start_all(runs: Gateway, source: random.Random) -> None:
    """Start runs of two organisations, a moment after each other; the server may be away."""
    for number in range(RUNS):
        new = NewRun(agent="clerk", input=f"settle case-{number:02}", org=f"org-{number % 2}", user="ann")
        await eventually(partial(started, runs, new, f"run-{number}"), within=CHAOS, what="a start")
        await asyncio.sleep(source.uniform(*SPREAD))


async def started(runs: Gateway, new: NewRun, run_id: str) -> bool:
    """Start a run; say whether that worked."""
    try:
        await runs.runs.start(new, run_id=run_id)
    except PerdureError:
        return False
    return True


async def decide_until_all_ended(runs: Gateway) -> None:
    """Approve whatever asks, until all runs are over."""

    async def all_ended() -> bool:
        try:
            for asked in await runs.approvals.pending(InboxFilter()):
                outcome = "done" if asked.kind == "outcome" else None
                decision = DecisionRequest(decision="approve", decided_by="carl", outcome=outcome)
                await runs.approvals.decide(asked.run_id, asked.approval_id, decision)
            listed = (await runs.runs.list(RunFilter())).items
        except PerdureError:
            return False
        return len(listed) == RUNS and all(run.ended_at for run in listed)

    await eventually(all_ended, within=CHAOS, what="the end of all runs")


async def test_nothing_is_lost_or_told_twice(cluster: Cluster, place: Place) -> None:
    """Whoever is killed whenever: the chains are sound, each fact of the histories is recorded, and each once."""
    seed = chosen_seed()
    print(f"{SEED_VARIABLE}={seed}")
    source = random.Random(seed)
    client: Client = await cluster.client()
    runs = Gateway(client, load_app(APP), Settings())

    async with asyncio.TaskGroup() as work:
        work.create_task(kill_at_random(cluster, source))
        work.create_task(start_all(runs, source))
        work.create_task(decide_until_all_ended(runs))

    async def caught_up() -> bool:
        await assert_complete(client, place.store())
        return True

    await eventually(caught_up, within=CAUGHT_UP, what="a complete audit")
    ends = {name: member.ends for name, member in cluster.members.items()}
    records = await facts_in_chains(place.store())
    turns = sum(cluster.log(name).count("audit_begun") for name in MEMBERS)
    print(f"ends of processes: {ends}; turns of auditors: {turns}; records: {len(records)}")
    assert sum(len(found) for found in ends.values()) > KILLS // 2
    assert [kind for _, kind in records].count("run.ended") == RUNS
