"""Which processes are killed when: drawn from a seed, so that a failure can be had again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from perdure.testing import eventually
from tests.children import alive
from tests.e2e.cluster import UP, Cluster, Member

SEED_VARIABLE = "CRASH_TEST_SEED"
TARGETS: tuple[tuple[str, ...], ...] = (
    ("worker-1",),
    ("worker-2",),
    ("worker-1",),
    ("worker-2",),
    ("api",),
    ("api",),
    ("temporal",),
    ("temporal",),
    ("worker-1", "worker-2"),
    ("worker-2", "temporal"),
    ("api", "temporal"),
)
"""What every schedule kills, in an order of its own."""
BETWEEN = (0.3, 1.5)
"""Seconds between two kills, from and to."""
INTO = (0.0, 1.0)
"""Seconds into a call, from and to."""
WORK = timedelta(seconds=3)
"""How long a kill waits for a call that it could interrupt."""
DOWN = (0.0, 1.5)
"""Seconds that a killed process stays down, from and to."""


@dataclass(frozen=True)
class Kill:
    """Processes that are killed together."""

    after: float
    """Seconds since the kill before, at least."""
    into: float
    """Seconds into a call that is being made, if there is one."""
    targets: tuple[str, ...]
    down: float
    """Seconds until they are started again."""


def chosen_seed() -> int:
    """Return the seed that the environment names, else a new one."""
    return int(os.environ.get(SEED_VARIABLE) or random.randrange(10**6))


def kill_schedule(seed: int) -> list[Kill]:
    """Draw a schedule: all targets, in random order, at random intervals."""
    source = random.Random(seed)
    order = source.sample(TARGETS, len(TARGETS))
    return [Kill(source.uniform(*BETWEEN), source.uniform(*INTO), targets, source.uniform(*DOWN)) for targets in order]


async def carry_out(schedule: Sequence[Kill], cluster: Cluster) -> None:
    """Kill as scheduled, with SIGKILL, once the processes are up and, if they are workers, have work in hand."""
    await eventually(cluster.ledger.attempts, within=UP, what="work")
    for kill in schedule:
        await asyncio.sleep(kill.after)
        await carry_out_one(kill, cluster)


async def carry_out_one(kill: Kill, cluster: Cluster) -> None:
    """Kill these processes together."""
    members = [cluster.members[name] for name in kill.targets]
    await eventually(lambda: all(member.up for member in members), within=UP, what="a restart")
    with contextlib.suppress(AssertionError):  # all calls may be waiting for a heartbeat to fail, or for a human
        await eventually(lambda: in_hand(cluster, members), within=WORK)
    await asyncio.sleep(kill.into)
    met = in_hand(cluster, members)
    for member in members:
        member.kill(down=kill.down)
    print(f"killed {' and '.join(kill.targets)} with {met} calls in hand, down for {kill.down:.1f} s")


def in_hand(cluster: Cluster, members: Sequence[Member]) -> int:
    """Return how many calls these members are making; for others than workers, how many are being made at all."""
    pids = {member.child.pid for member in members if member.child and member.name.startswith("worker")}
    calls = [attempt for attempt in cluster.ledger.attempts() if not attempt.over and alive(attempt.pid)]
    return sum(not pids or attempt.pid in pids for attempt in calls)
