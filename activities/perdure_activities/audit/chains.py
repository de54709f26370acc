"""The ends of all chains, as this process knows them, and how entries are put behind them.

Two processes may do this at once: one that was thought dead, and its successor. The store lets only one of them have a
place. The other then reads what it was that came in between, and goes on behind it with what is left.

What a writer knows of a chain counts more than what it finds. If the store has less than there was, the next record
still follows on the last one known: the chain is not mended by writing over what is missing, which stays to be seen.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import structlog

from perdure.audit.contracts import Anchor
from perdure.audit.reading import records_after
from perdure.audit.record import AuditEntry, AuditRecord, Head, head_of, seal
from perdure.audit.store import AuditStore, further
from perdure.errors import AuditError, ChainMovedError
from perdure_activities.audit.cursors import Cursors
from perdure_activities.audit.pace import together

log = structlog.get_logger(__name__)

BATCH: Final = 1000
"""Records that are appended at once."""
ATTEMPTS: Final = 20
"""How often another writer may be quicker before this one gives up, and Temporal tries again."""
CONCURRENT: Final = 8
"""Chains that are appended to at once."""


@dataclass
class _Chain:
    """One chain's end."""

    head: Head
    """What the next record follows on."""
    tail: Head
    """Where the chain ends in the store; behind the head only if records are missing."""


class Chains:
    """The chains of one store."""

    def __init__(self, store: AuditStore, cursors: Cursors, *, known: Mapping[str, Anchor], execution: str) -> None:
        """Begin to write.

        Args:
            store: Where the chains are.
            cursors: Told of each record, whoever wrote it.
            known: Where chains ended when somebody last noted it, in the store's cursors or in Temporal.
            execution: Of the auditor, for records of what it finds amiss.
        """
        self._store = store
        self._cursors = cursors
        self._known = dict(known)
        self._execution = execution
        self._chains: dict[str, _Chain] = {}
        self._pending: dict[str, list[AuditEntry]] = {}
        self.moved: dict[str, Anchor] = {}
        """The ends of chains that grew since this was last emptied."""

    @property
    def pending(self) -> int:
        """How many entries wait to be appended."""
        return sum(len(entries) for entries in self._pending.values())

    @property
    def heads(self) -> dict[str, Anchor]:
        """The ends of all chains that are known."""
        ends = {org: Anchor(seq=chain.head.seq, hash=chain.head.hash) for org, chain in self._chains.items()}
        return {**self._known, **ends}

    async def open(self, *, recorded: Mapping[str, Anchor]) -> None:
        """Find the ends of all chains, and have the cursors know what is in them.

        Args:
            recorded: The ends that the cursors already take account of.
        """
        orgs = {*await self._store.chains(), *self._known}
        await together([self._open(org, recorded.get(org)) for org in sorted(orgs)], at_once=CONCURRENT)

    def add(self, entries: Iterable[AuditEntry]) -> None:
        """Have entries appended with the next flush, unless they are recorded."""
        for entry in entries:
            if not self._cursors.has(entry):
                self._pending.setdefault(entry.org, []).append(entry)

    async def flush(self) -> int:
        """Append what waits, and return how many records that were."""
        waiting, self._pending = self._pending, {}

        async def append(org: str, entries: list[AuditEntry]) -> int:
            return sum([await self._append(org, entries[at : at + BATCH]) for at in range(0, len(entries), BATCH)])

        appending = [append(org, entries) for org, entries in waiting.items()]
        return sum(await together(appending, at_once=CONCURRENT))

    async def _append(self, org: str, entries: list[AuditEntry]) -> int:
        if org not in self._chains:
            await self._open(org, None)
        chain = self._chains[org]
        for _ in range(ATTEMPTS):
            entries = [entry for entry in entries if not self._cursors.has(entry)]
            if not entries:
                return 0
            now, head, lines = datetime.now(UTC), chain.head, []
            for entry in entries:
                line, head = seal(entry, after=head, now=now)
                lines.append(line)
            try:
                await self._store.append(org, lines, tail=chain.tail, head=head)
            except ChainMovedError:
                await self._catch_up(org, chain)
                continue
            chain.head = chain.tail = head
            self._moved(org, chain)
            for entry in entries:
                self._cursors.note(entry, recorded_at=now)
            return len(entries)
        raise AuditError(f"{ATTEMPTS} times in a row, another writer was quicker to append to the chain of {org!r}")

    async def _open(self, org: str, recorded: Anchor | None) -> None:
        known, tail = self._known.get(org), await self._store.tail(org)
        chain = self._chains[org] = _Chain(head=tail, tail=tail)
        if known and known.seq > tail.seq:
            log.error("audit_chain_truncated", org=org, last=tail.seq, expected=known.seq)
            chain.head = Head(seq=known.seq, hash=known.hash)
        begin = recorded.seq if recorded else 0
        if known:
            begin = min(begin, max(0, known.seq - 1))  # one record back, to see whether it is still the same
        async for record in records_after(self._store, org, begin):
            self._take_note(record, chain, known)
        self._moved(org, chain)

    async def _catch_up(self, org: str, chain: _Chain) -> None:
        """Take note of what another writer has appended."""
        tail = await self._store.tail(org)
        if tail.seq < chain.tail.seq:
            log.error("audit_chain_truncated", org=org, last=tail.seq, expected=chain.head.seq)
            chain.tail = tail
            return
        known = Anchor(seq=chain.head.seq, hash=chain.head.hash)
        before, chain.tail = chain.tail.seq, tail
        async for record in records_after(self._store, org, max(0, before - 1)):
            self._take_note(record, chain, known)
            chain.tail = further(chain.tail, head_of(record))
            chain.head = further(chain.head, head_of(record))

    def _take_note(self, record: AuditRecord, chain: _Chain, known: Anchor | None) -> None:
        self._cursors.note(record, recorded_at=record.recorded_at)
        if known and record.seq == known.seq and record.hash != known.hash:
            log.error("audit_chain_rewritten", org=record.org, record=record.seq)
            self._pending.setdefault(record.org, []).append(self._damage(record, known))
        if chain.head.seq == record.seq and chain.head.recorded_at is None:
            chain.head = head_of(record)

    def _damage(self, record: AuditRecord, known: Anchor) -> AuditEntry:
        """Return the fact that the chain is not the one whose end was noted, for which the new one then stands."""
        return AuditEntry(
            at=datetime.now(UTC),
            org=record.org,
            kind="audit.rewritten",
            run_id="",
            execution_id=self._execution,
            source=f"{self._execution}/rewritten-{uuid.uuid4().hex}",
            outcome="rewritten",
            reason=f"record {record.seq} had the hash {known.hash} when it was the end of the chain",
            details={"seq": record.seq},
        )

    def _moved(self, org: str, chain: _Chain) -> None:
        if chain.head.seq:
            self.moved.pop(org, None)  # so that those which grew last come last
            self.moved[org] = Anchor(seq=chain.head.seq, hash=chain.head.hash)
