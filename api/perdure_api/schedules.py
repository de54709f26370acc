"""Schedules as the API sees them: each is one of Temporal's, and starts runs as the API would."""

from __future__ import annotations

import asyncio
import builtins
import re
from datetime import UTC, datetime
from typing import Final, get_args

import structlog
from temporalio.api.common.v1 import Payload
from temporalio.client import (
    Schedule as TemporalSchedule,
)
from temporalio.client import (
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleBackfill,
    ScheduleDescription,
    ScheduleHandle,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
    ScheduleUpdate,
    ScheduleUpdateInput,
    WorkflowExecution,
)
from temporalio.common import SearchAttributePair, TypedSearchAttributes

from perdure.contracts import RunError
from perdure.encryption import seal, unseal
from perdure.errors import ConflictError, DecryptionError, RunNotFoundError, ScheduleNotFoundError
from perdure.redaction import redacted
from perdure.schedule import (
    MEMO_REFUSED,
    SCHEDULED_NAME,
    Overlap,
    ScheduledStart,
    Timing,
    schedule_id,
    scheduled_id,
)
from perdure.search_attributes import AGENT, ORG, USER
from perdure_api import visibility
from perdure_api.authority import commissioned, speaker
from perdure_api.reach import Reach
from perdure_api.rpc import RPC_TIMEOUT, temporal_errors
from perdure_api.runs import Runs
from perdure_api.schedule_schemas import (
    BackfillRequest,
    NewSchedule,
    Schedule,
    ScheduleChange,
    ScheduledOutcome,
    ScheduleFilter,
    TriggerRequest,
)
from perdure_api.schemas import HoldRequest, NewRun
from perdure_workflows.scheduled_run import ScheduledRun

log = structlog.get_logger(__name__)

MAX_LISTED: Final = 100
AT_ONCE: Final = 8
SHOWN: Final = 10
"""Of the last runs, in one schedule; a list has the last one of each."""
_ID: Final = re.compile(r"schedule-[0-9a-f]{16}")


