"""One line of the audit: its fields, its one way to be written down, and its hash.

A line is the record as canonical JSON (RFC 8785, the JSON Canonicalization Scheme): members sorted by their names, no
white space, the shortest escapes, UTF-8. Names are ASCII, and there are no numbers but integers within ±2^53, so that
of the scheme's rules on sorting and numbers the plain ones suffice. Empty fields are left out. The hash is SHA-256 over
the line without its member `hash`; the member `prev` is the hash of the record before, which makes the chain.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Final, NamedTuple

from pydantic import Field

from perdure.messages import Frozen, JsonObject

GENESIS: Final = "0" * 64
"""What the first record of a chain names as the hash before it."""

_PLACE: Final = re.compile(r"(\d{1,18})\.(\d{1,9})(?:\.(\d))?", re.ASCII)


class Place(NamedTuple):
    """Where in an execution's history a record comes from. Those of one execution are recorded in this order."""

    history_event: int
    """Temporal's id of the history event."""
    part: int = 0
    """Counts the events that follow from one history event."""
    aspect: int = 0
    """Counts the records that follow from one event."""

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read a place as `str()` writes it.

        Raises:
            ValueError: It is none.
        """
        match = _PLACE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is no place in a history; one looks like '17.0', or '17.0.1'")
        return cls(*(int(number or 0) for number in match.groups()))

    def __str__(self) -> str:
        place = f"{self.history_event}.{self.part}"
        return f"{place}.{self.aspect}" if self.aspect else place


class AuditEntry(Frozen):
    """A fact that is to be recorded."""

    at: datetime
    """When it happened."""
    org: str = ""
    """Whose chain it belongs to. Empty: to no organisation's, which has a chain of its own."""
    kind: str
    """What happened: `run.started`, `policy.decided`, `approval.approved`, `tool.called`, `key.revoked`, …"""
    who: str = ""
    """Who did it: the principal, the approver, or the identity of the Temporal client. Empty: the run itself."""
    user: str = ""
    """On whose behalf the run is."""
    run_id: str = ""
    """Temporal's workflow id: the run's, or that of the workflow which stands for a key, a grant, …"""
    execution_id: str = ""
    """Temporal's run id of the execution whose history has the fact."""
    source: str
    """`{execution_id}/{place}`: where the fact is in Temporal. No two records of all chains have the same."""
    agent: str = ""
    tool: str = ""
    rule: str = ""
    """The rule of the policy that decided."""
    resource: str = ""
    """What the call touches, by the tool's template."""
    arguments_digest: str = ""
    """Of tool and arguments, which stand in no record themselves."""
    outcome: str = ""
    """What came of it: `allow`, `deny`, `approved`, `ok`, `error`, `lost`, `completed`, …"""
    reason: str = ""
    """Why, in somebody's words, redacted and cut to a line."""
    details: dict[str, str | int | bool] = Field(default_factory=dict)
    """What else is known, by the names of the event's fields."""

    @property
    def place(self) -> Place:
        """Where in the execution's history it comes from."""
        return Place.parse(self.source.rpartition("/")[2])


class AuditRecord(AuditEntry):
    """An entry with its place in its organisation's chain."""

    seq: int
    """Counts the chain's records from 1."""
    recorded_at: datetime
    """When it was appended; never earlier than the record before."""
    prev: str
    """The hash of the record before, or 64 zeros."""
    hash: str
    """SHA-256 of this record, without this field, as canonical JSON."""


class Head(Frozen):
    """The end of a chain, as far as somebody has seen it."""

    seq: int = 0
    hash: str = GENESIS
    recorded_at: datetime | None = None


def canonical(value: JsonObject) -> bytes:
    """Write an object in the one way that hashes go by (RFC 8785)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(value: JsonObject) -> str:
    """Return the hash of a record, whatever its member `hash` says."""
    return hashlib.sha256(canonical({name: field for name, field in value.items() if name != "hash"})).hexdigest()


def seal(entry: AuditEntry, *, after: Head, now: datetime) -> tuple[bytes, Head]:
    """Give an entry its place in the chain.

    Args:
        entry: The fact.
        after: The end of the chain so far.
        now: When it is recorded.

    Returns:
        The record's line, without the line break, and the chain's new end.
    """
    recorded_at = max(now, after.recorded_at) if after.recorded_at else now
    content = {name: field for name, field in entry.model_dump(exclude={"at"}).items() if field not in ("", {})}
    content |= {
        "at": written(entry.at),
        "recorded_at": written(recorded_at),
        "seq": after.seq + 1,
        "prev": after.hash,
    }
    sealed = digest(content)
    return canonical({**content, "hash": sealed}), Head(seq=after.seq + 1, hash=sealed, recorded_at=recorded_at)


def read_line(line: bytes) -> AuditRecord:
    """Read a line that `seal` wrote, without checking it.

    Raises:
        ValueError: It is none.
    """
    return AuditRecord.model_validate_json(line)


def head_of(record: AuditRecord) -> Head:
    """Return the chain's end as it was when this record was the last."""
    return Head(seq=record.seq, hash=record.hash, recorded_at=record.recorded_at)


def written(moment: datetime) -> str:
    """Write a moment as records do: UTC, microseconds (RFC 3339)."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
