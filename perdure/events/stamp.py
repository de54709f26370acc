"""The ids and times that a history event gives to the events that follow from it."""

from __future__ import annotations

from datetime import UTC
from typing import Final

from temporalio.api.history.v1 import HistoryEvent

from perdure.events.event import EventId


class Stamp:
    """Numbers and dates the events of one history event."""

    def __init__(self, event: HistoryEvent, *, execution: int, resets: int = 0) -> None:
        self._place = EventId(execution, resets, event.event_id)
        self.history_event: Final = event.event_id
        self.at: Final = event.event_time.ToDatetime(tzinfo=UTC)

    def next_id(self) -> str:
        """Return the next event's id."""
        place = self._place
        self._place = place._replace(part=place.part + 1)
        return str(place)
