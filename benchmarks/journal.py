"""What a worker process did and when, line by line in a file that outlives its SIGKILL."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from enum import StrEnum
from pathlib import Path


class Kind(StrEnum):
    """What a call is to."""

    MODEL = "model"
    TOOL = "tool"


@dataclass(frozen=True)
class Entry:
    """The beginning or the end of one attempt at a call."""

    worker: int
    """The process that wrote it."""
    kind: Kind
    ended: bool
    run: str
    key: str
    """The call, the same in every attempt."""
    at: float
    """Seconds of the wall clock."""
    cpu: float
    """Seconds of CPU that the process had used by then."""
    queries: int
    """Transcript Queries that the process had made by then."""


class Journal:
    """Appends entries to a file."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.queries = 0

    @contextmanager
    def call(self, kind: Kind, *, run: str, key: str) -> Iterator[None]:
        """Note that a call begins, and when the block is over, that it has ended."""
        self._note(kind, ended=False, run=run, key=key)
        yield
        self._note(kind, ended=True, run=run, key=key)

    def _note(self, kind: Kind, *, ended: bool, run: str, key: str) -> None:
        entry = Entry(os.getpid(), kind, ended, run, key, time.time(), time.process_time(), self.queries)
        os.write(self._file, (" ".join(map(str, astuple(entry))) + "\n").encode())


def read_journal(path: Path) -> list[Entry]:
    """Return a journal's entries; none if its worker has done nothing yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [_parse(line) for line in lines]


def _parse(line: str) -> Entry:
    worker, kind, ended, run, key, at, cpu, queries = line.split(" ")
    return Entry(int(worker), Kind(kind), ended == "True", run, key, float(at), float(cpu), int(queries))
