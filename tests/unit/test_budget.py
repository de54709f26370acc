"""Budgets of a policy: whom they count, what is wrong with one, and the terms that a run is pinned to."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perdure import Agent, Limits
from perdure.budget import Budget, Concurrency, Line, Place, PriceCeiling, RunCap, Terms, dollars, terms_for, whole
from perdure.policy import Policy


def terms(policy: dict[str, Any], **run: Any) -> Terms:
    """Return the terms of a run under a policy."""
    read = Policy.model_validate(policy)
    fields: dict[str, Any] = {"org": "acme", "user": "ann", "agent": "support", "max_cost_usd": None, **run}
    return terms_for(
        budgets=read.budgets,
        concurrency=read.concurrency,
        ceilings={},
        unpriced=read.unpriced,
        time_zone=read.time_zone,
        **fields,
    )


def test_a_run_is_pinned_to_the_budgets_that_count_it() -> None:
    """Each budget goes by whom it counts, and is kept for whoever has it."""
    policy = {
        "time_zone": "Europe/Berlin",
        "budgets": [
            {"name": "all", "per": "month", "usd": 100},
            {"name": "each user", "per": "day", "usd": "2.50", "each": "user"},
            {"name": "each agent", "per": "day", "usd": 20, "each": "agent"},
            {"per": "day", "usd": 1, "agent": "research-*"},
            {"name": "one run", "per": "run", "usd": 0.5},
            {"name": "bob", "per": "day", "usd": 1, "user": ["bob", "b?b"]},
        ],
        "concurrency": {"org": 100, "user": 5},
    }

    found = terms(policy, max_cost_usd=Decimal("0.3"))

    assert found == Terms(
        caps=(RunCap(budget="max_cost_usd", usd=Decimal("0.3")), RunCap(budget="one run", usd=Decimal("0.5"))),
        lines=(
            Line(budget="all", per="month", subject="org", usd=Decimal(100)),
            Line(budget="each user", per="day", subject="user ann", usd=Decimal("2.50")),
            Line(budget="each agent", per="day", subject="agent support", usd=Decimal(20)),
        ),
        places=(Place(subject="org", most=100), Place(subject="user ann", most=5)),
        time_zone="Europe/Berlin",
    )
    assert [line.budget for line in terms(policy, agent="research-2").lines][-1] == "budget 4"


def test_runs_on_nobodys_behalf_count_as_one_users() -> None:
    """A run without user or organisation is counted too, and a budget of a named user does not count it."""
    budgets = [{"per": "day", "usd": 1, "each": "user"}, {"per": "day", "usd": 1, "user": "ann"}]

    found = terms({"budgets": budgets, "concurrency": {"user": 1}}, org=None, user=None)

    assert [line.subject for line in found.lines] == ["user"]
    assert found.places == (Place(subject="user", most=1),)


def test_a_run_without_budgets_limits_no_money() -> None:
    """Without a cap, a line or a refusal of unpriced models, no call can be one too many."""
    assert not terms({}).limits_money
    assert terms({"unpriced": "deny"}).limits_money
    assert terms({}, max_cost_usd=Decimal(1)).limits_money


@pytest.mark.parametrize(
    ("policy", "place", "why"),
    [
        ({"budgets": [{"per": "week", "usd": 1}]}, ("budgets", 0, "per"), "'run', 'day' or 'month'"),
        ({"budgets": [{"per": "day", "usd": 0}]}, ("budgets", 0, "usd"), "greater than 0"),
        ({"budgets": [{"per": "day", "usd": "NaN"}]}, ("budgets", 0, "usd"), "finite"),
        ({"budgets": [{"per": "day", "usd": 1, "user": []}]}, ("budgets", 0, "user"), "at least 1"),
        ({"budgets": [{"per": "day", "usd": 1, "team": "x"}]}, ("budgets", 0, "team"), "not permitted"),
        ({"budgets": [{"per": "run", "usd": 1, "each": "user"}]}, ("budgets", 0), "each run's own"),
        ({"budgets": [{"per": "day", "usd": 1, "name": "a\nb"}]}, ("budgets", 0, "name"), "pattern"),
        ({"budgets": [{"name": "a", "per": "day", "usd": 1}] * 2}, ("budgets",), "two budgets are named 'a'"),
        ({"budgets": [{"per": "day", "usd": 1}, {"name": "budget 1", "per": "day", "usd": 1}]}, ("budgets",), "two"),
        ({"concurrency": {"org": 0}}, ("concurrency", "org"), "greater than or equal to 1"),
        ({"concurrency": {"agent": 3}}, ("concurrency", "agent"), "not permitted"),
        ({"time_zone": "Mars/Olympus"}, ("time_zone",), "'Mars/Olympus' is no time zone"),
        ({"time_zone": "../../etc/passwd"}, ("time_zone",), "is no time zone"),
        ({"time_zone": ""}, ("time_zone",), "at least 1"),
        ({"unpriced": "ignore"}, ("unpriced",), "'deny' or 'flag'"),
    ],
)
def test_a_bad_value_is_named(policy: dict[str, Any], place: tuple[str | int, ...], why: str) -> None:
    """A mistake in a policy says where it is and what would be right, so that its line can be shown."""
    with pytest.raises(ValidationError) as caught:
        Policy.model_validate(policy)

    [problem] = caught.value.errors()
    assert problem["loc"] == place
    assert why in problem["msg"]


def test_a_pinned_zone_is_not_looked_up_again() -> None:
    """A policy read back from a history is taken as it was, on a machine too that does not know its zone."""
    assert Policy.model_validate_json('{"time_zone": "Mars/Olympus"}').time_zone == "Mars/Olympus"


def test_a_policy_survives_the_history_that_it_is_pinned_in() -> None:
    """What is written out whole, defaults included, is read back as it was."""
    policy = Policy.model_validate({"budgets": [{"per": "run", "usd": 1}, {"per": "day", "usd": 2, "each": "user"}]})

    assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_an_agent_says_what_it_downgrades_to() -> None:
    """A cheaper model goes with the wish to use it."""
    with pytest.raises(ValidationError, match="budget_model goes with"):
        Agent(name="a", model="anthropic:x", on_budget="downgrade")
    with pytest.raises(ValidationError, match="budget_model goes with"):
        Agent(name="a", model="anthropic:x", budget_model="anthropic:y")
    with pytest.raises(ValidationError, match="greater than 0"):
        Limits(max_cost_usd=Decimal(0))


@given(tokens=st.integers(0, 10**7), output=st.integers(0, 10**6), price=st.decimals("0", "500", places=6))
def test_a_ceiling_never_counts_too_little(tokens: int, output: int, price: Decimal) -> None:
    """The worst case is at least what the tokens cost, to the last digit that is kept."""
    cost = PriceCeiling(input=price, output=2 * price).cost(input_tokens=tokens, output_tokens=output)

    exact = (tokens * price + output * 2 * price) / 1_000_000
    assert exact <= cost < exact + Decimal("1e-9")
    assert whole(cost) == cost


def test_amounts_are_written_as_people_do() -> None:
    """No zeros that say nothing, and no exponent."""
    assert [dollars(Decimal(text)) for text in ("10.00", "0.250000000", "100", "1E-7")] == [
        "$10",
        "$0.25",
        "$100",
        "$0.0000001",
    ]


def test_a_budget_counts_by_patterns() -> None:
    """Globs match whole names, in their case."""
    budget = Budget.model_validate({"per": "day", "usd": 1, "org": "ac*", "agent": ["support", "sales-?"]})

    assert budget.counts(org="acme", user=None, agent="sales-1")
    assert not budget.counts(org="acme", user=None, agent="sales-10")
    assert not budget.counts(org="Acme", user="ann", agent="support")
    assert not budget.counts(org=None, user="ann", agent="support")


def test_nothing_is_capped_by_default() -> None:
    """A policy that says nothing of money changes nothing."""
    assert Policy().budgets == ()
    assert Policy().concurrency == Concurrency()
    assert Policy().unpriced == "flag"
