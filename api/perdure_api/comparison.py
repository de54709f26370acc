"""An agent's versions side by side: how their latest runs went, what they cost, and what people and scorers thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from perdure.contracts import RunStatus
from perdure.feedback import SCORER_PREFIX, feedback_id
from perdure.search_attributes import ORIGIN, SCORE
from perdure_api import visibility
from perdure_api.comparison_schemas import ComparisonFilter, Scores, VersionComparison, VersionRecord
from perdure_api.health import AHEAD, check_known
from perdure_api.proportion import wilson
from perdure_api.reach import Reach
from perdure_api.rollout_schemas import RolloutFilter
from perdure_api.rollouts import Rollouts
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.run_statistics import RunStatistics, Sample, ended_runs, statistics
from perdure_api.schemas import RunFilter

MAX_OPINIONS: Final = 1000
"""Scores of a version that count, the latest."""


@dataclass(frozen=True)
class _Opinions:
    people: Scores | None
    scorers: dict[str, Scores]


class Comparisons:
    """Versions of agents, by the runs that a principal may see."""

    def __init__(self, reach: Reach, rollouts: Rollouts) -> None:
        self._reach = reach
        self._rollouts = rollouts

    async def of(self, agent: str, wanted: ComparisonFilter) -> VersionComparison:
        """Return how an agent's versions did within a window.

        Raises:
            UnknownAgentError: The app has no such agent, and there never was a run of it.
        """
        until = datetime.now(UTC)
        since = until - wanted.window
        samples = await self._samples(RunFilter(agent=agent, org=wanted.org), since=since, until=until)
        if not samples:
            await check_known(self._reach, agent)
        registered = self._reach.app.versions(agent)
        shares = await self._shares(agent, wanted)
        records = [
            _record(
                version,
                samples[version],
                await self._opinions(agent, version, wanted, since=since),
                registered=version in registered,
                share=shares.get(version, 0),
            )
            for version in dict.fromkeys((*sorted(samples.keys() - {*registered}), *registered))
        ]
        return VersionComparison(
            agent=agent, since=since, until=until, versions=tuple(records), verdict=verdict(records)
        )

    async def _samples(self, runs: RunFilter, *, since: datetime, until: datetime) -> dict[str, Sample]:
        """Return the runs of each version that ended: as many of a rare one as may be, not what others leave."""
        latest = await ended_runs(self._reach, runs, since=since, until=until + AHEAD, results=0)
        versions = dict.fromkeys((*(run.version for run in latest.runs), *self._reach.app.versions(runs.agent or "")))
        return {
            version: await ended_runs(
                self._reach, runs.model_copy(update={"version": version}), since=since, until=until + AHEAD
            )
            for version in versions
        }

    async def _shares(self, agent: str, wanted: ComparisonFilter) -> dict[str, float]:
        if not self._reach.app.versions(agent):
            return {}
        # Asked for another organisation's runs there are none; its rollout is not told either.
        own = self._reach.principal.org
        return (await self._rollouts.of(agent, RolloutFilter(org=own or wanted.org))).shares

    async def _opinions(self, agent: str, version: str, wanted: ComparisonFilter, *, since: datetime) -> _Opinions:
        query = visibility.opinion_query(agent, version, orgs=self._reach.orgs(wanted.org), since=since)
        rows = self._reach.client.list_workflows(
            query, page_size=MAX_OPINIONS, limit=MAX_OPINIONS, rpc_timeout=RPC_TIMEOUT
        )
        given: dict[str | None, list[float]] = {}
        with temporal_errors():
            async for row in rows:
                attributes = row.typed_search_attributes
                score = attributes.get(SCORE)
                if score is not None and self._reach.executions.owns(row):
                    by = row.id.removeprefix(feedback_id(attributes.get(ORIGIN) or "", ""))
                    scorer = by.removeprefix(SCORER_PREFIX) if by.startswith(SCORER_PREFIX) else None
                    given.setdefault(scorer, []).append(score)
        people = given.pop(None, [])
        return _Opinions(
            people=_scores(people) if people else None,
            scorers={name: _scores(given[name]) for name in sorted(name for name in given if name is not None)},
        )


def verdict(records: Sequence[VersionRecord]) -> str:
    """Say whether some version succeeds more often than others by more than chance: if their intervals are apart."""
    judged = [record for record in records if record.success is not None]
    if len(judged) < 2:
        return "There are no runs of two versions to compare."
    best = max(judged, key=lambda record: record.success.low if record.success else 0)
    beaten = [
        record.version
        for record in judged
        if best.success is not None and record.success is not None and best.success.is_above(record.success)
    ]
    if not beaten:
        return "No version succeeds more often than another by more than chance may do: their 95 % intervals overlap."
    others = " and ".join(beaten)
    return f"{best.version} succeeds more often than {others}, by more than chance: their 95 % intervals are apart."


def _record(version: str, sample: Sample, opinions: _Opinions, *, registered: bool, share: float) -> VersionRecord:
    told = statistics(sample.runs)
    succeeded = told.statuses.get(RunStatus.COMPLETED, 0)
    return VersionRecord(
        version=version,
        registered=registered,
        share=share,
        ended=sample.ended,
        statistics=told,
        success=wilson(succeeded, told.judged) if told.judged else None,
        cost_mean_usd=_cost_mean(told),
        feedback=opinions.people,
        scorers=opinions.scorers,
    )


def _cost_mean(told: RunStatistics) -> Decimal | None:
    priced = told.runs - told.unpriced_runs
    return round(told.cost_usd / priced, 6) if priced else None


def _scores(scores: Sequence[float]) -> Scores:
    return Scores(count=len(scores), mean=round(sum(scores) / len(scores), 4))