class Schedules:
    """The schedules that a principal may see."""

    def __init__(self, reach: Reach, runs: Runs) -> None:
        self._reach = reach
        self._runs = runs

    async def create(self, new: NewSchedule) -> Schedule:
        """Make a schedule, whose runs start as the caller.

        Raises:
            ConflictError: There is one of that name.
            PerdureError: The run could not be started now, as `Runs.start` says.
        """
        run = commissioned(self._reach.principal, new.run)
        await self._runs.check(run)
        now = datetime.now(UTC)
        start = ScheduledStart(
            schedule_id=schedule_id(new.name, org=run.org),
            name=new.name,
            principal=self._reach.principal,
            when=new.when,
            request=_kept(run),
            created_by=self._reach.principal.user,
            created_at=now,
        )
        schedule = TemporalSchedule(
            action=self._action(start),
            spec=_spec(new.when),
            policy=SchedulePolicy(
                overlap=_overlap(new.overlap), catchup_window=new.catch_up, pause_on_failure=new.pause_on_failure
            ),
            state=ScheduleState(paused=new.paused),
        )
        try:
            with temporal_errors():
                await self._reach.client.create_schedule(
                    start.schedule_id, schedule, search_attributes=_attributes(run), rpc_timeout=RPC_TIMEOUT
                )
        except ScheduleAlreadyRunningError as error:
            raise ConflictError(f"there is a schedule named {new.name!r} already; change it, or delete it") from error
        return await self.get(start.schedule_id)

    async def list(self, wanted: ScheduleFilter) -> builtins.list[Schedule]:
        """Return the schedules by name, at most 100, each with its last run."""
        query = visibility.schedule_query(wanted.agent, orgs=self._reach.orgs(wanted.org))
        found: list[str] = []
        with temporal_errors():
            rows = await self._reach.client.list_schedules(query or None, rpc_timeout=RPC_TIMEOUT)
            async for row in rows:
                if _ID.fullmatch(row.id) and len(found) < MAX_LISTED:
                    found.append(row.id)
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(key: str) -> Schedule | None:
            async with turn:
                try:
                    return await self._shown(key, outcomes=1)
                except (ScheduleNotFoundError, DecryptionError) as error:  # deleted meanwhile, or its key is gone
                    log.warning("schedule_unreadable", schedule_id=key, error=str(error))
                    return None

        listed = [schedule for schedule in await asyncio.gather(*map(one, found)) if schedule is not None]
        return sorted(listed, key=lambda schedule: (schedule.org or "", schedule.name))

    async def get(self, schedule: str) -> Schedule:
        """Return a schedule with its next times and its last runs.

        Raises:
            ScheduleNotFoundError: There is no such schedule; those of another organisation are none.
        """
        return await self._shown(schedule, outcomes=SHOWN)

    async def change(self, schedule: str, change: ScheduleChange) -> Schedule:
        """Change a schedule; what is changed of its run, it starts as the caller from now on.

        Raises:
            ScheduleNotFoundError: There is no such schedule.
            PerdureError: The new run could not be started now, as `Runs.start` says; or is of another organisation.
        """
        handle, description = await self._found(schedule)
        start = await _start_of(description)
        run = None if change.run is None else commissioned(self._reach.principal, change.run)
        if run is not None:
            await self._runs.check(run)
            if schedule_id(start.name, org=run.org) != start.schedule_id:
                raise ConflictError(f"schedule {start.name!r} starts runs of its own organisation; make another one")
            start = start.model_copy(update={"principal": self._reach.principal, "request": _kept(run)})
        start = start.model_copy(update={"when": change.when or start.when})

        def changed(seen: ScheduleUpdateInput) -> ScheduleUpdate:
            now = seen.description.schedule
            now.action = self._action(start)
            now.spec = _spec(start.when)
            if change.overlap is not None:
                now.policy.overlap = _overlap(change.overlap)
            if change.catch_up is not None:
                now.policy.catchup_window = change.catch_up
            if change.pause_on_failure is not None:
                now.policy.pause_on_failure = change.pause_on_failure
            return ScheduleUpdate(schedule=now, search_attributes=None if run is None else _attributes(run))

        with temporal_errors():
            await handle.update(changed, rpc_timeout=RPC_TIMEOUT)
        return await self.get(start.schedule_id)

    async def pause(self, schedule: str, request: HoldRequest) -> None:
        """Start nothing at the schedule's times until it is resumed; a run that goes on is left to it.

        Raises:
            ScheduleNotFoundError: There is no such schedule.
        """
        handle, _ = await self._found(schedule)
        note = await self._note("paused", request)
        with temporal_errors():
            await handle.pause(note=note, rpc_timeout=RPC_TIMEOUT)

    async def resume(self, schedule: str, request: HoldRequest) -> None:
        """Go on with the schedule's next time. Raises as `pause`."""
        handle, _ = await self._found(schedule)
        note = await self._note("resumed", request)
        with temporal_errors():
            await handle.unpause(note=note, rpc_timeout=RPC_TIMEOUT)

    async def trigger(self, schedule: str, request: TriggerRequest) -> None:
        """Start a run now, also while the schedule is paused. Raises as `pause`."""
        handle, _ = await self._found(schedule)
        overlap = None if request.overlap is None else _overlap(request.overlap)
        with temporal_errors():
            await handle.trigger(overlap=overlap, rpc_timeout=RPC_TIMEOUT)

    async def backfill(self, schedule: str, request: BackfillRequest) -> None:
        """Start the runs of times that have passed. Raises as `pause`."""
        handle, _ = await self._found(schedule)
        period = ScheduleBackfill(request.since, request.until, _overlap(request.overlap))
        with temporal_errors():
            await handle.backfill(period, rpc_timeout=RPC_TIMEOUT)

    async def delete(self, schedule: str) -> None:
        """Forget a schedule; runs that it has started are left to it. Raises as `pause`."""
        handle, _ = await self._found(schedule)
        with temporal_errors():
            await handle.delete(rpc_timeout=RPC_TIMEOUT)

    async def _shown(self, schedule: str, *, outcomes: int) -> Schedule:
        handle, description = await self._found(schedule)
        start = await _start_of(description)
        last = await self._outcomes(handle.id, limit=outcomes)
        now, info = description.schedule, description.info
        return await redacted(
            Schedule(
                schedule_id=start.schedule_id,
                name=start.name,
                agent=str(start.request.get("agent", "")),
                version=start.request.get("version"),
                org=start.request.get("org"),
                user=start.principal.user,
                when=start.when,
                overlap=_overlap_name(now.policy.overlap),
                catch_up=now.policy.catchup_window or NewSchedule.model_fields["catch_up"].default,
                pause_on_failure=now.policy.pause_on_failure,
                paused=now.state.paused,
                note=await unseal(now.state.note or "", self._reach.client.data_converter),
                run=start.request,
                created_by=start.created_by,
                created_at=start.created_at,
                next_at=() if now.state.paused else tuple(info.next_action_times[:5]),
                last=tuple(last),
                started=info.num_actions,
                skipped=info.num_actions_skipped_overlap,
                missed=info.num_actions_missed_catchup_window,
            ),
            self._reach.redactor,
        )

    async def _outcomes(self, key: str, *, limit: int) -> builtins.list[ScheduledOutcome]:
        query = visibility.outcome_query(key)
        rows = self._reach.client.list_workflows(query, page_size=50, limit=50, rpc_timeout=RPC_TIMEOUT)
        found: list[ScheduledOutcome] = []
        with temporal_errors():
            async for row in rows:
                if self._reach.executions.owns(row) and (outcome := await _outcome(row)) is not None:
                    found.append(outcome)
        return sorted(found, key=lambda outcome: outcome.at, reverse=True)[:limit]

    async def _found(self, schedule: str) -> tuple[ScheduleHandle, ScheduleDescription]:
        """Return a schedule by its id, or by its name in the caller's organisation."""
        key = schedule if _ID.fullmatch(schedule) else schedule_id(schedule, org=self._reach.principal.org)
        handle = self._reach.client.get_schedule_handle(key)
        try:
            with temporal_errors(run_id=key):
                description = await handle.describe(rpc_timeout=RPC_TIMEOUT)
        except RunNotFoundError as error:
            raise _unknown(schedule) from error
        org = self._reach.principal.org
        if not isinstance(description.schedule.action, ScheduleActionStartWorkflow) or (
            org is not None and description.typed_search_attributes.get(ORG) != org
        ):
            raise _unknown(schedule)
        return handle, description

    def _action(self, start: ScheduledStart) -> ScheduleActionStartWorkflow:
        return ScheduleActionStartWorkflow(
            ScheduledRun.run,
            start,
            id=scheduled_id(start.schedule_id),
            task_queue=self._reach.settings.task_queue,
            typed_search_attributes=_attributes(NewRun.model_validate(start.request)),
            static_summary=f"schedule {start.name}",
        )

    async def _note(self, what: str, request: HoldRequest) -> str:
        by = speaker(self._reach.principal, request.by, field="by") or "nobody named"
        why = f"{what} by {by}" + (f": {request.reason}" if request.reason else "")
        return await seal(why, self._reach.client.data_converter)


