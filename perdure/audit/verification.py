"""Whether a chain is whole: pure, one line at a time, naming each record that is not as it was written.

What one chain's lines can show by themselves: a record that was changed, removed, put elsewhere or added. What they
cannot: records cut off at the end, and a chain written anew as a whole. For these there are marks of where the chain
once ended: the head in the store, and Temporal's anchor (`perdure.audit.anchor`), which whoever rewrites the store
cannot reach.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from perdure.audit.record import GENESIS, canonical, digest
from perdure.messages import Frozen, JsonObject

MAX_PROBLEMS: Final = 1000
"""As many are named of one chain; a chain with more is not read for its details."""


class Fault(StrEnum):
    """What is wrong with a record."""

    CHANGED = "changed"
    """It is not as it was written."""
    REMOVED = "removed"
    REORDERED = "reordered"
    """It stands behind a later one."""
    ADDED = "added"
    """It does not belong there: a second record of its number, or a line that is none."""
    TRUNCATED = "truncated"
    """It was the chain's end, or before it, and the chain is shorter now."""
    FORGED = "forged"
    """The chain is sound in itself but not the one whose end was noted: it was written anew."""


class Problem(Frozen):
    """One or several neighbouring records that are not as they were written."""

    fault: Fault
    seq: int
    """The first of them."""
    last: int
    segment: str = ""
    """The file or object it is in, or would be."""
    line: int = 0
    """Of the segment, from 1."""
    detail: str = ""

    def __str__(self) -> str:
        records = f"record {self.seq}" if self.seq == self.last else f"records {self.seq} to {self.last}"
        place = f", line {self.line} of {self.segment}" if self.line else f", {self.segment}" if self.segment else ""
        return f"{records}{place}: {self.fault}{': ' if self.detail else ''}{self.detail}"


@dataclass(frozen=True)
class _Line:
    """Where a record was read."""

    segment: str
    number: int


@dataclass
class _Gap:
    """Records that should be before one that was read."""

    first: int
    last: int
    at: _Line


