"""The audit's hash chain: whatever is done to it is found, and the record is named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.audit.record import GENESIS, AuditEntry, Head, Place, canonical, digest, read_line, seal
from perdure.audit.verification import Fault, Problem, Verifier, lines_of

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
LENGTH = 12

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def chain(length: int = LENGTH, *, tool: str = "refund", after: Head | None = None) -> list[bytes]:
    """Return the lines of a chain."""
    head, lines = after or Head(), []
    for number in range(1, length + 1):
        entry = AuditEntry(
            at=BEGIN + timedelta(seconds=number),
            org="acme",
            kind="tool.called",
            run_id="run-1",
            execution_id="e1",
            source=f"e1/{number}.0",
            tool=tool,
            details={"step": number, "once": True},
        )
        line, head = seal(entry, after=head, now=BEGIN + timedelta(minutes=number))
        lines.append(line)
    return lines


def end_of(lines: Sequence[bytes]) -> Head:
    """Return where a chain ends."""
    last = read_line(lines[-1])
    return Head(seq=last.seq, hash=last.hash)


def verify(content: bytes, *, org: str = "acme", marks: Sequence[Head] = ()) -> list[Problem]:
    """Return what is wrong with a segment that is a whole chain."""
    verifier = Verifier.of(org, {mark.seq: mark.hash for mark in marks})
    for number, line in enumerate(lines_of(content), 1):
        verifier.feed(line, segment="1.jsonl", number=number)
    return verifier.end()


def joined(lines: Sequence[bytes]) -> bytes:
    """Return lines as a segment has them."""
    return b"".join(line + b"\n" for line in lines)


def forged(line: bytes, **changes: object) -> bytes:
    """Return a record with other content, and with the hash that fits to it."""
    record = {**json.loads(line), **changes}
    return canonical({**record, "hash": digest(record)})


LINES = chain()
END = end_of(LINES)
CONTENT = joined(LINES)


def test_a_chain_as_it_was_written_is_sound() -> None:
    """Nothing is found where nothing is wrong, and the chain ends where it was seen to."""
    assert verify(CONTENT, marks=[END]) == []
    assert (END.seq, read_line(LINES[0]).prev) == (LENGTH, GENESIS)


@given(place=st.integers(0, len(CONTENT) - 1), byte=st.integers(0, 255))
def test_any_changed_byte_is_found(place: int, byte: int) -> None:
    """Whichever byte is changed to whichever other, the record it is part of is named."""
    if CONTENT[place] == byte:
        return
    changed = CONTENT[:place] + bytes([byte]) + CONTENT[place + 1 :]
    record = CONTENT[:place].count(b"\n") + 1

    problems = verify(changed, marks=[END])

    assert record in [seq for problem in problems for seq in range(problem.seq, problem.last + 1)]


@given(place=st.integers(0, len(CONTENT) - 1), inserted=st.binary(min_size=1, max_size=3))
def test_any_inserted_byte_is_found(place: int, inserted: bytes) -> None:
    """Nothing can be put anywhere into a chain, not even white space."""
    assert verify(CONTENT[:place] + inserted + CONTENT[place:], marks=[END]) != []


@given(begin=st.integers(0, len(CONTENT) - 1), length=st.integers(1, 200))
def test_any_deleted_bytes_are_found(begin: int, length: int) -> None:
    """Nothing can be taken out of a chain."""
    assert verify(CONTENT[:begin] + CONTENT[begin + length :], marks=[END]) != []


@given(first=st.integers(1, LENGTH), count=st.integers(1, LENGTH))
def test_removed_records_are_named(first: int, count: int) -> None:
    """Records that are gone are named, in the middle as removed and at the end as truncated."""
    last = min(LENGTH, first + count - 1)
    left = LINES[: first - 1] + LINES[last:]

    [problem] = verify(joined(left), marks=[END])

    assert (problem.seq, problem.last) == (first, last)
    assert problem.fault is (Fault.TRUNCATED if last == LENGTH else Fault.REMOVED)


@given(st.permutations(range(LENGTH)))
def test_reordered_records_are_named(order: list[int]) -> None:
    """In whatever order the records are put, those that stand behind a later one are named, and no other."""
    highest, behind = -1, set()
    for number in order:
        highest = max(highest, number)
        if number < highest:
            behind.add(number + 1)

    problems = verify(joined([LINES[number] for number in order]), marks=[END])

    assert {seq for problem in problems for seq in range(problem.seq, problem.last + 1)} == behind
    assert {problem.fault for problem in problems} <= {Fault.REORDERED}


@given(at=st.integers(0, LENGTH), copied=st.integers(0, LENGTH - 1))
def test_a_copied_record_is_named(at: int, copied: int) -> None:
    """A record that stands in two places is found."""
    problems = verify(joined([*LINES[:at], LINES[copied], *LINES[at:]]), marks=[END])

    assert problems
    assert {problem.fault for problem in problems} <= {Fault.ADDED, Fault.REORDERED}
    assert copied + 1 in {problem.seq for problem in problems}


@given(number=st.integers(1, LENGTH - 1), tool=texts.filter(lambda text: text != "refund"))
def test_a_record_with_a_hash_made_to_fit_is_named(number: int, tool: str) -> None:
    """Who changes a record and computes its hash anew is betrayed by the record behind it."""
    changed = [*LINES]
    changed[number - 1] = forged(LINES[number - 1], tool=tool)

    [problem] = verify(joined(changed), marks=[END])

    assert (problem.fault, problem.seq) == (Fault.CHANGED, number)
    assert str(problem).startswith(f"record {number}, line {number} of 1.jsonl: changed")


@given(first=st.integers(1, LENGTH))
def test_a_chain_written_anew_is_found_by_the_mark(first: int) -> None:
    """Who computes all hashes anew from some record on is betrayed by the end that somebody noted."""
    before = end_of(LINES[: first - 1]) if first > 1 else Head()
    anew = [*LINES[: first - 1], *chain(LENGTH - first + 1, tool="other", after=before)]

    problems = verify(joined(anew), marks=[END])

    assert [(problem.fault, problem.seq) for problem in problems] == [(Fault.FORGED, LENGTH)]
    assert verify(joined(anew)) == []  # by itself, it is sound


def test_a_lengthened_chain_is_found_by_no_old_mark() -> None:
    """A mark stays right while the chain grows."""
    longer = [*LINES, *chain(3, after=END)]

    assert verify(joined(longer), marks=[END]) == []


def test_another_organisations_record_does_not_fit() -> None:
    """A chain in another one's place is found from its first record on."""
    problems = verify(CONTENT, org="evil")

    assert [(problem.fault, problem.seq, problem.last) for problem in problems] == [(Fault.CHANGED, 1, LENGTH)]


