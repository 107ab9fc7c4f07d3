"""One row of what nccl-tests measured, and what its columns say of each other.

However a row was printed, ``algbw`` is size / time, and ``busbw`` is ``algbw`` times what the kind of collective has of
the number of ranks (https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md). Both hold to the last digit
printed, so that a column taken for another, or a kind or number of ranks that was not this run's, is seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

from mpsim.calibration.measurement import LEAST_S, MOST_BYTES, MOST_S
from mpsim.errors import MpsimError

__all__ = [
    "NUMBER",
    "Printed",
    "Row",
    "Side",
    "check_ratio",
    "check_row",
    "factor",
    "fits",
    "holds",
    "printed",
    "ranks_by_bandwidths",
    "whole_size",
]

NUMBER = re.compile(r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|nan|inf(inity)?)", re.IGNORECASE)
_ROUNDING = 1e-6  # Of the arithmetic before the last digit was cut off.
_MOST_RANKS_LEFT = 64  # So many numbers of ranks that bandwidths leave open are looked at; two are too many.


class Printed(NamedTuple):
    """A number as it was printed: its value, and half a unit of its last digit."""

    value: float
    half: float


def printed(text: str) -> Printed:
    """Return a printed number.

    Examples
    --------
    >>> printed("22.50"), printed("33771"), printed("1.5e+07")
    (Printed(value=22.5, half=0.005), Printed(value=33771.0, half=0.5), Printed(value=15000000.0, half=500000.0))
    """
    exponent = Decimal(text).as_tuple().exponent
    return Printed(float(text), float(f"5e{exponent - 1}") if isinstance(exponent, int) else 0.0)


class Side(NamedTuple):
    """What was measured out of place, or in place."""

    time_us: Printed
    algbw: Printed
    busbw: Printed
    wrong: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One size of one collective: where it stands, and its sides, the one to take first."""

    where: str
    size: int
    sides: tuple[Side, ...]


def factor(kind: str, ranks: int) -> float:
    """Return busbw / algbw.

    Examples
    --------
    >>> factor("all_reduce", 8), factor("all_gather", 8), factor("broadcast", 8)
    (1.75, 0.875, 1.0)
    """
    of_parts = ("all_gather", "reduce_scatter", "all_to_all", "gather", "scatter")
    return 2 * (ranks - 1) / ranks if kind == "all_reduce" else (ranks - 1) / ranks if kind in of_parts else 1.0


def holds(size: float, side: Side) -> bool:
    """Whether algbw is size / time, as far as both were printed."""
    time_us, algbw = side.time_us, side.algbw
    if not 0 < time_us.value < math.inf:
        return False
    rate = size / time_us.value / 1e3
    least, most = (size / max(time_us.value + way * time_us.half, 1e-12) / 1e3 for way in (1, -1))
    margin = algbw.half + _ROUNDING * rate
    return least - margin <= algbw.value <= most + margin


def whole_size(where: str, text: str) -> int:
    """Return a size in bytes.

    Raises
    ------
    MpsimError
        None that a tensor could have.
    """
    # int() of thousands of digits is refused by Python itself.
    if len(text) > 19 or int(text) > MOST_BYTES:
        raise MpsimError(f"{where}: a size of {len(text)} digits is no tensor's: it was edited")
    return int(text)


def check_row(row: Row) -> None:
    """Refuse a row that contradicts itself.

    Raises
    ------
    MpsimError
        No time, values that came out wrong, or an algbw that is not size / time.
    """
    for side in row.sides:
        time_us, algbw, _, wrong = side
        if not LEAST_S <= time_us.value * 1e-6 <= MOST_S:
            raise MpsimError(
                f"{row.where}: {row.size} bytes in {time_us.value} us: expected more than 0, and less than days"
            )
        if _is_wrong(wrong):
            raise MpsimError(f"{row.where}: {wrong[:20]} values came out wrong (#wrong): the run was broken, log again")
        if not holds(row.size, side):
            rate = row.size / time_us.value / 1e3
            raise MpsimError(
                f"{row.where}: {row.size} bytes in {time_us.value:g} us are {rate:.4g} GB/s, its algbw is"
                f" {algbw.value:g}: its columns do not match (size / time is algbw); it was edited, log again"
            )


def check_ratio(row: Row, kind: str, ranks: int) -> None:
    """Refuse a row whose busbw / algbw is not what a kind of collective has over so many ranks.

    Raises
    ------
    MpsimError
        It is another's.
    """
    ratio = factor(kind, ranks)
    for side in row.sides:
        if not fits(side, ratio):
            found = side.busbw.value / side.algbw.value if side.algbw.value else math.inf
            raise MpsimError(
                f"{row.where}: busbw / algbw is {found:.4g}, of {kind} over {ranks} ranks it is {ratio:.4g}: the"
                " collective or the number of ranks is another than the log or its name tells, or it was edited"
            )


def ranks_by_bandwidths(kind: str, rows: Sequence[Row]) -> int:
    """Return the one number of ranks that all rows admit; 0 where they admit none or several.

    Examples
    --------
    >>> side = Side(printed("50.0"), printed("20.97"), printed("36.70"))
    >>> ranks_by_bandwidths("all_reduce", [Row(where="a:1", size=2**20, sides=(side,))])
    8
    """
    if not rows or factor(kind, 2) == factor(kind, 3):
        return 0
    sides = [side for row in rows for side in row.sides]
    best = max(sides, key=lambda side: side.algbw.value)
    if not best.algbw.value > best.algbw.half:
        return 0
    least = (best.busbw.value - best.busbw.half) / (best.algbw.value + best.algbw.half)
    left = 1 - least / factor(kind, 2) / 2
    first = max(2, math.floor(1 / left)) if 0 < left < 1 else 2
    found = [n for n in range(first, first + _MOST_RANKS_LEFT) if all(fits(side, factor(kind, n)) for side in sides)]
    return found[0] if len(found) == 1 else 0


def fits(side: Side, ratio: float) -> bool:
    """Whether busbw is so many times algbw, as far as both were printed."""
    margin = side.busbw.half + ratio * side.algbw.half + _ROUNDING * side.busbw.value
    return abs(side.busbw.value - ratio * side.algbw.value) <= margin


def _is_wrong(text: str) -> bool:
    """Whether a count of wrong values is one, and above 0."""
    return NUMBER.fullmatch(text) is not None and float(text) > 0