@dataclass
class Verifier:
    """Checks one chain, fed with its lines in order."""

    org: str
    problems: list[Problem] = field(default_factory=list)
    lines: int = 0
    _expected: int = 1
    _marks: Mapping[int, str] = field(default_factory=dict)
    """Hashes that records of these numbers had when somebody noted them."""
    _before: str | None = GENESIS
    """The hash of the record before the expected one; None if that cannot be known."""
    _before_line: _Line | None = None
    _gaps: list[_Gap] = field(default_factory=list)
    _unread: list[_Line] = field(default_factory=list)
    """Lines since the last good record that are none."""
    _last_line: _Line | None = None

    @classmethod
    def of(cls, org: str, marks: Mapping[int, str]) -> Verifier:
        """Begin a chain.

        Args:
            org: Whose it is; empty for what belongs to no organisation.
            marks: Hashes by number, as the store's head and Temporal's anchor have them.
        """
        return cls(org, _marks=marks)

    @property
    def records(self) -> int:
        """The number of the last record so far."""
        return self._expected - 1

    @property
    def hash(self) -> str | None:
        """The hash of the last record so far; None if that cannot be known."""
        return self._before

    def feed(self, line: bytes, *, segment: str, number: int) -> None:
        """Take in the next line, with its line break."""
        self.lines += 1
        place = self._last_line = _Line(segment, number)
        if len(self.problems) >= MAX_PROBLEMS:
            return
        record = _parse(line)
        if record is None or record["hash"] != digest(record) or record.get("org", "") != self.org:
            self._unread.append(place)
            return
        seq = int(record["seq"])
        if seq < self._expected:
            self._late(seq, place)
            return
        self._settle_unread(seq)
        if seq > self._expected:
            self._gaps.append(_Gap(self._expected, seq - 1, place))
            self._before = None
        self._link(record, seq, place)

    def end(self) -> list[Problem]:
        """Say what is wrong, in the order of the records, once all lines are read."""
        self._settle_unread(self._expected + len(self._unread))
        for gap in self._gaps:
            follows = f"follows on record {gap.first - 1}" if gap.first > 1 else "is the first"
            detail = f"record {gap.last + 1} {follows}"
            self._report(Fault.REMOVED, gap.first, gap.at, last=gap.last, detail=detail, line=False)
        if len(self.problems) < MAX_PROBLEMS:
            self._check_end()
        return _merged(sorted(self.problems, key=lambda problem: problem.seq))

    def _link(self, record: JsonObject, seq: int, place: _Line) -> None:
        if self._before is not None and record["prev"] != self._before:
            # Both are sound in themselves: the one before was written anew, with a hash to fit, but not this one.
            if seq == 1 or self._before_line is None:
                self._report(Fault.CHANGED, seq, place, detail="it names a record before it that there is not")
            else:
                detail = f"record {seq} names another hash for it"
                self._report(Fault.CHANGED, seq - 1, self._before_line, detail=detail)
        self._check_mark(seq, str(record["hash"]), place)
        self._expected, self._before, self._before_line = seq + 1, str(record["hash"]), place

    def _check_mark(self, seq: int, found: str, place: _Line) -> None:
        if self._marks.get(seq, found) != found:
            detail = "it had another hash when it was the chain's end; it and what is before it may be written anew"
            self._report(Fault.FORGED, seq, place, detail=detail)

    def _check_end(self) -> None:
        highest = max(self._marks, default=0)
        if highest >= self._expected:
            detail = f"the chain once ended with record {highest}, and now ends with {self._expected - 1}"
            self._report(Fault.TRUNCATED, self._expected, self._last_line, last=highest, detail=detail, line=False)

    def _late(self, seq: int, place: _Line) -> None:
        """Take note of a record that stands behind a later one: it was put there, or is there twice."""
        gap = next((gap for gap in self._gaps if gap.first <= seq <= gap.last), None)
        if gap is None:
            self._report(Fault.ADDED, seq, place, detail="there is another record of this number before it")
            return
        self._report(Fault.REORDERED, seq, place, detail=f"it stands behind record {self._expected - 1}")
        self._gaps.remove(gap)
        rest = (_Gap(gap.first, seq - 1, gap.at), _Gap(seq + 1, gap.last, gap.at))
        self._gaps += [part for part in rest if part.first <= part.last]

    def _settle_unread(self, following: int) -> None:
        """Say of lines that are no sound records which ones they were, now that the record behind them is known."""
        unread, self._unread = self._unread, []
        for place in unread:
            if self._expected < following:
                self._report(Fault.CHANGED, self._expected, place, detail="it does not have the hash that it names")
                self._expected, self._before = self._expected + 1, None
            else:
                self._report(Fault.ADDED, self._expected, place, detail="there is a line before it that is no record")

    def _report(
        self, fault: Fault, seq: int, place: _Line | None, *, last: int = 0, detail: str = "", line: bool = True
    ) -> None:
        self.problems.append(
            Problem(
                fault=fault,
                seq=seq,
                last=max(seq, last),
                segment=place.segment if place else "",
                line=place.number if place and line else 0,
                detail=detail,
            )
        )


def _merged(problems: list[Problem]) -> list[Problem]:
    """Tell of neighbouring records with the same fault at once."""
    merged: list[Problem] = []
    for problem in problems:
        before = merged[-1] if merged else None
        if before and (before.fault, before.segment, before.last + 1) == (problem.fault, problem.segment, problem.seq):
            merged[-1] = before.model_copy(update={"last": problem.last})
        else:
            merged.append(problem)
    return merged


def _parse(line: bytes) -> JsonObject | None:
    """Read a line as a record; None if it is none, or not written in the one way that records are."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("seq"), int) or record["seq"] < 1:
        return None
    if not all(isinstance(record.get(name), str) for name in ("hash", "prev")):
        return None
    try:
        return record if canonical(record) + b"\n" == line else None
    except ValueError:  # half a surrogate pair
        return None


def lines_of(content: bytes) -> Iterator[bytes]:
    """Iterate over the lines of a segment, with their line breaks; what follows the last one has none."""
    *lines, rest = content.split(b"\n")
    yield from (line + b"\n" for line in lines)
    if rest:
        yield rest
