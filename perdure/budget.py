"""Budgets: how much money runs may use up, as a policy writes it, and the terms that one run is pinned to.

Everything here is a pure function of what is pinned: which budgets count a run, and what a model call costs at worst.
What is left of a budget that several runs share is the ledger's to know (`perdure.ledger`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import ROUND_UP, Decimal
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from perdure.glob import matches_any_name
from perdure.messages import Frozen
from perdure.pinned import Pinned

MILLION: Final = Decimal(1_000_000)
MAX_BUDGETS: Final = 50
LIMIT_NAME: Final = "max_cost_usd"
"""What the run's own limit is called where a budget is named."""
SMALLEST: Final = Decimal("0.000000001")
"""Amounts are whole numbers of this, so that sums and differences of them are exact."""
MARGIN_TOKENS: Final = 1024
"""Added to each estimate of a call's input: what a provider wraps around messages, and around tools above all."""
MIN_OUTPUT_TOKENS: Final = 16
"""Fewer cannot be asked of every provider."""

Usd = Annotated[Decimal, Field(gt=0, le=1_000_000_000, allow_inf_nan=False)]
"""An amount of US dollars."""


def _one_or_more(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Names = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=256)], ...],
    Field(min_length=1),
    BeforeValidator(_one_or_more),
]
"""Globs, of which one must match; a single one need not be a list."""


def _known_zone(name: str, info: ValidationInfo) -> str:
    # Looked up where a policy is written. One that is read back from a history is JSON: its zone was known once, and
    # workflow code, which reads it too, may open no files.
    if info.mode == "python":
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(
                f"{name!r} is no time zone; write an IANA name such as 'Europe/Berlin', or 'UTC'"
            ) from error
    return name


TimeZone = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_known_zone)]
"""The IANA name of a time zone."""


class Budget(Pinned):
    """What the runs that it counts may cost together."""

    name: Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    """What refusals, events and usage call it; default: `budget 2`, by its place."""
    per: Literal["run", "day", "month"]
    """`run`: each run has it for itself. Days and calendar months are those of the policy's time zone."""
    usd: Usd
    each: Literal["org", "user", "agent"] | None = None
    """Who has it: the organisation as a whole (the default), each of its users, or each of its agents."""
    org: Names = ("*",)
    """Count only runs of these organisations; a run without one has the name that is empty."""
    user: Names = ("*",)
    """Count only runs on behalf of these users."""
    agent: Names = ("*",)
    """Count only runs of these agents."""

    @model_validator(mode="after")
    def _consistent(self) -> Budget:
        if self.per == "run" and self.each is not None:
            raise ValueError("each goes with per: day and per: month; a budget per run is each run's own")
        return self

    def counts(self, *, org: str | None, user: str | None, agent: str) -> bool:
        """Whether a run is one of those that it counts."""
        names = ((self.org, org or ""), (self.user, user or ""), (self.agent, agent))
        return all(matches_any_name(patterns, name) for patterns, name in names)


