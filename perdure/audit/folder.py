"""Chains in a folder: files that only grow, under a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import structlog

from perdure.audit.record import Head
from perdure.audit.store import (
    CHAINS,
    HEAD,
    MANIFEST,
    HeadNote,
    Manifest,
    Segment,
    first_of,
    folder_of,
    further,
    last_sound,
    org_of,
    read_manifest,
    read_note,
    segment_name,
)
from perdure.errors import AuditError, ChainMovedError, ConfigurationError

log = structlog.get_logger(__name__)

SEGMENT_BYTES: Final = 4 * 1024 * 1024
"""A segment that has come to so many is followed by another."""
LOCK_SECONDS: Final = 10
"""An append takes some ms; whoever holds the lock for longer is stopped, and Temporal tries again."""
_LOCK: Final = "lock"
_LOOK: Final = 0.005
_TAIL_BYTES: Final = 64 * 1024


class FolderStore:
    """Chains in a folder of this machine, or of a file system that several share and whose locks work."""

    def __init__(self, folder: Path) -> None:
        self.url = folder.as_uri()
        self._folder = folder

    async def prepare(self) -> Manifest:
        """Make the folder if it is new, and try to write to it.

        Raises:
            ConfigurationError: That does not work.
        """
        return await asyncio.to_thread(self._prepare)

    async def manifest(self) -> Manifest | None:
        """Return what the store is; None if there is none."""
        content = await self.load(MANIFEST)
        return read_manifest(content, url=self.url) if content is not None else None

    async def chains(self) -> list[str]:
        """Return the organisations that have a chain."""
        folders = await asyncio.to_thread(lambda: sorted(_names(self._folder / CHAINS)))
        return [org for folder in folders if (org := await self._org(folder)) is not None]

    async def head(self, org: str) -> Head | None:
        """Return the note of a chain's end."""
        note = await asyncio.to_thread(_note, self._chain(org))
        return note.end if note else None

    async def segments(self, org: str, *, after: int = 0) -> list[Segment]:
        """Return a chain's segments in order."""
        found = await asyncio.to_thread(_segments, self._chain(org))
        return [segment for segment in found if segment.first > after]

    async def read(self, segment: Segment) -> bytes:
        """Return a segment's lines."""
        return await asyncio.to_thread(Path(segment.path).read_bytes)

    async def first_line(self, segment: Segment) -> bytes:
        """Return a segment's first line."""

        def read() -> bytes:
            with Path(segment.path).open("rb") as file:
                return file.readline().rstrip(b"\n")

        return await asyncio.to_thread(read)

    async def tail(self, org: str) -> Head:
        """Return where the chain ends."""
        return await asyncio.to_thread(lambda: _tail(self._chain(org)))

    async def append(self, org: str, lines: Sequence[bytes], *, tail: Head, head: Head) -> None:
        """Put lines at the end of a chain.

        Raises:
            ChainMovedError: It ends elsewhere; nothing was written.
            AuditError: Another process holds the chain's lock and does not go on.
        """
        await asyncio.to_thread(self._append, org, lines, tail, head)

    async def load(self, name: str) -> bytes | None:
        """Return a file of the store; None if there is none."""
        return await asyncio.to_thread(_read, self._folder / name)

    async def save(self, name: str, content: bytes) -> None:
        """Keep a file in the store."""
        await asyncio.to_thread(_replace, self._folder / name, content)

    def _chain(self, org: str) -> Path:
        return self._folder / CHAINS / folder_of(org)

    async def _org(self, folder: str) -> str | None:
        org = org_of(folder)
        if org is not None:
            return org
        note = await asyncio.to_thread(_note, self._folder / CHAINS / folder)
        return note.org if note else None

    def _prepare(self) -> Manifest:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / CHAINS).mkdir(exist_ok=True)
            _create(self._folder / MANIFEST, Manifest().model_dump_json().encode() + b"\n")
            with _locked(self._folder):
                pass
            content = (self._folder / MANIFEST).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"PERDURE_AUDIT_URL: {self._folder} cannot be written to: {error}") from error
        return read_manifest(content, url=self.url)

    def _append(self, org: str, lines: Sequence[bytes], tail: Head, head: Head) -> None:
        chain = self._chain(org)
        if not chain.exists():
            chain.mkdir(exist_ok=True)
            _sync_folder(chain.parent)
        with _locked(chain):
            found = _tail(chain)
            if (found.seq, found.hash) != (tail.seq, tail.hash):
                raise ChainMovedError(f"the chain of {org!r} ends with record {found.seq}, not {tail.seq}")
            _write(_open_segment(chain, first=head.seq - len(lines) + 1), b"".join(line + b"\n" for line in lines))
            note = HeadNote(org=org, end=head).model_dump_json().encode()
            _replace(chain / HEAD, note + b"\n", durably=False)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / _LOCK).open("a") as lock:
        end = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise AuditError(f"another process has held {lock.name} for {LOCK_SECONDS} s") from error
                time.sleep(_LOOK)
        yield


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []


def _segments(chain: Path) -> list[Segment]:
    try:
        names = [entry.name for entry in os.scandir(chain)]
    except FileNotFoundError:
        return []
    found = [Segment(str(chain / name), first) for name in names if (first := first_of(name)) is not None]
    return sorted(found, key=lambda segment: segment.first)


def _note(chain: Path) -> HeadNote | None:
    return read_note(_read(chain / HEAD))


def _tail(chain: Path) -> Head:
    """Return where a chain ends, which is mostly told by the last lines of its last segment."""
    note = _note(chain)
    head = note.end if note else None
    for segment in reversed(_segments(chain)):
        if end := _last_record(Path(segment.path)):
            return further(end, head)
    return further(None, head)


def _last_record(segment: Path) -> Head | None:
    with segment.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        end = last_sound(file.read())
        if end is None and size > _TAIL_BYTES:
            file.seek(0)
            end = last_sound(file.read())
        return end


def _open_segment(chain: Path, *, first: int) -> Path:
    """Return the segment to write to: the last one if there is room, and if it was written to its end."""
    segments = _segments(chain)
    if not segments:
        return chain / segment_name(first)
    last = Path(segments[-1].path)
    _cut_torn_line(last)
    return last if last.stat().st_size < SEGMENT_BYTES else chain / segment_name(first)


def _cut_torn_line(segment: Path) -> None:
    """Drop a line whose writer was killed: nobody was told that it is written, and it is derived again."""
    with segment.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read() in (b"\n", b""):
            return
        file.seek(0)
        end = file.read().rfind(b"\n") + 1
        log.warning("audit_torn_line", segment=str(segment), bytes=size - end)
        file.truncate(end)


def _write(segment: Path, content: bytes) -> None:
    new = not segment.exists()
    with segment.open("ab") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if new:
        _sync_folder(segment.parent)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _create(path: Path, content: bytes) -> None:
    """Write a file whole, unless it exists."""
    temporary = _beside(path)
    _write_whole(temporary, content, durably=True)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
    _sync_folder(path.parent)


def _replace(path: Path, content: bytes, *, durably: bool = True) -> None:
    """Write a file whole, in place of an earlier one."""
    temporary = _beside(path)
    _write_whole(temporary, content, durably=durably)
    temporary.replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _write_whole(path: Path, content: bytes, *, durably: bool) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        if durably:
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
