"""Whom a rollout's weights send where: by their shares, and moving nobody without need."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perdure.rollout import Rollout, drawn_version, rollout_id, shares

VERSIONS = st.sampled_from(["1", "1.1", "2", "2.0-rc.1", "beta"])
WEIGHTS = st.dictionaries(VERSIONS, st.integers(0, 100), min_size=1).filter(lambda weights: any(weights.values()))
KEYS = st.text(min_size=1, max_size=30)


def drawn(weights: dict[str, int], key: str, *, agent: str = "support", org: str | None = "acme") -> str:
    """Return what a key draws."""
    version = drawn_version(weights, agent=agent, org=org, key=key)
    assert version is not None
    return version


def crowd(weights: dict[str, int], *, people: int = 4000) -> dict[str, float]:
    """Return the part of a crowd that each version gets."""
    got = [drawn(weights, f"user-{number}") for number in range(people)]
    return {version: got.count(version) / people for version in weights}


@given(WEIGHTS, KEYS, st.randoms())
def test_a_draw_depends_on_nothing_but_its_arguments(weights: dict[str, int], key: str, order: Any) -> None:
    """The same user gets the same version in every process, whatever order the weights come in; never one without."""
    items = list(weights.items())
    order.shuffle(items)

    first = drawn(weights, key)

    assert drawn(dict(items), key) == first
    assert weights[first] > 0


@given(WEIGHTS, KEYS, VERSIONS, st.integers(1, 100))
def test_a_growing_weight_moves_users_to_its_version_alone(
    weights: dict[str, int], key: str, grown: str, more: int
) -> None:
    """Whoever moves when one weight grows moves there; and back, when it shrinks again."""
    after = {**weights, grown: weights.get(grown, 0) + more}

    assert drawn(after, key) in (drawn(weights, key), grown)


@given(WEIGHTS, KEYS, VERSIONS)
def test_a_version_that_goes_moves_only_its_own_users(weights: dict[str, int], key: str, gone: str) -> None:
    """Everybody else stays where they are."""
    left = {**weights, gone: 0}
    before = drawn(weights, key)

    if any(left.values()) and before != gone:
        assert drawn(left, key) == before


@given(WEIGHTS, KEYS, st.integers(2, 1000))
def test_weights_count_by_their_shares(weights: dict[str, int], key: str, factor: int) -> None:
    """90 to 10 is 9 to 1: nobody moves."""
    assert drawn({version: weight * factor for version, weight in weights.items()}, key) == drawn(weights, key)


@pytest.mark.parametrize("weights", [{"1": 90, "2": 10}, {"1": 1, "2": 1, "3": 2}, {"1": 1, "2": 0}])
def test_a_crowd_is_shared_out_by_the_weights(weights: dict[str, int]) -> None:
    """Within what chance allows: four standard deviations of 4,000 draws are at most 3.2 points."""
    assert crowd(weights) == pytest.approx(shares(weights), abs=0.032)


def test_agents_and_organisations_draw_apart() -> None:
    """Who is early with one agent is not therefore early with all; nor is a user of the same name elsewhere."""
    half = {"1": 1, "2": 1}
    people = [f"user-{number}" for number in range(1000)]

    apart = {
        "agent": sum(drawn(half, one) != drawn(half, one, agent="sales") for one in people),
        "org": sum(drawn(half, one) != drawn(half, one, org=None) for one in people),
    }

    assert all(430 < moved < 570 for moved in apart.values()), apart


def test_without_weights_nothing_is_drawn() -> None:
    """Versions that are gone leave none to choose from."""
    assert drawn_version({}, agent="support", org=None, key="ann") is None
    assert drawn_version({"1": 0}, agent="support", org=None, key="ann") is None
    assert shares({"1": 0}) == {"1": 0.0}


@pytest.mark.parametrize("weights", [{}, {"1": 0}, {"1": -1}, {"1": 1.5}, {"1 ": 1}, {"1": 1_000_001}])
def test_weights_that_let_nobody_start_are_refused(weights: dict[str, Any]) -> None:
    """So are those that mean nothing."""
    with pytest.raises(ValidationError):
        Rollout.model_validate({"agent": "a", "weights": weights, "created_by": "ann", "created_at": datetime.now(UTC)})


def test_no_organisation_can_be_named_like_all_of_them() -> None:
    """Two rollouts never share an id."""
    names = [None, "*", "a", "a:b", ":", "None"]

    assert len({rollout_id(agent, org=org) for org in names for agent in ("a", "b", "a.b")}) == 3 * len(names)
