"""How far each execution's history has been recorded, so that nothing is recorded twice and nothing left out.

The chains themselves say so: the records of an execution are appended in the order of its history, so that the last one
is how far it is. What is kept beside the chains only spares reading them from their beginnings.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Final

from pydantic import Field, ValidationError

from perdure.audit.contracts import Anchor
from perdure.audit.record import AuditEntry, Place
from perdure.messages import Frozen

FILE: Final = "cursors-{namespace}.json"
"""By the id of the namespace, as two that share a store know nothing of each other's executions."""


class Cursor(Frozen):
    """How far one execution is recorded."""

    place: str
    recorded_at: datetime


class Snapshot(Frozen):
    """The cursors at a moment, as they are kept in the store."""

    store: str = ""
    watermark: datetime | None = None
    """Executions that ended before it have been recorded to their end, or have a cursor."""
    heads: dict[str, Anchor] = Field(default_factory=dict)
    """The ends of the chains that the cursors take account of."""
    cursors: dict[str, Cursor] = Field(default_factory=dict)
    lengths: dict[str, int] = Field(default_factory=dict)
    """How many history events of open executions were looked at."""
    done: dict[str, datetime] = Field(default_factory=dict)
    """Executions that are recorded to their end, and when they ended, as long as visibility may tell of them again."""


class Cursors:
    """Cursors by execution."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}
        self._recorded: dict[str, datetime] = {}

    def note(self, entry: AuditEntry, *, recorded_at: datetime) -> None:
        """Know that an entry is recorded."""
        try:
            place = entry.place
        except ValueError:  # it follows from no history
            return
        self._places[entry.execution_id] = max(place, self._places.get(entry.execution_id, place))
        self._recorded[entry.execution_id] = recorded_at

    def has(self, entry: AuditEntry) -> bool:
        """Whether an entry is recorded."""
        recorded = self._places.get(entry.execution_id)
        try:
            return recorded is not None and entry.place <= recorded
        except ValueError:
            return False

    def forget(self, *, before: datetime, but: Collection[str]) -> None:
        """Drop cursors that nobody will ask for.

        Args:
            before: Those that have not moved since.
            but: Executions that are open.
        """
        old = [execution for execution, at in self._recorded.items() if at < before and execution not in but]
        for execution in old:
            del self._places[execution], self._recorded[execution]

    def drop(self, executions: Iterable[str]) -> None:
        """Drop the cursors of executions that are recorded to their end."""
        for execution in executions:
            self._places.pop(execution, None)
            self._recorded.pop(execution, None)

    def dump(self) -> dict[str, Cursor]:
        """Return what is known."""
        return {
            execution: Cursor(place=str(place), recorded_at=self._recorded[execution])
            for execution, place in self._places.items()
        }

    def restore(self, cursors: dict[str, Cursor]) -> None:
        """Take over what `dump` returned."""
        for execution, cursor in cursors.items():
            self._places[execution] = Place.parse(cursor.place)
            self._recorded[execution] = cursor.recorded_at


def read_snapshot(content: bytes | None, *, store: str) -> Snapshot:
    """Read a snapshot; an empty one stands for one that is not there, not readable, or another store's."""
    try:
        snapshot = Snapshot.model_validate_json(content) if content else Snapshot()
    except ValidationError:
        snapshot = Snapshot()
    return snapshot if snapshot.store == store else Snapshot(store=store)
