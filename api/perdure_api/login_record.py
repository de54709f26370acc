"""Failed logins for the audit: kept by Temporal before the caller hears that it failed.

They are a signal to the auditor, which starts it if need be and reaches it while no worker runs. While one signal is
on its way, and for a moment after it, failures gather for the next. So a flood makes four signals a second and no more,
and costs whoever makes it a quarter of a second each.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog
from temporalio.client import Client
from temporalio.common import WorkflowIDConflictPolicy
from temporalio.service import RPCError

from perdure.audit.contracts import AUDITOR_ID, AuditorState
from perdure.audit.login import LOGIN_FAILED, FailedLoginBatch, FailedLogins
from perdure.audit.words import name
from perdure_api.logins import LoggedLoginFailures, LoginFailure
from perdure_workflows.auditor import Auditor

log = structlog.get_logger(__name__)

GATHER: Final = timedelta(milliseconds=250)
"""Between two signals, at least."""
TIMEOUT: Final = timedelta(seconds=3)
"""A caller is not kept waiting for longer, however Temporal is."""
MAX_KINDS: Final = 100
"""Failures that one signal tells apart; what comes on top is counted together."""
MORE: Final = FailedLogins(reason="more")


@dataclass
class _Batch:
    """Failures that go together."""

    kinds: Counter[FailedLogins] = field(default_factory=Counter)
    sent: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, kind: FailedLogins) -> None:
        """Count a failure."""
        self.kinds[kind if kind in self.kinds or len(self.kinds) < MAX_KINDS else MORE] += 1

    @property
    def payload(self) -> FailedLoginBatch:
        """What the signal carries."""
        return FailedLoginBatch(
            failures=tuple(kind.model_copy(update={"count": count}) for kind, count in self.kinds.items())
        )


class RecordedLoginFailures:
    """Has Temporal keep failed logins, beside the log."""

    def __init__(self, client: Client, *, task_queue: str) -> None:
        """Take the connection.

        Args:
            client: With Perdure's data converter.
            task_queue: Where workers run the auditor, if it must be started.
        """
        self._client = client
        self._task_queue = task_queue
        self._log = LoggedLoginFailures()
        self._waiting = _Batch()
        self._sending: asyncio.Task[None] | None = None
        self._next = 0.0

    async def record(self, failure: LoginFailure) -> None:
        """Take note; the caller's 401 waits for it, and goes out whatever comes of it."""
        await self._log.record(failure)
        batch = self._waiting
        batch.add(
            FailedLogins(
                reason=failure.reason,
                credential=name(failure.credential),
                address=name(failure.address),
                org=failure.org,
            )
        )
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send())
        await batch.sent.wait()

    async def _send(self) -> None:
        """Send batch after batch, as long as there are failures."""
        while self._waiting.kinds:
            await asyncio.sleep(max(0.0, self._next - time.monotonic()))
            batch, self._waiting = self._waiting, _Batch()
            try:
                await self._signal(batch)
            finally:
                self._next = time.monotonic() + GATHER.total_seconds()
                batch.sent.set()

    async def _signal(self, batch: _Batch) -> None:
        try:
            async with asyncio.timeout(TIMEOUT.total_seconds()):
                await self._client.start_workflow(
                    Auditor.run,
                    AuditorState(),
                    id=AUDITOR_ID,
                    task_queue=self._task_queue,
                    id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
                    start_signal=LOGIN_FAILED,
                    start_signal_args=[batch.payload],
                    rpc_timeout=TIMEOUT,
                )
        except (RPCError, RuntimeError, TimeoutError) as error:
            # Nobody may log in while Temporal is away, so what is lost is who tried in vain; the log has it.
            log.error("login_failures_not_recorded", count=batch.kinds.total(), error=str(error))
