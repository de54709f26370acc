"""What was used, as plots that are also tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, Literal

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse

from perdure.principal import Scope
from perdure_api.console.console_route import ConsoleRoute
from perdure_api.console.rendering import page
from perdure_api.dependencies import Gateway
from perdure_api.scoped_route import requires
from perdure_api.usage_schemas import Dimension, UsageFilter, UsageItem

router = APIRouter(route_class=ConsoleRoute, prefix="/usage")

DIMENSIONS: Final[tuple[Dimension, ...]] = ("agent", "model", "user")
PERIODS: Final = (7, 30, 90)
MOST: Final = 10
"""Bars of one plot; the others are one together."""


@dataclass(frozen=True)
class Bar:
    """One group's part of a plot."""

    name: str
    cost: Decimal = Decimal(0)
    calls: int = 0
    tokens: int = 0
    share: float = 0
    """Of the longest bar, from 0 to 1."""


@router.get("", openapi_extra=requires(Scope.USAGE_READ))
async def usage(request: Request, gateway: Gateway, days: Literal[7, 30, 90] = 30) -> HTMLResponse:
    """Show what was used, by day, agent, model and user."""
    first = datetime.now(UTC).date() - timedelta(days=days - 1)
    wanted = UsageFilter(first=first, group_by=("day", *DIMENSIONS))
    report = await gateway.usage.report(wanted)
    by_day = {bar.name: bar for bar in _bars(report.items, "day")}
    every_day = [str(first + timedelta(days=passed)) for passed in range(days)]
    return page(
        request,
        "usage.html",
        report=report,
        days=days,
        periods=PERIODS,
        by_day=[by_day.get(day, Bar(day)) for day in every_day],
        plots=[(dimension, _most(_bars(report.items, dimension))) for dimension in DIMENSIONS],
    )


def _bars(items: Iterable[UsageItem], dimension: Dimension) -> list[Bar]:
    sums: dict[str, Bar] = {}
    for item in items:
        name = getattr(item, dimension) or "none"
        sums[name] = _added(
            sums.get(name, Bar(name)), item.cost_usd, item.calls, item.input_tokens + item.output_tokens
        )
    return _scaled(sorted(sums.values(), key=lambda bar: (bar.cost, bar.tokens), reverse=True))


def _most(bars: list[Bar]) -> list[Bar]:
    rest = Bar(f"{len(bars) - MOST} others")
    for bar in bars[MOST:]:
        rest = _added(rest, bar.cost, bar.calls, bar.tokens)
    return _scaled([*bars[:MOST], rest]) if len(bars) > MOST else bars


def _added(bar: Bar, cost: Decimal, calls: int, tokens: int) -> Bar:
    return Bar(bar.name, bar.cost + cost, bar.calls + calls, bar.tokens + tokens)


def _scaled(bars: list[Bar]) -> list[Bar]:
    """Measure by cost, or by tokens where nothing has a price."""
    priced = any(bar.cost for bar in bars)
    values = [float(bar.cost) if priced else float(bar.tokens) for bar in bars]
    longest = max(values, default=0) or 1
    return [
        Bar(bar.name, bar.cost, bar.calls, bar.tokens, round(value / longest, 4))
        for bar, value in zip(bars, values, strict=True)
    ]
