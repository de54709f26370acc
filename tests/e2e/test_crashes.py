"""Crashes of whole processes: whatever is killed at whatever moment, runs finish and effects happen as declared."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest

from perdure.app import load_app
from perdure.contracts import WORKFLOW_NAME, RunStatus
from perdure.messages import AssistantMessage
from perdure.oversight import ApprovalRecord
from perdure.settings import Settings
from perdure.testing import eventually
from perdure_api.gateway import Gateway
from perdure_api.schemas import DecisionRequest, InboxFilter, NewRun, RunDetail
from tests.e2e.caller import Caller
from tests.e2e.cluster import APP, Cluster, Member, running_cluster
from tests.e2e.crash_app.ledger import Ledger
from tests.e2e.crash_app.script import FIELDS, STREAM_TEXT
from tests.e2e.human import Human
from tests.e2e.kill_schedule import SEED_VARIABLE, carry_out, chosen_seed, kill_schedule
from tests.harness import assert_valid, transcript, view

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

RUNS = 20
SPREAD = 12
"""Seconds over which the runs are started."""
CHAOS = timedelta(seconds=150)
"""For all runs to end; it takes about a minute."""
SOON = timedelta(seconds=30)
RECOVERY = timedelta(seconds=25)
"""For runs to go on after their worker was started again; it takes about ten on a quiet machine."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """A Temporal server and a model; tests add workers."""
    async with running_cluster(tmp_path) as cluster:
        yield cluster


async def gateway(cluster: Cluster) -> Gateway:
    """Return what API and command line use to reach runs, in this process."""
    return Gateway(await cluster.client(), load_app(APP), Settings())


async def start_all(caller: Caller, seed: int) -> list[str]:
    """Start the runs a moment after each other, so that each kill meets them in other places."""
    source = random.Random(seed)

    async def start_one(number: int) -> str:
        await asyncio.sleep(source.uniform(0, SPREAD))
        return await caller.start(f"settle case-{number:02}", key=f"key-{seed}-{number}")

    return list(await asyncio.gather(*(start_one(number) for number in range(RUNS))))


async def decide_until_all_ended(
    caller: Caller, human: Human, killing: asyncio.Task[None], starting: asyncio.Task[list[str]]
) -> None:
    """Have the human work for as long as there is anything to decide."""

    async def ended() -> bool:
        await human.work()
        return killing.done() and starting.done() and await caller.ended_runs() >= RUNS

    await eventually(ended, within=CHAOS, what="the end of all runs")


def assert_settled(output: str, case: str, ledger: Ledger) -> None:
    """Check that a run's answer repeats every result, and that the ledger has each effect of its case once."""
    effects = [effect for effect in ledger.effects() if effect.subject == case]
    assert sorted(effect.tool for effect in effects) == ["book", "charge", "refund"], effects
    receipt = {effect.tool: effect.receipt for effect in effects}
    read = [f"{field} of {case}" for field in FIELDS]
    expected = [*read, receipt["book"], f"limit of {case}", receipt["charge"], receipt["refund"]]
    assert output.split("; ") == expected


def assert_decided_once(records: Sequence[ApprovalRecord]) -> None:
    """Check that each question was asked once and one decision on it counted."""
    asked = Counter(record.approval_id for record in records if record.kind == "asked")
    decided = Counter(record.approval_id for record in records if record.kind == "approved")
    assert asked == decided
    assert set(asked.values()) == {1}


def report(cluster: Cluster, caller: Caller, human: Human) -> None:
    """Print what the chaos came to."""
    attempts = cluster.ledger.attempts()
    tries = Counter(attempt.key for attempt in attempts)
    print(
        f"processes ended: { {member.name: member.ends for member in cluster.members.values()} }; "
        f"calls cut off: {sum(not attempt.over for attempt in attempts)}, "
        f"made more than once: {sum(count > 1 for count in tries.values())}; "
        f"repeated starts: {caller.starts[False]}; decisions: {human.decisions}, {human.signals} of them by "
        f"signal; unknown outcomes: {dict(Counter(human.outcomes.values()))}"
    )


async def start(runs: Gateway, task: str) -> str:
    """Start a run of the clerk and return its id."""
    return (await runs.runs.start(NewRun(agent="clerk", input=task))).run_id


