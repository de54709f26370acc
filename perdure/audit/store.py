"""Where chains are kept: what a store can do, which errors it has, and how one is opened by its address.

A chain is kept in segments, each a run of lines named by its first record's number, so that names sort as the chain
does. Beside them lies the chain's head: a note of its end, written after each append, which may lag behind but never
runs ahead. Whoever appends says with what the chain must end; if it does not, because another writer was quicker,
nothing is written. Not for workflow code.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol
from urllib.parse import quote, unquote

from pydantic import Field, ValidationError

from perdure.audit.record import Head, read_line
from perdure.audit.verification import lines_of
from perdure.errors import ConfigurationError
from perdure.messages import Frozen

FORMAT: Final = 1
MANIFEST: Final = "perdure-audit.json"
HEAD: Final = "head.json"
CHAINS: Final = "chains"
NO_ORG: Final = "-"
"""What the chain is called of what belongs to no organisation."""
_MAX_FOLDER: Final = 180
_SUFFIX: Final = ".jsonl"


class Manifest(Frozen):
    """What a store is, written once when it is new."""

    format: int = FORMAT
    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """By which Temporal's anchors tell this store from another."""
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))


class HeadNote(Frozen):
    """The note of a chain's end that lies beside it."""

    org: str
    end: Head


class Segment(NamedTuple):
    """A part of a chain."""

    path: str
    """Where it is in the store."""
    first: int
    """Number of its first record, by its name."""


class AuditStore(Protocol):
    """A place for chains."""

    url: str

    async def prepare(self) -> Manifest:
        """Make the store if it is new, and try what writers need.

        Raises:
            ConfigurationError: It cannot be written to, or does not refuse to overwrite.
        """
        ...

    async def manifest(self) -> Manifest | None:
        """Return what the store is; None if there is none."""
        ...

    async def chains(self) -> list[str]:
        """Return the organisations that have a chain; the empty one is nobody's."""
        ...

    async def head(self, org: str) -> Head | None:
        """Return the note of a chain's end; None if there is none that can be read."""
        ...

    async def segments(self, org: str, *, after: int = 0) -> list[Segment]:
        """Return a chain's segments in order; with `after`, only those whose first record has a higher number."""
        ...

    async def read(self, segment: Segment) -> bytes:
        """Return a segment's lines."""
        ...

    async def first_line(self, segment: Segment) -> bytes:
        """Return a segment's first line."""
        ...

    async def tail(self, org: str) -> Head:
        """Return where the chain ends: after its last sound record, or where its head says if that is further on."""
        ...

    async def append(self, org: str, lines: Sequence[bytes], *, tail: Head, head: Head) -> None:
        """Put lines at the end of a chain, durably, before this returns.

        Args:
            org: Whose chain it is.
            lines: Records, without line breaks, the first of which follows on the chain's last.
            tail: Where the chain must end in the store.
            head: Where it ends with them.

        Raises:
            ChainMovedError: It ends elsewhere; nothing was written.
        """
        ...

    async def load(self, name: str) -> bytes | None:
        """Return a file that `save` wrote; None if there is none."""
        ...

    async def save(self, name: str, content: bytes) -> None:
        """Keep a file beside the chains, in place of an earlier one of its name."""
        ...


def folder_of(org: str) -> str:
    """Return what an organisation's folder is called: its name, with what no file name may have as `%XX`."""
    if not org:
        return NO_ORG
    quoted = quote(org, safe="").replace(".", "%2E").replace("~", "%7E")
    if quoted == NO_ORG:
        return "%2D"
    return quoted if len(quoted) <= _MAX_FOLDER else f"~{hashlib.sha256(org.encode()).hexdigest()}"


def org_of(folder: str) -> str | None:
    """Return whose folder it is; None if its name is too long for the folder to tell."""
    if folder.startswith("~"):
        return None
    return "" if folder == NO_ORG else unquote(folder)


def segment_name(first: int) -> str:
    """Return the name of the segment that begins with this record."""
    return f"{first:015d}{_SUFFIX}"


def first_of(name: str) -> int | None:
    """Return the number of a segment's first record; None if the name is no segment's."""
    stem = name.removesuffix(_SUFFIX)
    return int(stem) if name.endswith(_SUFFIX) and stem.isdecimal() else None


def read_note(content: bytes | None) -> HeadNote | None:
    """Read the note of a chain's end; None if it is none."""
    try:
        return HeadNote.model_validate_json(content) if content else None
    except ValidationError:
        return None


def read_manifest(content: bytes, *, url: str) -> Manifest:
    """Read a manifest.

    Raises:
        ConfigurationError: It is none, or of another format.
    """
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        raise ConfigurationError(f"{MANIFEST} in {url} is not what it must be: {error}") from error
    if manifest.format != FORMAT:
        raise ConfigurationError(f"the audit in {url} has format {manifest.format}; this is Perdure for {FORMAT}")
    return manifest


def last_sound(content: bytes) -> Head | None:
    """Return where a segment ends: its last line that is a record; None if it has none."""
    end = content.rfind(b"\n") + 1  # what follows was cut off while it was written
    for line in reversed(list(lines_of(content[:end]))):
        try:
            record = read_line(line)
        except ValueError:
            continue
        return Head(seq=record.seq, hash=record.hash, recorded_at=record.recorded_at)
    return None


def further(one: Head | None, other: Head | None) -> Head:
    """Return the end that is further on."""
    return max((end for end in (one, other) if end), key=lambda end: end.seq, default=Head())
