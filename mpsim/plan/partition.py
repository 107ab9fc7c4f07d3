"""Cut a list of layers into contiguous stages: the costliest as cheap as can be, or all of them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from mpsim.errors import MpsimError

__all__ = ["Table", "balance", "cheapest", "check_boundaries", "least_most", "stage_slices"]

Table = NDArray[np.float64]
_MOST = 1e300


def balance(costs: Sequence[Table]) -> tuple[int, ...]:
    """Return the boundaries of the contiguous partition whose costliest stage is cheapest.

    Exact, by dynamic programming over (stage, first layer), O(stages · layers²) (the linear partition problem;
    torchgpipe's block partition solves the same one, https://arxiv.org/abs/2004.09910). Of all such partitions it is
    the most even one, with the least sum of squares: one layer that outweighs the rest shall not leave the rest
    unbalanced.

    Parameters
    ----------
    costs : sequence of array of shape (layers + 1, layers + 1)
        Of each stage the seconds that it takes with the layers ``first..last-1`` at ``[first, last]``; what stands
        where ``last`` is no more than ``first`` is not looked at, as every stage gets a layer. Stages that are alike
        may share an array: then it is looked at once.

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
    >>> total = np.cumsum([0, 9, 1, 1, 1, 1])
    >>> balance([total - total[:, None]] * 3)
    (1, 3)
    """
    costs = _checked(costs)
    most = _least_most(costs)
    return _cheapest(_each(costs, lambda cost: np.where(cost <= most, _scaled(cost, most) ** 2, np.inf)))


def cheapest(costs: Sequence[Table], rooms: Sequence[float]) -> list[tuple[int, ...]]:
    """Return the boundaries whose stages cost least in all, the costliest no more than `rooms` times what it must.

    Parameters
    ----------
    costs : sequence of array
        As of `balance`.
    rooms : sequence of float
        1: the costliest stage as cheap as can be; ``inf``: as it comes. For each there are boundaries.

    Examples
    --------
    >>> first, second = np.full((4, 4), 9.0), np.full((4, 4), 9.0)
    >>> first[0, 1:3], second[1:3, 3] = (2, 4), (5, 4)
    >>> cheapest([first, second], [1.0, 1.25])
    [(2,), (1,)]
    """
    costs = _checked(costs)
    most = _least_most(costs)
    scaled = {id(cost): _scaled(cost, most) for cost in costs}

    def within(room: float) -> list[Table]:
        return _each(costs, lambda cost: np.where(cost <= most * room, scaled[id(cost)], np.inf))

    return [_cheapest(within(room)) for room in rooms]


def least_most(costs: Sequence[Table]) -> float:
    """Return what the costliest stage costs in the partition in which that is least.

    Examples
    --------
    >>> total = np.cumsum([0, 9, 1, 1, 1, 1])
    >>> least_most([total - total[:, None]] * 3)
    9.0
    """
    return _least_most(_checked(costs))


def _checked(costs: Sequence[Table]) -> list[Table]:
    """Return the costs with infinity for stages without layers, and for no other."""
    size = len(costs[0])
    if len(costs) > size - 1:
        raise MpsimError(
            f"{size - 1} layers cannot make {len(costs)} stages: lower pp, or trace the model with a finer --depth"
        )
    edges = np.arange(size)
    return _each(costs, lambda cost: np.where(edges > edges[:, None], np.minimum(cost, _MOST), np.inf))


def _each(costs: Sequence[Table], change: Callable[[Table], Table]) -> list[Table]:
    """Change every array, one that stands for several stages once."""
    changed = {id(cost): cost for cost in costs}
    changed = {key: change(cost) for key, cost in changed.items()}
    return [changed[id(cost)] for cost in costs]


def _scaled(cost: Table, most: float) -> Table:
    """Return the costs over a power of two, which rounds nothing: squares and sums of them are finite."""
    return np.ldexp(cost, -math.frexp(most)[1])


def _least_most(costs: Sequence[Table]) -> float:
    """Return the least that the costliest stage can cost."""
    after = costs[-1][:, -1]
    for cost in costs[-2::-1]:
        after = np.maximum(cost, after).min(axis=1)
    return float(after[0])


def _cheapest(costs: Sequence[Table]) -> tuple[int, ...]:
    """Return the boundaries whose stages cost least in all."""
    rows = np.arange(len(costs[0]))
    after = costs[-1][:, -1]
    choices = []
    for cost in costs[-2::-1]:
        score = cost + after
        choices.append(score.argmin(axis=1))
        after = score[rows, choices[-1]]
    boundaries, first = [], 0
    for choice in reversed(choices):
        first = int(choice[first])
        boundaries.append(first)
    return tuple(boundaries)


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
