"""The best interval between checkpoints: the same trials with many, then a parabola through those around the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from mpsim.failures.draws import Floats
from mpsim.failures.outcome import Tried

__all__ = ["best_interval"]

_AROUND = 9  # intervals of each round
_MOST_ROUNDS = 12


def best_interval(
    useful: Callable[[Floats], Floats], step_s: float, start: float, most: int
) -> tuple[Tried, tuple[Tried, ...]]:
    """Return the number of steps between checkpoints with the highest mean goodput, and all that were tried.

    Parameters
    ----------
    useful : callable
        Mean goodput with each of an array of numbers of steps, of the same trials.
    step_s : float
        An undisturbed step.
    start : float
        Steps to begin the search around.
    most : int
        Steps that an interval may have.

    Examples
    --------
    >>> best, tried = best_interval(lambda steps: 0.9 - np.log(steps / 40) ** 2 / 100, 2.0, 10.0, 1000)
    >>> best
    Tried(interval_s=80.0, steps=40, goodput=0.9)
    """
    found: dict[int, float] = {}

    def look(at: Sequence[float]) -> None:
        new = sorted({min(max(round(one), 1), most) for one in at} - found.keys())
        if new:
            found.update(zip(new, useful(np.array(new, dtype=float)).tolist(), strict=True))

    look([start * 2.0 ** (i / 2) for i in range(-4, 5)])
    for _ in range(_MOST_ROUNDS):
        best = _best(found)
        if min(found) < best < max(found) or (best == min(found) == 1) or (best == max(found) == most):
            break
        look([best * 2.0 ** (i / 2 if best == max(found) else -i / 2) for i in range(1, 5)])
    best = _best(found)
    near = [best * 2.0 ** (i / (_AROUND - 1)) for i in range(1 - _AROUND, _AROUND)]
    look(near)
    if (vertex := _vertex({k: v for k, v in found.items() if near[0] <= k <= near[-1]})) is not None:
        look([vertex])
        best = min(max(round(vertex), 1), most)
    tried = tuple(Tried(interval_s=k * step_s, steps=k, goodput=found[k]) for k in sorted(found))
    return next(one for one in tried if one.steps == best), tried


def _best(found: dict[int, float]) -> int:
    return max(found, key=lambda steps: (found[steps], -steps))


def _vertex(found: dict[int, float]) -> float | None:
    """Return the top of a curve through points by the logarithm of their steps; None where it has none among them.

    A single best point would be the luckiest, not the best.
    """
    if len(found) < 5:
        return None
    x, y = np.log(np.array(list(found))), np.array(list(found.values()))
    middle = float(x.mean())
    bend, slope, _ = np.polyfit(x - middle, y, 2)
    if bend >= 0:
        return None
    top = middle - slope / (2.0 * bend)
    return math.exp(top) if x.min() <= top <= x.max() else None