async def end(runs: Gateway, run_id: str) -> RunDetail:
    """Wait for a run's end and return the run."""
    detail = await runs.runs.result(run_id, timeout=SOON)
    assert detail is not None, f"{run_id} has not ended within {SOON}"
    return detail


def runs_at_work(cluster: Cluster, *, by: Member) -> set[str]:
    """Return the runs of which this process has begun a tool call."""
    pid = by.child.pid if by.child else None
    return {attempt.key.rpartition(":")[0] for attempt in cluster.ledger.attempts() if attempt.pid == pid}


@pytest.mark.timeout(180)
async def test_twenty_runs_cross_random_crashes(cluster: Cluster) -> None:
    """Whichever of worker, API and Temporal server is killed when: all runs finish, and each effect happens once."""
    seed = chosen_seed()
    print(f"{SEED_VARIABLE}={seed}")
    for name in ("worker-1", "worker-2"):
        cluster.add_worker(name)
    await cluster.add_api()
    client = await cluster.client()
    async with httpx2.AsyncClient(base_url=cluster.api_url, trust_env=False, timeout=10) as http:
        caller = Caller(http)
        human = Human(caller, client, cluster.ledger)

        async with asyncio.TaskGroup() as work:
            killing = work.create_task(carry_out(kill_schedule(seed), cluster))
            starting = work.create_task(start_all(caller, seed))
            work.create_task(decide_until_all_ended(caller, human, killing, starting))
        run_ids = starting.result()
        details = [await caller.run(run_id) for run_id in run_ids]

    report(cluster, caller, human)
    assert not all(attempt.over for attempt in cluster.ledger.attempts()), "no kill met a call"
    handles = [client.get_workflow_handle(run_id) for run_id in run_ids]
    transcripts = [await transcript(handle) for handle in handles]
    for number, (detail, messages) in enumerate(zip(details, transcripts, strict=True)):
        assert (detail.status, detail.error) == (RunStatus.COMPLETED, None)
        assert_settled(detail.output or "", f"case-{number:02}", cluster.ledger)
        assert_valid(messages)
    for handle in handles:
        assert_decided_once((await view(handle)).approvals)
    count = await client.count_workflows(f"WorkflowType = '{WORKFLOW_NAME}'")
    assert len(set(run_ids)) == count.count == RUNS
    assert {request["fault"] for request in await cluster.model_requests()} == {None}


async def test_a_lost_call_without_a_probe_stops_at_a_human(cluster: Cluster) -> None:
    """A `once` call killed in flight asks what became of it, and the run goes on with the human's answer."""
    worker = cluster.add_worker()
    runs = await gateway(cluster)
    run_id = await start(runs, "transfer case-1 25")
    await eventually(cluster.ledger.effects, within=SOON, what="the transfer")

    worker.kill()
    [asked] = await eventually(lambda: runs.approvals.pending(InboxFilter()), within=SOON, what="the question")
    done = DecisionRequest(decision="approve", decided_by="ann", outcome="done", result="transfer-found-by-ann")
    await runs.approvals.decide(run_id, asked.approval_id, done)
    ended = await end(runs, run_id)

    assert asked.kind == "outcome"
    assert "the outcome of transfer is unknown" in asked.reason
    assert (ended.status, ended.output) == (RunStatus.COMPLETED, "transfer-found-by-ann")
    assert len(cluster.ledger.attempts()) == len(cluster.ledger.effects()) == 1


async def test_a_stopping_worker_lets_a_long_call_finish(cluster: Cluster) -> None:
    """After SIGTERM a call that ends within the grace is completed by its worker, and never made again."""
    worker = cluster.add_worker()
    runs = await gateway(cluster)
    run_id = await start(runs, "transfer case-1 4")
    await eventually(cluster.ledger.effects, within=SOON, what="the transfer")

    assert worker.child is not None
    os.kill(worker.child.pid, signal.SIGTERM)
    await eventually(lambda: worker.ends, within=SOON, what="the worker's end")
    ended = await end(runs, run_id)

    assert worker.ends == [0]
    assert (ended.status, ended.output) == (RunStatus.COMPLETED, "transfer-1")
    assert [attempt.over for attempt in cluster.ledger.attempts()] == [True]
    assert len(cluster.ledger.effects()) == 1


