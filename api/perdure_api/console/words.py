"""Numbers, times and values as people read them on a page."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from perdure.contracts import Totals, Usage
from perdure.duration import written
from perdure.figures import count, span
from perdure.schedule import Timing


def money(cost: Decimal | None) -> str:
    """Return US dollars, or that nobody knows the price."""
    if cost is None:
        return "unpriced"
    return f"${cost:,.2f}" if cost >= 1 or cost == 0 else f"${cost:.4f}"


def bill(totals: Totals) -> str:
    """Return what a run cost, as far as that is known."""
    if not totals.unpriced_calls:
        return money(totals.cost_usd)
    return f"at least {money(totals.cost_usd)}" if totals.cost_usd else money(None)


def tokens(usage: Usage) -> str:
    """Return tokens in and out."""
    return f"{count(usage.input_tokens)} in · {count(usage.output_tokens)} out"


def ago(moment: datetime) -> str:
    """Return how long ago that was, or how soon it will be."""
    passed = datetime.now(UTC) - moment
    if passed < timedelta(0):
        return f"in {_about(-passed)}"
    return "just now" if passed < timedelta(seconds=5) else f"{_about(passed)} ago"


def _about(time: timedelta) -> str:
    seconds = round(time.total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def clock(moment: datetime) -> str:
    """Return the time of day."""
    return f"{moment.astimezone(UTC):%H:%M:%S}"


def moment(time: datetime) -> str:
    """Return day and time."""
    return f"{time.astimezone(UTC):%d %b %Y, %H:%M:%S} UTC"


def iso(time: datetime) -> str:
    """Return a time as programs read it."""
    return time.astimezone(UTC).isoformat(timespec="seconds")


def pretty(value: Any) -> str:
    """Return JSON over several lines; a text that is JSON as well, and any other text as it is."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return str(value)
        if not isinstance(value, dict | list):
            return str(value)
    return json.dumps(value, ensure_ascii=False, indent=2)


def brief(text: str, limit: int = 90) -> str:
    """Return a text's beginning on one line."""
    line = " ".join(text[: 4 * limit].split())
    return f"{line[:limit].rstrip()}…" if len(line) > limit else line


def call(arguments: dict[str, Any] | None, limit: int = 120) -> str:
    """Return arguments on one line: `order_id: "A-1001", amount: 5`."""
    given = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in (arguments or {}).items())
    return brief(", ".join(given), limit)


def plain(name: object) -> str:
    """Return a name of the API as a word: `timed_out` is `timed out`."""
    return str(name).replace("_", " ")


def timing(when: Timing) -> str:
    """Return when a schedule starts runs: `0 9 * * MON-FRI (Europe/Berlin)`, `every 6h`."""
    parts = [f"{', '.join(when.cron)} ({when.time_zone})"] if when.cron else []
    if when.every is not None:
        parts.append(f"every {written(when.every)}" + (f" + {written(when.offset)}" if when.offset else ""))
    return "; ".join(parts)


def share(part: float | None) -> str:
    """Return a part from 0 to 1 in percent."""
    return "–" if part is None else f"{100 * part:.1f}%"


def seconds(time: float | None) -> str:
    """Return a duration in seconds as people read it."""
    return "–" if time is None else span(timedelta(seconds=time))


def combined(values: dict[str, str], **more: str) -> dict[str, str]:
    """Return the values with more of them."""
    return values | more


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "combined": combined,
    "money": money,
    "bill": bill,
    "count": count,
    "tokens": tokens,
    "span": span,
    "ago": ago,
    "clock": clock,
    "moment": moment,
    "iso": iso,
    "pretty": pretty,
    "brief": brief,
    "call": call,
    "plain": plain,
    "timing": timing,
    "share": share,
    "seconds": seconds,
}
