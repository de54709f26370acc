"""Statistics of runs that have ended, from visibility's rows and the runs' own results. No table of ours holds any."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from math import ceil
from typing import Final

import structlog
from pydantic import Field
from temporalio.client import WorkflowExecution

from perdure.contracts import RunStatus
from perdure.errors import PerdureError
from perdure_api import visibility
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.schemas import Answer, RunFilter

log = structlog.get_logger(__name__)

MAX_ROWS: Final = 1000
"""Runs that statistics are made of, the latest to end; a row is a kilobyte, and a thousand come with one request."""
MAX_RESULTS: Final = 200
"""Runs whose results are read, one request each, for what rows do not say: how many calls of tools failed."""
READ_AT_ONCE: Final = 16
NOT_JUDGED: Final = frozenset({RunStatus.CANCELLED, RunStatus.TERMINATED})
"""Ends that somebody outside decided on: they say nothing of how well an agent works."""


@dataclass(frozen=True)
class EndedRun:
    """What statistics take from a run."""

    run_id: str
    version: str
    status: RunStatus
    duration: timedelta
    """From its start to its end, with the time in which it waited for people."""
    cost_usd: Decimal | None
    """None: nobody has a price for some of it."""
    tool_calls: int | None = None
    """None: its result was not read."""
    tool_errors: int | None = None


@dataclass(frozen=True)
class Sample:
    """Runs that ended within a time, the latest first."""

    runs: Sequence[EndedRun]
    ended: int
    """How many ended in all, by visibility's own count."""

    @property
    def truncated(self) -> bool:
        """Whether more ended than are here."""
        return self.ended > len(self.runs)


class RunStatistics(Answer):
    """How runs went that ended."""

    runs: int = 0
    """Those that the numbers below are made of."""
    statuses: dict[RunStatus, int] = Field(default_factory=dict)
    judged: int = 0
    """Those of them that were not cancelled or terminated, which somebody else decided on."""
    success_rate: float | None = None
    """Completed ones among the judged, from 0 to 1; None without any."""
    duration_p50_seconds: float | None = None
    """From start to end, waiting for people included; of runs that were not cancelled or terminated."""
    duration_p95_seconds: float | None = None
    results_read: int = 0
    """Runs that the calls of tools are counted in."""
    tool_calls: int = 0
    tool_errors: int = 0
    """Calls that were made and failed."""
    tool_failure_rate: float | None = None
    """From 0 to 1; None without calls."""
    cost_usd: Decimal = Decimal(0)
    """Of runs with a known cost."""
    unpriced_runs: int = 0
    """Runs whose cost nobody knows; while this is not 0, the cost is a lower bound."""


async def ended_runs(
    reach: Reach, wanted: RunFilter, *, since: datetime, until: datetime, results: int = MAX_RESULTS
) -> Sample:
    """Return the runs that pass a filter and ended within a time.

    Args:
        reach: Whose runs there are.
        wanted: Which of them; its status is not looked at.
        since: The beginning of the time.
        until: Its end.
        results: For so many of them, the latest, calls of tools are counted.

    Raises:
        ServerUnreachableError: Temporal does not answer.
    """
    query = visibility.ended_query(wanted, orgs=reach.orgs(wanted.org), since=since, until=until)
    with temporal_errors():
        count = (await reach.client.count_workflows(query, rpc_timeout=RPC_TIMEOUT)).count
        rows = reach.client.list_workflows(query, page_size=MAX_ROWS, limit=MAX_ROWS, rpc_timeout=RPC_TIMEOUT)
        # The query asks for the organisation, but some databases compare texts as if a and A were the same.
        owned = [row async for row in rows if reach.executions.owns(row)]
    turn = asyncio.Semaphore(READ_AT_ONCE)

    async def ended_run(place: int, row: WorkflowExecution) -> EndedRun:
        async with turn:
            return await _ended_run(reach, row, with_result=place < results)

    found = await asyncio.gather(*(ended_run(place, row) for place, row in enumerate(owned)))
    # What is listed and what is counted are two requests, between which runs may end.
    return Sample(runs=found, ended=max(count, len(found)))


def statistics(runs: Iterable[EndedRun]) -> RunStatistics:
    """Return how runs went."""
    runs = list(runs)
    judged = [run for run in runs if run.status not in NOT_JUDGED]
    durations = sorted(run.duration.total_seconds() for run in judged)
    read = [(run.tool_calls or 0, run.tool_errors or 0) for run in runs if run.tool_calls is not None]
    calls, errors = sum(made for made, _ in read), sum(failed for _, failed in read)
    statuses: dict[RunStatus, int] = {}
    for run in runs:
        statuses[run.status] = statuses.get(run.status, 0) + 1
    return RunStatistics(
        runs=len(runs),
        statuses=statuses,
        judged=len(judged),
        success_rate=_share(statuses.get(RunStatus.COMPLETED, 0), len(judged)),
        duration_p50_seconds=_percentile(durations, 50),
        duration_p95_seconds=_percentile(durations, 95),
        results_read=len(read),
        tool_calls=calls,
        tool_errors=errors,
        tool_failure_rate=_share(errors, calls),
        cost_usd=sum((run.cost_usd for run in runs if run.cost_usd is not None), Decimal(0)),
        unpriced_runs=sum(run.cost_usd is None for run in runs),
    )


def by_version(runs: Iterable[EndedRun]) -> dict[str, RunStatistics]:
    """Return how the runs of each version went."""
    versions: dict[str, list[EndedRun]] = {}
    for run in runs:
        versions.setdefault(run.version, []).append(run)
    return {version: statistics(versions[version]) for version in sorted(versions)}


async def _ended_run(reach: Reach, row: WorkflowExecution, *, with_result: bool) -> EndedRun:
    summary = await visibility.summary(row)
    calls = errors = None
    if with_result:
        try:
            totals = (await reach.executions.end(row)).totals
            calls, errors = totals.tool_calls, totals.tool_errors
        except PerdureError as error:  # its history is deleted already, or its key is gone
            log.debug("result_unreadable", run_id=row.id, error=str(error))
    return EndedRun(
        run_id=summary.run_id,
        version=summary.version,
        status=summary.status,
        duration=(summary.ended_at or summary.started_at) - summary.started_at,
        cost_usd=summary.cost_usd,
        tool_calls=calls,
        tool_errors=errors,
    )


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    # The nearest rank: a duration that a run had, also where there are few.
    return round(ordered[max(0, ceil(len(ordered) * percent / 100) - 1)], 3) if ordered else None
