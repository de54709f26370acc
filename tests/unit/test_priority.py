"""The keys that Temporal orders waiting runs by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.priority import MAX_FAIRNESS_KEY_BYTES, Priority, fairness_key, priority_of

ORGS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=255)


def test_a_higher_priority_has_the_smaller_key() -> None:
    """Temporal takes the smallest number first."""
    keys = [priority.keys(org=None).priority_key for priority in (Priority.HIGH, Priority.NORMAL, Priority.LOW)]

    assert keys == [1, 3, 5]


@given(ORGS, ORGS)
def test_organisations_have_keys_of_their_own(org: str, other: str) -> None:
    """Two organisations never share a key, however long their names are, and Temporal takes every key."""
    assert len(fairness_key(org).encode()) <= MAX_FAIRNESS_KEY_BYTES
    assert (fairness_key(org) == fairness_key(other)) == (org == other)


@pytest.mark.parametrize(("key", "priority"), [(0, "normal"), (1, "high"), (3, "normal"), (5, "low"), (9, "low")])
def test_a_key_is_read_back(key: int, priority: str) -> None:
    """What others started is shown by the nearest priority of ours, and no key at all is Temporal's middle one."""
    assert priority_of(key) is Priority(priority)
