"""Sums of many equal numbers, without rounding on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["addends", "sum_of"]


def addends(value: float, times: int) -> tuple[float, ...]:
    """Return a few numbers that add up to `value`, so many times over, without rounding.

    Examples
    --------
    >>> addends(0.1, 5)
    (0.1, 0.4)
    """
    return tuple([value * 2.0**k for k in range(times.bit_length()) if times >> k & 1])


def sum_of(values: Iterable[tuple[float, int]]) -> float:
    """Return the sum of values, each so many times over, rounded once.

    Examples
    --------
    >>> sum_of([(0.1, 10), (1.0, 1)])
    2.0
    """
    return math.fsum(part for value, times in values for part in addends(value, times))