def _told_apart(budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
    names = [name for name, _ in named(budgets)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two budgets are named {twice!r}; what is spent is kept by name")
    return budgets


Budgets = Annotated[tuple[Budget, ...], Field(max_length=MAX_BUDGETS), AfterValidator(_told_apart)]


class Concurrency(Pinned):
    """How many runs may be open at once; further ones wait in line."""

    org: Annotated[int, Field(ge=1)] | None = None
    """Of one organisation."""
    user: Annotated[int, Field(ge=1)] | None = None
    """Of one user in an organisation; runs on nobody's behalf count as one user's."""


class PriceCeiling(Frozen):
    """The most that a model's tokens can cost, in US dollars per million."""

    input: Decimal
    """The dearest of plain input, cache reads and cache writes, in the dearest tier."""
    output: Decimal

    def cost(self, *, input_tokens: int, output_tokens: int) -> Decimal:
        """Return the most that a call with at most so many tokens costs."""
        return whole((input_tokens * self.input + output_tokens * self.output) / MILLION)


class RunCap(Frozen):
    """What one run may cost by itself."""

    budget: str
    usd: Decimal


class Line(Frozen):
    """A budget that a run shares with others, as it counts this run."""

    budget: str
    per: Literal["day", "month"]
    subject: str
    """Who has it: `org`, `user ann` or `agent support`, of the ledger's organisation."""
    usd: Decimal


class Place(Frozen):
    """A limit of open runs that counts a run."""

    subject: str
    """As in `Line`."""
    most: int


class Terms(Frozen):
    """What a run may spend, and who keeps count of it; pinned when the run starts."""

    caps: tuple[RunCap, ...] = ()
    lines: tuple[Line, ...] = ()
    places: tuple[Place, ...] = ()
    ceilings: dict[str, PriceCeiling] = Field(default_factory=dict)
    """By model reference; a model that is not here has no price."""
    unpriced: Literal["deny", "flag"] = "flag"
    time_zone: str = "UTC"

    @property
    def limits_money(self) -> bool:
        """Whether a call can be one too many."""
        return bool(self.caps or self.lines) or self.unpriced == "deny"


class Refusal(Frozen):
    """Why a call is not made: the budget that has no room for it."""

    budget: str
    per: Literal["run", "day", "month"]
    subject: str = ""
    """Who has it, as in `Line`; empty for a run's own."""
    cap_usd: Decimal
    """With what humans have added."""
    spent_usd: Decimal
    reserved_usd: Decimal = Decimal(0)
    """By other runs."""
    needed_usd: Decimal
    """What the next call costs at worst."""
    resets_at: datetime | None = None
    """When the next period begins; None for a run's own."""
    ledger_full: bool = False
    """The budget may have room, but the ledger cannot keep count for another subject until the day or month is over."""

    @property
    def is_lent(self) -> bool:
        """Whether there would be room, were it not for what other runs have reserved and not used."""
        return self.spent_usd + self.needed_usd <= self.cap_usd

    @property
    def why(self) -> str:
        """The refusal in words."""
        if self.ledger_full:
            return f"budget {self.budget!r}: the ledger keeps count for as many subjects as it can, and not for another"
        whose = f" of {self.subject}" if self.subject not in ("", "org") else ""
        period = {"run": "this run", "day": "today", "month": "this month"}[self.per]
        said = f"budget {self.budget!r}{whose}: of {dollars(self.cap_usd)} for {period}, "
        said += f"{dollars(self.spent_usd)} is spent"
        if self.is_lent:
            said += f" and {dollars(self.reserved_usd)} is reserved by other runs"
        said += f", and the next call can cost {dollars(self.needed_usd)}"
        return f"{said}; it begins anew at {self.resets_at:%Y-%m-%d %H:%M} UTC" if self.resets_at else said


class BudgetRecord(Frozen):
    """One thing that happened to a run for its cost, as its memo records it."""

    kind: Literal["refused", "raised", "downgraded"]
    at: datetime
    refusal: Refusal | None = None
    """For `refused`."""
    budget: str = ""
    """For `raised`."""
    amount_usd: Decimal | None = None
    """For `raised`: what was added."""
    by: str = ""
    """For `raised`: who did."""
    model: str = ""
    """For `downgraded`: the model that the run goes on with."""


class BudgetMemo(Frozen):
    """The memo field `budget`: what changed since it was last written."""

    changes: tuple[BudgetRecord, ...] = ()


def named(budgets: Iterable[Budget]) -> Iterator[tuple[str, Budget]]:
    """Yield the budgets, each with what it is called."""
    return ((budget.name or f"budget {place}", budget) for place, budget in enumerate(budgets, 1))


def terms_for(
    *,
    budgets: Iterable[Budget],
    concurrency: Concurrency,
    max_cost_usd: Decimal | None,
    org: str | None,
    user: str | None,
    agent: str,
    ceilings: Mapping[str, PriceCeiling],
    unpriced: Literal["deny", "flag"],
    time_zone: str,
) -> Terms:
    """Return the terms of a run.

    Args:
        budgets: Of the policy; those that do not count the run are left out.
        concurrency: Of the policy.
        max_cost_usd: The run's own limit.
        org: The run's organisation.
        user: On whose behalf it is.
        agent: The agent's name.
        ceilings: Of the models that it may call, by reference, as far as they have a price.
        unpriced: What is done about a model without a price.
        time_zone: Where days and months begin.
    """
    counting = [(name, one) for name, one in named(budgets) if one.counts(org=org, user=user, agent=agent)]
    own = [] if max_cost_usd is None else [RunCap(budget=LIMIT_NAME, usd=max_cost_usd)]
    subjects = {"org": "org", "user": f"user {user or ''}".strip(), "agent": f"agent {agent}"}
    places = {subjects["org"]: concurrency.org, subjects["user"]: concurrency.user}
    return Terms(
        caps=(*own, *(RunCap(budget=name, usd=one.usd) for name, one in counting if one.per == "run")),
        lines=tuple(
            Line(budget=name, per=one.per, subject=subjects[one.each or "org"], usd=one.usd)
            for name, one in counting
            if one.per != "run"
        ),
        places=tuple(Place(subject=subject, most=most) for subject, most in places.items() if most is not None),
        ceilings=dict(ceilings),
        unpriced=unpriced,
        time_zone=time_zone,
    )


def whole(amount: Decimal) -> Decimal:
    """Round an amount up to a whole number of the smallest one, as rounding down would let some pass uncounted."""
    return amount.quantize(SMALLEST, rounding=ROUND_UP)


def dollars(amount: Decimal) -> str:
    """Return an amount as one writes it, without zeros that say nothing: `$0.25`."""
    return f"${amount.normalize():f}"
