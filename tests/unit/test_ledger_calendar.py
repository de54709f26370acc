"""Days and months of a time zone: they follow each other without a gap, whatever the clocks do."""

from __future__ import annotations

import zoneinfo
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfoNotFoundError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.ledger.calendar import calendar_at

ZONES = sorted(zoneinfo.available_timezones())


@pytest.mark.parametrize(
    ("zone", "now", "day", "ends", "month_ends"),
    [
        ("UTC", "2026-11-27T23:59:59Z", "2026-11-27", "2026-11-28T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("Europe/Berlin", "2026-11-27T23:00:00Z", "2026-11-28", "2026-11-28T23:00:00Z", "2026-11-30T23:00:00Z"),
        ("Europe/Berlin", "2026-10-25T00:30:00Z", "2026-10-25", "2026-10-25T23:00:00Z", "2026-10-31T23:00:00Z"),
        ("America/New_York", "2027-01-01T04:59:59Z", "2026-12-31", "2027-01-01T05:00:00Z", "2027-01-01T05:00:00Z"),
        # Clocks skip midnight here: the day begins at one.
        ("Africa/Cairo", "2026-04-23T12:00:00Z", "2026-04-23", "2026-04-23T22:00:00Z", "2026-04-30T21:00:00Z"),
        # There was no such day: the islands crossed the date line.
        ("Pacific/Apia", "2011-12-30T05:00:00Z", "2011-12-29", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"),
    ],
)
def test_a_day_ends_where_the_zone_says(zone: str, now: str, day: str, ends: str, month_ends: str) -> None:
    """Summer time, midnights that do not exist and days that do not are the zone's business."""
    calendar = calendar_at(datetime.fromisoformat(now), time_zone=zone)

    assert (calendar.day, calendar.month) == (day, day[:7])
    assert calendar.day_ends == datetime.fromisoformat(ends)
    assert calendar.month_ends == datetime.fromisoformat(month_ends)


@given(zone=st.sampled_from(ZONES), seconds=st.integers(0, 46 * 365 * 86_400))
def test_one_period_begins_where_the_other_ends(zone: str, seconds: int) -> None:
    """A moment before its end it is still the same day or month, and at its end it is another."""
    now = datetime(1990, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)

    calendar = calendar_at(now, time_zone=zone)

    moment = timedelta(microseconds=1)
    assert calendar.day_ends > now
    assert calendar.month_ends >= calendar.day_ends
    assert calendar_at(calendar.day_ends - moment, time_zone=zone).day == calendar.day
    assert calendar_at(calendar.day_ends, time_zone=zone).day > calendar.day
    assert calendar_at(calendar.month_ends - moment, time_zone=zone).month == calendar.month
    assert calendar_at(calendar.month_ends, time_zone=zone).month > calendar.month


def test_an_unknown_zone_is_refused() -> None:
    """A machine without that zone says so, and does not take another."""
    with pytest.raises(ZoneInfoNotFoundError):
        calendar_at(datetime.now(UTC), time_zone="Mars/Olympus")
