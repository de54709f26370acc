"""The auditor: sweep after sweep, it looks which executions there are, reads what is new, and appends it to the chains.

Whatever ends is found by visibility, which may be late: each sweep looks back a while, and now and then a long while.
What goes on is asked for the length of its history, the less often the longer nothing has happened in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from perdure.audit.contracts import Anchors, Stretch
from perdure.audit.facts import Digest
from perdure.audit.projection import Projection
from perdure.audit.record import AuditEntry
from perdure.audit.store import AuditStore, Manifest
from perdure.errors import DecryptionError
from perdure.redaction import SECRETS, Redactor
from perdure_activities.audit.chains import Chains
from perdure_activities.audit.cursors import FILE, Cursors, Snapshot, read_snapshot
from perdure_activities.audit.executions import GONE, Executions, Followed, Row
from perdure_activities.audit.pace import Pace, together

log = structlog.get_logger(__name__)

REQUESTS_PER_SECOND: Final = 200
NEAR: Final = timedelta(minutes=1)
"""How far each sweep looks back, for executions that visibility tells late."""
FAR: Final = timedelta(hours=1)
"""How far it does once a minute, and when an auditor begins."""
FAR_EVERY: Final = timedelta(minutes=1)
SETTLING: Final = timedelta(seconds=3)
"""An execution that is younger is left alone: most end soon, and are read once, when they have."""
CHUNK: Final = 100
"""Executions whose entries are appended together."""
CONCURRENT: Final = 4
"""Histories that are read at once."""
LOOKS: Final = 200
"""Open executions that one sweep looks at, at most; those that wait for it longest come first."""
SNAPSHOT_EVERY: Final = timedelta(seconds=30)
AGAIN: Final = timedelta(minutes=1)
"""When an execution that could not be read is tried again."""
LATE: Final = timedelta(minutes=10)
"""Being so far behind is worth a warning."""


class Auditor:
    """One process's turn at the audit."""

    def __init__(
        self,
        client: Client,
        store: AuditStore,
        manifest: Manifest,
        *,
        anchors: Anchors,
        digest: Digest,
        execution: str,
        redactor: Redactor = SECRETS,
    ) -> None:
        """Begin a turn.

        Args:
            client: Of the namespace.
            store: Where the chains are.
            manifest: What the store is.
            anchors: The chains' ends as Temporal has them.
            digest: How digests of arguments are recorded.
            execution: The auditor's own, for records of what it finds amiss.
            redactor: For reasons and resources, which have lost their secrets already.
        """
        self._redactor = redactor
        self._executions = Executions(client, Pace(REQUESTS_PER_SECOND))
        self._store = store
        self._manifest = manifest
        self._anchors = anchors
        self._digest = digest
        self._execution = execution
        self._cursors = Cursors()
        self._chains = Chains(store, self._cursors, known={}, execution=execution)
        self._open: dict[str, Followed] = {}
        self._closed: dict[str, Followed] = {}
        self._done: dict[str, datetime] = {}
        self._lengths: dict[str, int] = {}
        self._listed_until: datetime | None = None
        self._started_until: datetime | None = None
        self._far_due = 0.0
        self._snapshot_due = time.monotonic() + SNAPSHOT_EVERY.total_seconds()
        self._file = ""
        self._records = 0
        self._read = 0

    async def begin(self) -> None:
        """Find out what is recorded already.

        Raises:
            AuditError: The store does not answer.
        """
        self._file = FILE.format(namespace=await self._executions.namespace_id())
        snapshot = read_snapshot(await self._store.load(self._file), store=self._manifest.id)
        self._cursors.restore(snapshot.cursors)
        self._lengths = dict(snapshot.lengths)
        self._done = dict(snapshot.done)
        self._listed_until = snapshot.watermark
        known = dict(snapshot.heads)
        if self._anchors.store == self._manifest.id:
            for org, anchor in self._anchors.heads.items():
                if org not in known or anchor.seq >= known[org].seq:
                    known[org] = anchor
        elif self._anchors.store:
            log.error("audit_store_replaced", store=self._manifest.id, anchored=self._anchors.store)
        self._chains = Chains(self._store, self._cursors, known=known, execution=self._execution)
        await self._chains.open(recorded=snapshot.heads)
        log.info("audit_begun", url=self._store.url, chains=len(known), watermark=str(snapshot.watermark))

    @property
    def stretch(self) -> Stretch:
        """What this turn has done so far."""
        return Stretch(
            anchors=Anchors(store=self._manifest.id, heads=dict(self._chains.moved)),
            records=self._records,
            executions=self._read,
            following=len(self._open),
            waiting=len(self._closed),
            behind_seconds=round(self._behind().total_seconds(), 1),
        )

    async def sweep(self) -> AsyncGenerator[Stretch]:
        """Look once for everything that is new, and append it.

        Yields:
            What has been done so far, each time that all of it is appended: a moment to stop at.

        Raises:
            AuditError: The store refuses.
            RPCError: Temporal does.
        """
        await self._list()
        while waiting := [one for one in self._closed.values() if one.due <= time.monotonic()][:CHUNK]:
            await self._each(waiting, self._finish)
            await self._flush()
            yield self.stretch
        looks = sorted((one for one in self._open.values() if one.due <= time.monotonic()), key=lambda one: one.due)
        for begin in range(0, len(looks[:LOOKS]), CHUNK):
            await self._each(looks[begin : begin + CHUNK], self._look)
            await self._flush()
            yield self.stretch
        await self._flush()
        if time.monotonic() >= self._snapshot_due:
            await self.save()
            self._warn()
        yield self.stretch

    async def save(self) -> None:
        """Append what waits, and keep how far everything is recorded, so that the next turn begins there."""
        await self._flush()
        self._snapshot_due = time.monotonic() + SNAPSHOT_EVERY.total_seconds()
        watermark = self._watermark()
        if watermark:
            self._cursors.forget(before=watermark - 2 * FAR, but=self._open.keys() | self._closed.keys())
            self._done = {one: at for one, at in self._done.items() if at >= watermark - 2 * FAR}
            self._cursors.drop(self._done)
        snapshot = Snapshot(
            store=self._manifest.id,
            watermark=watermark,
            heads=self._chains.heads,
            cursors=self._cursors.dump(),
            lengths={name: followed.length for name, followed in self._open.items()},
            done=self._done,
        )
        await self._store.save(self._file, snapshot.model_dump_json().encode())

    async def _list(self) -> None:
        far = time.monotonic() >= self._far_due
        if far:
            self._far_due = time.monotonic() + FAR_EVERY.total_seconds()
        back, now = FAR if far else NEAR, datetime.now(UTC)
        started = self._started_until - NEAR if self._started_until and not far else None
        # Open ones first: what ends meanwhile is in the second list, or in the next.
        for row in await self._executions.open(since=started):
            if row.execution_id not in self._done and row.execution_id not in self._closed:
                self._follow(row)
        for row in await self._executions.closed(since=self._listed_until - back if self._listed_until else None):
            if row.execution_id not in self._done and row.execution_id not in self._closed:
                self._close(row)
            if row.closed_at and (self._listed_until is None or row.closed_at > self._listed_until):
                self._listed_until = min(row.closed_at, now)  # some server's clock may be ahead
        self._started_until = now

    def _follow(self, row: Row) -> None:
        if row.execution_id in self._open:
            return
        followed = self._new(row)
        followed.skip = self._lengths.pop(row.execution_id, 0)
        young = SETTLING - (datetime.now(UTC) - row.started_at)
        followed.due = time.monotonic() + max(0.0, min(young, SETTLING).total_seconds())
        self._open[row.execution_id] = followed

    def _close(self, row: Row) -> None:
        followed = self._open.pop(row.execution_id, None) or self._new(row)
        followed.row, followed.due = row, time.monotonic()
        self._closed[row.execution_id] = followed

    def _new(self, row: Row) -> Followed:
        projection = Projection(
            row.workflow_type, run_id=row.run_id, execution_id=row.execution_id, digest=self._digest
        )
        return Followed(row, projection)

    async def _each(self, followed: Sequence[Followed], deed: Callable[[Followed], AsyncIterator[AuditEntry]]) -> None:
        """Do something with each of some executions, several at once; one that cannot be read holds up no other."""

        async def do(one: Followed) -> None:
            try:
                self._chains.add(await self._redacted([entry async for entry in deed(one)]))
            except RPCError as error:
                if error.status is not RPCStatusCode.INVALID_ARGUMENT or not one.token:
                    raise
                self._put_off(one, error)  # the server no longer knows where that is: read from the beginning
            except (
                DecryptionError,
                ValueError,
                TypeError,
                RuntimeError,
            ) as error:  # a key is missing, or a payload damaged
                self._put_off(one, error)

        await together([do(one) for one in followed], at_once=CONCURRENT)

    async def _redacted(self, entries: list[AuditEntry]) -> list[AuditEntry]:
        if self._redactor is SECRETS:
            return entries
        return await asyncio.to_thread(lambda: [_without_personal_data(entry, self._redactor) for entry in entries])

    def _put_off(self, followed: Followed, error: Exception) -> None:
        row = followed.row
        log.error("audit_unreadable", run_id=row.run_id, execution_id=row.execution_id, error=str(error))
        again = self._new(row)
        again.due = time.monotonic() + AGAIN.total_seconds()
        (self._closed if row.execution_id in self._closed else self._open)[row.execution_id] = again

    async def _finish(self, followed: Followed) -> AsyncIterator[AuditEntry]:
        """Read an execution that has ended to its end."""
        row = followed.row
        try:
            async for entry in self._executions.read(followed, length=None):
                yield entry
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            yield self._gone(followed)
        self._closed.pop(row.execution_id, None)
        self._open.pop(row.execution_id, None)
        self._done[row.execution_id] = row.closed_at or datetime.now(UTC)
        self._read += 1

    async def _look(self, followed: Followed) -> AsyncIterator[AuditEntry]:
        """Read what an open execution has to tell that is new."""
        described = await self._executions.describe(followed.row)
        if described is None:
            self._open.pop(followed.row.execution_id, None)
            self._done[followed.row.execution_id] = datetime.now(UTC)
            yield self._gone(followed)
            return
        followed.row, length = described
        if followed.row.closed_at:
            async for entry in self._finish(followed):
                yield entry
            return
        moved = length > followed.length
        if moved:
            async for entry in self._executions.read(followed, length=length):
                yield entry
        followed.wait(moved=moved, now=datetime.now(UTC))

    def _gone(self, followed: Followed) -> AuditEntry:
        """Return the fact that a history was deleted before it was read to its end."""
        row = followed.row
        log.error("audit_history_deleted", run_id=row.run_id, execution_id=row.execution_id)
        return AuditEntry(
            at=datetime.now(UTC),
            org=followed.projection.org,
            kind="audit.history_deleted",
            run_id=row.run_id,
            execution_id=row.execution_id,
            source=f"{row.execution_id}/{GONE}",
            outcome="lost",
            reason="the history was deleted, or its retention was over, before it was read to its end",
        )

    async def _flush(self) -> None:
        self._records += await self._chains.flush()

    def _watermark(self) -> datetime | None:
        """Return until when everything that ended is recorded, late news of visibility excepted."""
        ends = [one.row.closed_at for one in self._closed.values() if one.row.closed_at]
        return min([*ends, *([self._listed_until] if self._listed_until else [])], default=None)

    def _behind(self) -> timedelta:
        ends = [one.row.closed_at for one in self._closed.values() if one.row.closed_at]
        ended = datetime.now(UTC) - min(ends) if ends else timedelta(0)
        due = min((one.due for one in self._open.values()), default=time.monotonic())
        return max(ended, timedelta(seconds=time.monotonic() - due), timedelta(0))

    def _warn(self) -> None:
        behind = self._behind()
        if behind > LATE:
            log.warning("audit_behind", seconds=round(behind.total_seconds()), waiting=len(self._closed))


def _without_personal_data(entry: AuditEntry, redactor: Redactor) -> AuditEntry:
    texts = {"reason": redactor.redact(entry.reason), "resource": redactor.redact(entry.resource)}
    return entry.model_copy(update=texts)
