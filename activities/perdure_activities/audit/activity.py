"""The activity `audit`: an auditor's turn, for as long as the worker and its workflow let it."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import timedelta
from typing import Final

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from perdure.audit.contracts import Anchors, AuditorState, Stretch
from perdure.audit.facts import keyed
from perdure.audit.opening import open_store
from perdure.personal_data import load_redactor
from perdure.settings import Settings
from perdure_activities.audit.auditor import Auditor
from perdure_activities.heartbeat import Pulse, heartbeats

log = structlog.get_logger(__name__)

TURN: Final = timedelta(hours=1)
"""After so long the activity returns, and the ends of the chains are kept in the workflow's memo."""


class AuditActivities:
    """The activity of one worker process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @activity.defn
    async def audit(self, state: AuditorState) -> Stretch:
        """Append to the chains what histories tell, until a while is over, the worker stops or somebody asks to stop.

        It may run twice at once, as after a worker was thought dead; see `perdure_activities.audit.chains`.
        """
        store = open_store(self._settings)
        if store is None:
            raise ApplicationError("this worker has no PERDURE_AUDIT_URL; another one may", type="AuditNotConfigured")
        key = self._settings.audit_key
        info = activity.info()
        auditor = Auditor(
            activity.client(),
            store,
            await store.prepare(),
            anchors=_latest(state.anchors, info),
            digest=keyed(key.get_secret_value().encode() if key else None),
            execution=info.workflow_run_id or "",
            redactor=load_redactor(self._settings),
        )
        with heartbeats() as pulse:
            stop = asyncio.create_task(self._stop())
            turn = asyncio.create_task(self._take(auditor, stop, pulse))
            try:
                await asyncio.wait({turn})
            except asyncio.CancelledError:
                # The workflow wants to continue as new, or the worker's grace is over. What is under way comes to its
                # end, as whoever is cut off cannot tell what was appended; and to return ends the turn as well.
                stop.cancel()
                await asyncio.wait({turn})
            finally:
                stop.cancel()
                turn.cancel()
            return await turn

    async def _take(self, auditor: Auditor, stop: asyncio.Task[None], pulse: Pulse) -> Stretch:
        await auditor.begin()
        while not stop.done():
            async with contextlib.aclosing(auditor.sweep()) as sweep:
                async for stretch in sweep:
                    pulse.note(stretch.short())
                    if stop.done():
                        break
            await asyncio.wait({stop}, timeout=self._settings.audit_interval_seconds)
        await auditor.save()
        return auditor.stretch

    async def _stop(self) -> None:
        """Return when the turn is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TURN.total_seconds()):
                await activity.wait_for_worker_shutdown()


def _latest(anchors: Anchors, info: activity.Info) -> Anchors:
    """Add what an attempt before this one told of the chains, whose worker has died."""
    for details in info.heartbeat_details:
        anchors = anchors.moved(Stretch.model_validate(details).anchors)
    return anchors
