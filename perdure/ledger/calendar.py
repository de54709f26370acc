"""The calendar of a time zone. Not for workflow code: zones are read from files, and their rules change."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from perdure.ledger.contracts import Calendar


def calendar_at(now: datetime, *, time_zone: str) -> Calendar:
    """Return the day and the month of a moment.

    Raises:
        ZoneInfoNotFoundError: This machine knows no such zone.
    """
    zone = ZoneInfo(time_zone)
    today = now.astimezone(zone).date()
    next_month = (today.replace(day=1) + timedelta(days=32)).replace(day=1)
    return Calendar(
        time_zone=time_zone,
        day=today.isoformat(),
        month=f"{today:%Y-%m}",
        day_ends=_begin(today + timedelta(days=1), zone),
        month_ends=_begin(next_month, zone),
    )


def _begin(day: date, zone: ZoneInfo) -> datetime:
    """Return when a day begins: at midnight, or where clocks skip it, when they do."""
    return datetime.combine(day, time(), zone).astimezone(UTC)
