"""What models, tools and people wrote, and numbers, as short words that are safe to show in a terminal."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from perdure.contracts import Totals, Usage
from perdure.figures import count
from perdure.messages import JsonObject

MAX_LINE = 500
"""Characters of a text that one line could ever show."""


def line(text: str, limit: int = MAX_LINE) -> str:
    """Return a text's beginning as one line: white space collapsed, control characters spelled out."""
    beginning = " ".join(text[: 4 * limit].split())
    shown = _spell_out(beginning[:limit])
    return f"{shown}…" if len(beginning) > limit or len(text) > 4 * limit else shown


def block(text: str, *, max_characters: int = 20_000) -> str:
    """Return a text with its line breaks, control characters spelled out."""
    lines = text[:max_characters].splitlines()
    shown = "\n".join(_spell_out(one.expandtabs(4)) for one in lines)
    return f"{shown}…" if len(text) > max_characters else shown


def call(tool: str, arguments: JsonObject | None) -> str:
    """Return a tool call as one would write it: `find_order(order_id="1042")`."""
    given = ", ".join(f"{line(name, 40)}={_value(value)}" for name, value in (arguments or {}).items())
    return f"{line(tool, 64)}({given})"


def tokens(usage: Usage) -> str:
    """Return tokens in and out, and what part of the input came out of a cache: `1.2k→42 tok, 80% cached`."""
    cached = f", {usage.cached_share:.0%} cached" if usage.cache_read_tokens and usage.cached_share else ""
    return f"{count(usage.input_tokens)}→{count(usage.output_tokens)} tok{cached}"


def money(cost: Decimal | None) -> str:
    """Return US dollars, or that nobody knows the price."""
    return "unpriced" if cost is None else f"${cost:.4f}" if cost < 1 else f"${cost:,.2f}"


def bill(totals: Totals) -> str:
    """Return what a run cost, as far as that is known."""
    if not totals.unpriced_calls:
        return money(totals.cost_usd)
    return f"at least {money(totals.cost_usd)}" if totals.cost_usd else money(None)


def _spell_out(text: str) -> str:
    # Escape sequences would steer the terminal, and direction marks or lookalike spaces would show what is not there.
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _value(value: Any) -> str:
    return line(json.dumps(value, ensure_ascii=False), 80)
