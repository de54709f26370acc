"""How sure a share is that was counted in few cases."""

from __future__ import annotations

from math import sqrt
from typing import Final

from perdure_api.schemas import Answer

Z: Final = 1.959963984540054
"""Standard deviations within which 95 % of a normal distribution lie, on both sides."""


class Interval(Answer):
    """Where a share probably is, from 0 to 1: with a confidence of 95 %."""

    low: float
    high: float

    def is_above(self, other: Interval) -> bool:
        """Whether all of it is above all of another."""
        return self.low > other.high


def wilson(part: int, whole: int) -> Interval:
    """Return the score interval of a share (E. B. Wilson: Probable Inference, the Law of Succession, and Statistical
    Inference. Journal of the American Statistical Association 22, 1927), which is sound for few cases and for shares
    of nearly all or none.

    Args:
        part: Cases that count.
        whole: All cases; at least one.
    """
    share, squared = part / whole, Z * Z
    middle = (share + squared / (2 * whole)) / (1 + squared / whole)
    half = Z / (1 + squared / whole) * sqrt(share * (1 - share) / whole + squared / (4 * whole * whole))
    # Of all or none the interval reaches to the end; what is computed misses it by the last digit.
    low, high = 0.0 if part == 0 else middle - half, 1.0 if part == whole else middle + half
    return Interval(low=round(low, 4), high=round(high, 4))