def _unknown(schedule: str) -> ScheduleNotFoundError:
    return ScheduleNotFoundError(f"there is no schedule {schedule!r}")


def _kept(run: NewRun) -> dict[str, object]:
    return run.model_dump(mode="json", exclude_unset=True)


def _attributes(run: NewRun) -> TypedSearchAttributes:
    named = {AGENT: run.agent, ORG: run.org, USER: run.user}
    return TypedSearchAttributes([SearchAttributePair(key, value) for key, value in named.items() if value])


def _spec(when: Timing) -> ScheduleSpec:
    return ScheduleSpec(
        cron_expressions=list(when.cron),
        intervals=[] if when.every is None else [ScheduleIntervalSpec(every=when.every, offset=when.offset)],
        start_at=when.starts_at,
        end_at=when.ends_at,
        jitter=when.jitter or None,
        time_zone_name=when.time_zone,
    )


def _overlap(name: Overlap) -> ScheduleOverlapPolicy:
    return ScheduleOverlapPolicy[name.upper()]


def _overlap_name(policy: ScheduleOverlapPolicy) -> Overlap:
    name: Overlap
    for name in get_args(Overlap):
        if _overlap(name) is policy:
            return name
    raise ValueError(f"Temporal has an overlap policy that we do not know: {policy!r}")


async def _start_of(description: ScheduleDescription) -> ScheduledStart:
    action = description.schedule.action
    payloads = action.args if isinstance(action, ScheduleActionStartWorkflow) else []
    given = [payload for payload in payloads if isinstance(payload, Payload)]
    [start] = await description.data_converter.decode(given, [ScheduledStart])
    if not isinstance(start, ScheduledStart):
        raise ScheduleNotFoundError(f"{description.id!r} is no schedule of runs")
    return start


async def _outcome(row: WorkflowExecution) -> ScheduledOutcome | None:
    if row.workflow_type != SCHEDULED_NAME:
        run = await visibility.summary(row)
        return ScheduledOutcome(run_id=row.id, at=run.started_at, status=run.status, cost_usd=run.cost_usd)
    try:
        error = await row.memo_value(MEMO_REFUSED, None, type_hint=RunError)
    except DecryptionError as lost:
        error = RunError(type="decryption", message=f"({lost})")
    # A run that failed fails this too, and is listed itself.
    if error is None:
        return None
    return ScheduledOutcome(run_id=None, at=row.start_time, status="refused", error=error)
