"""Reading chains: whole, to verify them, and the records of a stretch of time."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

from perdure.audit.contracts import Anchor
from perdure.audit.record import AuditRecord, read_line
from perdure.audit.store import AuditStore, Segment
from perdure.audit.verification import Fault, Problem, Verifier, lines_of
from perdure.messages import Frozen

AHEAD: Final = 8
"""Segments that are being read while one is looked through."""
CLOCKS: Final = timedelta(hours=1)
"""How far the clock of whoever recorded a fact may have been behind the clock that dated the fact."""


class AuditFilter(Frozen):
    """Which records are wanted; what is left out matches everything."""

    since: datetime | None = None
    """By `at`, the time of the fact; this moment included."""
    until: datetime | None = None
    """This moment not included."""
    kind: str | None = None
    """A kind, as in `tool.called`, or the part before its point, as in `tool`."""
    run_id: str | None = None

    def wants(self, record: AuditRecord) -> bool:
        """Whether the record is one of them."""
        return (
            (self.since is None or record.at >= self.since)
            and (self.until is None or record.at < self.until)
            and (self.kind is None or self.kind in (record.kind, record.kind.partition(".")[0]))
            and (self.run_id is None or record.run_id == self.run_id)
        )


class ChainReport(Frozen):
    """What was found of one chain."""

    org: str
    records: int
    """The number of its last record."""
    hash: str = ""
    """Of its last record, as far as the chain is sound there."""
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    """What is no fault, but worth knowing."""

    @property
    def sound(self) -> bool:
        """Whether it is as it was written."""
        return not self.problems


async def verify_chain(
    store: AuditStore, org: str, *, anchor: Anchor | None = None, progress: Callable[[int], None] = lambda _: None
) -> ChainReport:
    """Read a whole chain and say whether it is as it was written.

    Args:
        store: Where it is.
        org: Whose it is.
        anchor: The chain's end as Temporal had it, read before this is called.
        progress: Called with the number of records that were just read.

    Raises:
        AuditError: The store does not answer.
    """
    head = await store.head(org)  # before the lines, as it lags behind them
    marks: dict[int, str] = {}
    problems: list[Problem] = []
    for mark in (head, anchor):
        if mark is None or not mark.seq:
            continue
        if marks.setdefault(mark.seq, mark.hash) != mark.hash:
            detail = "the store's head and Temporal's anchor tell different hashes of it"
            problems.append(Problem(fault=Fault.FORGED, seq=mark.seq, last=mark.seq, detail=detail))
    verifier = Verifier.of(org, marks)
    notes: list[str] = [] if head else ["it has no head beside it"]
    segments = await store.segments(org)
    async for segment, content in _contents(store, segments):
        last = segment == segments[-1]
        whole = content[: content.rfind(b"\n") + 1] if last else content
        if len(whole) < len(content):
            notes.append(f"the last line was cut off while it was written ({len(content) - len(whole)} bytes)")
        before = verifier.lines
        for number, line in enumerate(lines_of(whole), 1):
            verifier.feed(line, segment=segment.path, number=number)
        progress(verifier.lines - before)
    problems = [*problems, *verifier.end()]
    return ChainReport(
        org=org, records=verifier.records, hash=verifier.hash or "", problems=tuple(problems), notes=tuple(notes)
    )


async def search(store: AuditStore, org: str, wanted: AuditFilter, *, after: int = 0) -> AsyncIterator[AuditRecord]:
    """Iterate over the records of a chain that are wanted, in order; lines that are no records are passed over.

    Args:
        store: Where the chain is.
        org: Whose it is.
        wanted: Which of them.
        after: A record's number; only later ones are returned.

    Raises:
        AuditError: The store does not answer.
    """
    async for record, _ in search_lines(store, org, wanted, after=after):
        yield record


async def search_lines(
    store: AuditStore, org: str, wanted: AuditFilter, *, after: int = 0
) -> AsyncIterator[tuple[AuditRecord, bytes]]:
    """Iterate as `search`, over records and the lines that they are in the chain, line breaks included."""
    segments = await _from(store, await store.segments(org), wanted.since, after)
    async for _, content in _contents(store, segments):
        for line in lines_of(content):
            try:
                record = read_line(line)
            except ValueError:
                continue
            if record.seq > after and wanted.wants(record):
                yield record, line


async def records_after(store: AuditStore, org: str, seq: int) -> AsyncIterator[AuditRecord]:
    """Iterate over the records of a chain behind a number."""
    async for record in search(store, org, AuditFilter(), after=seq):
        yield record


async def _from(
    store: AuditStore, segments: Sequence[Segment], since: datetime | None, after: int
) -> Sequence[Segment]:
    """Leave out segments whose records were all recorded before the first that is wanted happened.

    Records are recorded in order, and none before it happened, so that a few looks tell where to begin.
    """
    begin = max((place for place, segment in enumerate(segments) if segment.first <= after + 1), default=0)
    if since is None:
        return segments[begin:]
    low, high = begin, len(segments) - 1
    while low < high:
        middle = (low + high + 1) // 2
        recorded_at = await _begins_at(store, segments[middle])
        if recorded_at is not None and recorded_at < since - CLOCKS:
            low = middle
        else:
            high = middle - 1
    return segments[low:]


async def _begins_at(store: AuditStore, segment: Segment) -> datetime | None:
    try:
        return read_line(await store.first_line(segment)).recorded_at
    except ValueError:
        return None


async def _contents(store: AuditStore, segments: Sequence[Segment]) -> AsyncIterator[tuple[Segment, bytes]]:
    """Iterate over segments with their lines, some of them read ahead."""
    reading: deque[tuple[Segment, asyncio.Task[bytes]]] = deque()
    try:
        for segment in segments:
            reading.append((segment, asyncio.create_task(store.read(segment))))
            if len(reading) >= AHEAD:
                begun, task = reading.popleft()
                yield begun, await task
        while reading:
            begun, task = reading.popleft()
            yield begun, await task
    finally:
        for _, task in reading:
            task.cancel()
        await asyncio.gather(*(task for _, task in reading), return_exceptions=True)
