"""What callers send and get about usage."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from perdure.ledger.contracts import ModelUse, Standing
from perdure_api.schemas import Answer, Name, Request
from perdure_api.text import Line, SearchKey

Dimension = Literal["org", "user", "agent", "model", "day"]


def _split(value: Any) -> Any:
    """Read `agent,model` as one would write it in an address, beside a repeated parameter."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        return value
    return tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",")))


Dimensions = Annotated[tuple[Dimension, ...], BeforeValidator(_split), Field(min_length=1)]


class UsageFilter(Request):
    """Which usage to report, and how to sum it up; a field left out lets all of it pass."""

    model_config = ConfigDict(validate_by_name=True)

    first: date | None = Field(default=None, alias="from")
    """The first day, in the time zone of the policy; default: thirty days ago."""
    last: date | None = Field(default=None, alias="to")
    """The last day; default: today."""
    group_by: Dimensions = ("day",)
    """Of `org`, `user`, `agent`, `model` and `day`, several separated by commas."""
    org: SearchKey | None = None
    user: SearchKey | None = None
    agent: Name | None = None
    model: Line | None = None
    """As the agent names it: `provider:model`."""


class UsageTotal(Answer):
    """Calls of models, tokens and cost together."""

    calls: int = 0
    input_tokens: int = 0
    """All input tokens, cached ones included."""
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cached_share: float | None = None
    """The part of the input that the provider had in its cache, from 0 to 1; None without any input."""
    output_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    """Of the calls that have a price."""
    unpriced_calls: int = 0
    """Calls whose cost nobody knows; while this is not 0, the cost is a lower bound."""

    @classmethod
    def of(cls, use: ModelUse) -> UsageTotal:
        """Return it for what was used."""
        tokens = use.usage
        return cls(
            calls=use.calls,
            **dict(tokens),
            cached_share=round(tokens.cache_read_tokens / tokens.input_tokens, 4) if tokens.input_tokens else None,
            cost_usd=use.cost_usd,
            unpriced_calls=use.unpriced_calls,
        )


class UsageItem(UsageTotal):
    """Usage of one group; of the five names, those are given by which the report is grouped."""

    org: str | None = None
    user: str | None = None
    agent: str | None = None
    model: str | None = None
    day: str | None = None


class BudgetStanding(Standing):
    """How a budget stands now."""

    org: str | None = None


class UsageReport(Answer):
    """What was used in a period."""

    model_config = ConfigDict(use_attribute_docstrings=True, serialize_by_alias=True, validate_by_name=True)

    first: date = Field(alias="from")
    last: date | None = Field(default=None, alias="to")
    group_by: tuple[Dimension, ...]
    items: tuple[UsageItem, ...]
    total: UsageTotal
    complete: bool
    """False: a ledger does not answer, as no worker runs, so what its organisation used today is missing."""
    silent_orgs: tuple[str, ...] = ()
    """The organisations whose ledger does not answer; an empty name stands for runs without one."""
    budgets: tuple[BudgetStanding, ...] = ()
    """How budgets of the days and months that are going on stand, the fullest of each organisation first."""
