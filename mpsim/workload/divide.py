"""What several ranks share must divide by their number: heads, experts, features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import gcd

from mpsim.errors import MpsimError

__all__ = ["check_divides", "nearest_divisor"]


def nearest_divisor(number: int, ranks: int) -> int:
    """Return the divisor of `number` that is nearest to `ranks`; of two as near, the smaller.

    Examples
    --------
    >>> nearest_divisor(12, 8), nearest_divisor(12, 5), nearest_divisor(7, 4)
    (6, 4, 1)
    """
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: (abs(d - ranks), d))


def check_divides(
    shared: Mapping[str, int], ranks: int, axis: str = "tensor-parallel", together: Iterable[int] = ()
) -> None:
    """Refuse numbers that `ranks` cannot share, and say which number of ranks could share them all.

    Parameters
    ----------
    shared : mapping of str to int
        What is shared to how many there are of it.
    ranks : int
        Ranks of the group.
    axis : str
        What the group is of, for the message.
    together : iterable of int
        Other numbers that the ranks share too, for what would work.

    Raises
    ------
    MpsimError
        One of them does not divide.

    Examples
    --------
    >>> check_divides({"attention heads": 32, "key-value heads": 8}, 16)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: 8 key-value heads do not divide by 16 tensor-parallel ranks; the nearest that works is 8
    """
    for what, number in shared.items():
        if number % ranks:
            nearest = nearest_divisor(gcd(*shared.values(), *together), ranks)
            raise MpsimError(
                f"{number} {what} do not divide by {ranks} {axis} ranks; the nearest that works is {nearest}"
            )