async def test_a_call_that_outlasts_the_grace_is_made_again(cluster: Cluster) -> None:
    """A stopping worker cancels a repeatable call after its grace, and the run goes on elsewhere as if nothing was."""
    worker = cluster.add_worker(PERDURE_SHUTDOWN_GRACE_SECONDS="0.5")
    runs = await gateway(cluster)
    run_id = await start(runs, "ponder case-1 25")
    await eventually(cluster.ledger.attempts, within=SOON, what="the call")

    assert worker.child is not None
    os.kill(worker.child.pid, signal.SIGTERM)
    ended = await end(runs, run_id)

    assert worker.ends == [0]
    assert (ended.status, ended.output) == (RunStatus.COMPLETED, "thoughts on case-1")
    assert [attempt.over for attempt in cluster.ledger.attempts()] == [True, True]


async def test_a_stopping_worker_leaves_no_thread_behind_that_takes_effect_later(cluster: Cluster) -> None:
    """A worker ends soon after its grace, a plain function with it; a `once` call that ran in one is put to a human."""
    worker = cluster.add_worker(PERDURE_SHUTDOWN_GRACE_SECONDS="0.5")
    runs = await gateway(cluster)
    run_id = await start(runs, "charge_slowly case-1 28")
    await eventually(cluster.ledger.attempts, within=SOON, what="the call")

    assert worker.child is not None
    os.kill(worker.child.pid, signal.SIGTERM)
    await eventually(lambda: worker.ends, within=timedelta(seconds=20), what="the worker's end")
    [asked] = await eventually(lambda: runs.approvals.pending(InboxFilter()), within=SOON, what="the question")
    done = DecisionRequest(decision="approve", decided_by="ann", outcome="done", result="nothing was charged")
    await runs.approvals.decide(run_id, asked.approval_id, done)
    ended = await end(runs, run_id)

    assert worker.ends == [0]
    assert "still running" in asked.reason
    assert (ended.status, ended.output) == (RunStatus.COMPLETED, "nothing was charged")
    assert [attempt.over for attempt in cluster.ledger.attempts()] == [False]
    assert cluster.ledger.effects() == []


async def test_runs_of_a_killed_worker_go_on_after_its_restart(cluster: Cluster) -> None:
    """All runs in flight when the only worker is killed take their next step soon after it is back."""
    worker = cluster.add_worker()
    runs = await gateway(cluster)
    started = {await start(runs, f"read case-{number}") for number in range(8)}
    await eventually(lambda: runs_at_work(cluster, by=worker) == started, within=SOON, what="work in all runs")

    worker.kill()
    await eventually(lambda: cluster.log("worker").count("worker_started") == 2, within=SOON, what="the restart")
    restarted = time.monotonic()
    await eventually(lambda: runs_at_work(cluster, by=worker) == started, within=RECOVERY, what="work in all runs")
    print(f"all runs went on {time.monotonic() - restarted:.1f} s after the restart")
    ended = [await end(runs, run_id) for run_id in started]

    assert [run.status for run in ended] == [RunStatus.COMPLETED] * len(started)


async def test_a_model_stream_that_dies_with_its_worker_is_asked_for_again(cluster: Cluster) -> None:
    """A reply counts whole or not at all: the model is asked again, and the transcript has one reply."""
    worker = cluster.add_worker()
    runs = await gateway(cluster)
    run_id = await start(runs, "stream case-1")
    handle = (await cluster.client()).get_workflow_handle(run_id)

    async def streams() -> bool:
        description = await handle.describe()
        return any(call.heartbeat_details.payloads for call in description.raw_description.pending_activities)

    await eventually(streams, within=SOON, what="the first words of the reply")
    worker.kill()
    ended = await end(runs, run_id)
    messages = await transcript(handle)

    assert (ended.status, ended.output) == (RunStatus.COMPLETED, f"case-1: {STREAM_TEXT}")
    assert [isinstance(message, AssistantMessage) for message in messages] == [False, True]
    assert_valid(messages)
    assert [request["attempt"] for request in await cluster.model_requests()] == [0, 1]
