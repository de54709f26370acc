"""Numbers and durations in as few characters as people need, for terminals and pages alike."""

from __future__ import annotations

from datetime import timedelta


def count(number: int) -> str:
    """Return a number in few characters: `1.2k`."""
    if number < 1000:
        return str(number)
    return f"{number / 1000:.1f}k" if number < 999_950 else f"{number / 1_000_000:.1f}M"


def span(time: timedelta) -> str:
    """Return a duration with the two units that matter: `31 ms`, `1.2 s`, `2 m 05 s`, `3 h 12 m`, `2 d 4 h`."""
    seconds = time.total_seconds()
    if seconds < 0.9995:
        return f"{max(0, seconds) * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, hours, days = round(seconds) // 60, round(seconds) // 3600, round(seconds) // 86400
    if not hours:
        return f"{minutes} m {round(seconds) % 60:02} s"
    return f"{hours} h {minutes % 60:02} m" if not days else f"{days} d {hours % 24} h"
