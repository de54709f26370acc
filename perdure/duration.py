"""Durations as people write them: `90s`, `15m`, `4h`, `2d`, beside ISO 8601 and seconds."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_WRITTEN: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([smhd])", re.ASCII)


def written(time: timedelta) -> str:
    """Write a duration as people do: `1d`, `1h 30m`."""
    left, parts = round(time.total_seconds()), []
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, seconds)
        parts += [f"{count}{unit}"] if count else []
    return " ".join(parts) or "0s"


def _read(value: Any) -> Any:
    """Turn what people write into a timedelta; leave what else there is to Pydantic."""
    match = _WRITTEN.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        return timedelta.max


Duration = Annotated[timedelta, BeforeValidator(_read)]
"""A timedelta; `4h` and the like are read too."""
