"""Cut a list of layers into contiguous stages, so that the costliest stage costs least."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from itertools import pairwise

from mpsim.errors import MpsimError

__all__ = ["balance", "check_boundaries", "stage_slices"]

_Cost = Callable[[int, int, int], float]
_Combine = Callable[[float, float], float]
_Solution = tuple[float, tuple[int, ...]]


def balance(n_layers: int, n_stages: int, cost: _Cost) -> tuple[int, ...]:
    """Return the boundaries of the contiguous partition whose costliest stage is cheapest.

    Exact, by dynamic programming over (stage, first layer), O(stages · layers²) calls of `cost`
    (the linear partition problem; torchgpipe's block partition solves the same one,
    https://arxiv.org/abs/2004.09910). Of all such partitions it is the most even one, with the least sum of squares:
    one layer that outweighs the rest shall not leave the rest unbalanced.

    Parameters
    ----------
    n_layers, n_stages : int
        Every stage gets at least one layer.
    cost : callable
        ``cost(stage, first, last)``: seconds of `stage` with the layers ``first..last-1``.

    Returns
    -------
    tuple of int
        The first layer of each stage but the first; of equal partitions the one with the earliest boundaries.

    Raises
    ------
    MpsimError
        There are fewer layers than stages.

    Examples
    --------
    >>> times = [9, 1, 1, 1, 1]
    >>> balance(5, 3, lambda stage, first, last: sum(times[first:last]))
    (1, 3)
    """
    if n_stages > n_layers:
        raise MpsimError(
            f"{n_layers} layers cannot make {n_stages} stages: lower pp, or trace the model with a finer --depth"
        )
    cost = cache(cost)
    most, _ = _solve(n_layers, n_stages, cost, max)

    def squared(stage: int, first: int, last: int) -> float:
        seconds = cost(stage, first, last)
        return seconds * seconds if seconds <= most else math.inf

    return _solve(n_layers, n_stages, squared, operator.add)[1]


def _solve(n_layers: int, n_stages: int, cost: _Cost, combine: _Combine) -> _Solution:
    """Return the least of the stages' combined costs, and the boundaries that give it."""
    last = n_stages - 1
    after: dict[int, _Solution] = {first: (cost(last, first, n_layers), ()) for first in range(last, n_layers)}
    for stage in range(last - 1, -1, -1):
        limit = n_layers - (last - stage)
        starts = range(stage, limit) if stage else range(1)
        after = {first: _best_cut(stage, range(first + 1, limit + 1), after, cost, combine) for first in starts}
    return after[0]


def _best_cut(stage: int, cuts: range, after: dict[int, _Solution], cost: _Cost, combine: _Combine) -> _Solution:
    """Return the best way to go on from where `stage` starts, the layer before the first of `cuts`."""
    first = cuts.start - 1
    score, cut = min((combine(cost(stage, first, cut), after[cut][0]), cut) for cut in cuts)
    return score, (cut, *after[cut][1])


def check_boundaries(boundaries: tuple[int, ...], n_layers: int) -> None:
    """Refuse boundaries that leave a stage without a layer.

    Raises
    ------
    MpsimError
        The boundaries do not ascend, or lie outside ``1..n_layers-1``.
    """
    edges = (0, *boundaries, n_layers)
    for low, high in pairwise(edges):
        if low >= high:
            raise MpsimError(
                f"stage boundaries {list(boundaries)} leave a stage without layers: they must ascend within"
                f" 1 to {n_layers - 1}"
            )


def stage_slices(boundaries: tuple[int, ...], n_layers: int) -> list[range]:
    """Return the layers of each stage.

    Examples
    --------
    >>> stage_slices((2,), 5)
    [range(0, 2), range(2, 5)]
    """
    check_boundaries(boundaries, n_layers)
    edges = (0, *boundaries, n_layers)
    return [range(a, b) for a, b in pairwise(edges)]
