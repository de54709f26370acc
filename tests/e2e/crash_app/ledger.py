"""The world outside: an SQLite file in which every attempt at a call and every effect is a row of its own."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH_VARIABLE = "CRASH_APP_LEDGER"

_SCHEMA = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS attempts (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, tool TEXT NOT NULL, pid INTEGER NOT NULL, begun REAL NOT NULL, ended REAL
);
CREATE TABLE IF NOT EXISTS effects (
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, tool TEXT NOT NULL, subject TEXT NOT NULL
);
-- Whoever takes bookings knows idempotency keys; whoever moves money does not.
CREATE UNIQUE INDEX IF NOT EXISTS bookings ON effects (key) WHERE tool = 'book';
"""


@dataclass(frozen=True)
class Attempt:
    """One time that a tool's function was entered."""

    key: str
    tool: str
    pid: int
    """The worker process."""
    over: bool
    """Whether it was left again; one whose process was killed never is."""


@dataclass(frozen=True)
class Effect:
    """Something that happened, and cannot be taken back."""

    receipt: str
    key: str
    tool: str
    subject: str


class Ledger:
    """Reads and writes the file; each operation is one transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_process(cls) -> Ledger:
        """Return the ledger that this process was told to use."""
        return cls(Path(os.environ[PATH_VARIABLE]))

    def create(self) -> None:
        """Make the file, before anybody writes to it."""
        with closing(sqlite3.connect(self.path)) as connection:
            connection.executescript(_SCHEMA)

    @contextmanager
    def attempt(self, *, key: str, tool: str) -> Iterator[None]:
        """Record an attempt, and that it is over, however it ends."""
        row = self._write(
            "INSERT INTO attempts (key, tool, pid, begun) VALUES (?, ?, ?, ?)", [key, tool, os.getpid(), time.time()]
        )
        try:
            yield
        finally:
            self._write("UPDATE attempts SET ended = ? WHERE id = ?", [time.time(), row])

    def take_effect(self, *, key: str, tool: str, subject: str) -> str:
        """Let something happen and return its receipt; booking twice under one key is booking once."""
        self._write(
            "INSERT INTO effects (key, tool, subject) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", [key, tool, subject]
        )
        return self.effects(key=key)[-1].receipt

    def effects(self, *, key: str | None = None) -> list[Effect]:
        """Return what happened, for one key or for all."""
        rows = self._read("SELECT id, key, tool, subject FROM effects WHERE ? IN (key, '') ORDER BY id", [key or ""])
        return [
            Effect(receipt=f"{tool}-{number}", key=key, tool=tool, subject=about) for number, key, tool, about in rows
        ]

    def attempts(self, *, key: str | None = None) -> list[Attempt]:
        """Return what was tried, for one key or for all."""
        rows = self._read("SELECT key, tool, pid, ended FROM attempts WHERE ? IN (key, '') ORDER BY id", [key or ""])
        return [Attempt(key=key, tool=tool, pid=pid, over=ended is not None) for key, tool, pid, ended in rows]

    def _write(self, statement: str, values: Sequence[object]) -> int | None:
        with closing(sqlite3.connect(self.path, timeout=10)) as connection, connection:
            return connection.execute(statement, values).lastrowid

    def _read(self, statement: str, values: Sequence[object]) -> list[Any]:
        with closing(sqlite3.connect(self.path, timeout=10)) as connection:
            return connection.execute(statement, values).fetchall()
