"""Intervals of shares, against published values and the equation that they solve."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure_api.proportion import Interval, Z, wilson


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_are_those_of_the_literature(part: int, whole: int, low: float, high: float) -> None:
    """R. G. Newcombe: Two-sided confidence intervals for the single proportion, 1998, table I, method 3."""
    assert wilson(part, whole) == Interval(low=low, high=high)


@given(st.integers(1, 10_000).flatmap(lambda whole: st.tuples(st.integers(0, whole), st.just(whole))))
def test_an_interval_solves_wilsons_equation(case: tuple[int, int]) -> None:
    """Its ends are the shares that are Z standard errors away from what was counted, which lies between them."""
    part, whole = case
    share, found = part / whole, wilson(part, whole)

    assert 0 <= found.low <= round(share, 4) <= found.high <= 1
    for end in (found.low, found.high):
        if 0 < end < 1:
            error = (share - end) ** 2 - Z * Z * end * (1 - end) / whole
            assert abs(error) < 2e-4  # four digits are kept


@given(st.integers(1, 500), st.integers(2, 20))
def test_more_cases_make_surer(whole: int, times: int) -> None:
    """The same share of more cases has a narrower interval."""
    few, many = wilson(whole // 2, whole), wilson(whole // 2 * times, whole * times)

    assert many.high - many.low <= few.high - few.low