def test_records_that_are_recorded_late_are_never_dated_back() -> None:
    """The time of recording never goes back along a chain, whatever the writer's clock says."""
    line, _ = seal(read_line(LINES[0]), after=Head(seq=7, hash="aa", recorded_at=BEGIN), now=BEGIN - timedelta(hours=1))

    assert (read_line(line).recorded_at, read_line(line).seq) == (BEGIN, 8)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | texts,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), inner)
        ),
        max_leaves=8,
    )
)
def test_there_is_one_way_to_write_a_record(value: object) -> None:
    """What is read from its canonical form is written to the same bytes again."""
    once = canonical({"value": value})

    assert canonical(json.loads(once)) == once


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"b": 1, "a": True}, b'{"a":true,"b":1}'),
        ({"a": "€\u2028\u007f"}, '{"a":"€\u2028\u007f"}'.encode()),
        ({"a": '\x00\x08\t\n\x0c\r\x1f"\\/'}, b'{"a":"\\u0000\\b\\t\\n\\f\\r\\u001f\\"\\\\/"}'),
        ({}, b"{}"),
    ],
)
def test_the_canonical_form_is_that_of_rfc_8785(value: dict[str, object], written: bytes) -> None:
    """Sorted members, no white space, the escapes of section 3.2.2.2, everything else as UTF-8."""
    assert canonical(value) == written


@given(st.builds(Place, st.integers(1, 10**17), st.integers(0, 999), st.integers(0, 9)))
def test_places_are_read_as_they_are_written(place: Place) -> None:
    """A place in a history survives being written into a record."""
    assert Place.parse(str(place)) == place
