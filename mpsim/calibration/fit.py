"""Fit a curve of regimes to measured times: robust least squares of their logarithms, parameters at 0 or above.

Within a regime a time is a sum of four parts, each a parameter times what the collective has of it: launches (one),
messages in a row, bytes on the busiest link, bytes of a rank's own part. Errors are relative, so the fit is of
logarithms, with outliers weighted down as Huber does (https://doi.org/10.1214/aoms/1177703732). Where one regime ends
and the next begins is what fits best, by dynamic programming over the measured sizes; a regime more must be worth it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_REGIMES", "Fitted", "Known", "criterion", "fit_regimes"]

_Array = NDArray[np.float64]
Known = dict[tuple[bytes, bytes, bytes], tuple[_Array, float]]
"""By a regime's points, its parameters and its loss."""

MOST_REGIMES = 4  # LL, LL128, and Simple with few channels and with all.
_SIZES_IN_A_REGIME = 2
_POINTS_IN_A_REGIME = 3  # Through fewer goes a line, whatever was measured.
# Below this an error is as good as none: measurements repeat no better.
_NOISE = 0.01
_LARGE = 0.1  # An error from which on its weight falls.
_WORTH = 0.3  # Of the Bayesian criterion's price for a parameter: few points, and each regime physical.


class Fitted(NamedTuple):
    """One regime: the sizes that it was fitted on, and its parameters."""

    least: float
    most: float
    parameters: tuple[float, ...]


def fit_regimes(
    sizes: Sequence[float], parts: _Array, offsets: _Array, seconds: _Array, known: Known | None = None
) -> tuple[list[Fitted], float]:
    """Return the regimes, the smaller sizes first, and the loss.

    Parameters
    ----------
    sizes : sequence of float
        Of each point.
    parts : array
        Points × parameters: what a point has of each part.
    offsets : array
        Seconds of each point that are known already.
    seconds : array
        Measured.
    known : dict, optional
        Regimes that were fitted to some of the points before, and will be known.

    Examples
    --------
    >>> sizes = np.array([1.0, 2.0, 4.0, 8.0])
    >>> found, _ = fit_regimes(sizes, np.stack([np.ones(4), sizes], 1), np.zeros(4), 3 + 0.5 * sizes)
    >>> [round(value, 6) for value in found[0].parameters]
    [3.0, 0.5]
    """
    each = np.array(sizes)
    marks = sorted(set(sizes))
    count = len(marks)
    fits: dict[tuple[int, int], tuple[_Array, float]] = {}
    for first, last in itertools.combinations(range(count + 1), 2):
        whole = (first, last) == (0, count)
        inside = (each >= marks[first]) & (each <= marks[last - 1])
        if (last - first >= _SIZES_IN_A_REGIME and inside.sum() >= _POINTS_IN_A_REGIME) or whole:
            fits[first, last] = _known(parts[inside], offsets[inside], seconds[inside], {} if known is None else known)
    best: dict[tuple[int, int], tuple[float, tuple[tuple[int, int], ...]]] = {(0, 0): (0.0, ())}
    for regimes in range(1, MOST_REGIMES + 1):
        for first, last in fits:
            if (first, regimes - 1) in best:
                before, cut = best[first, regimes - 1]
                loss = before + fits[first, last][1]
                if (last, regimes) not in best or loss < best[last, regimes][0]:
                    best[last, regimes] = (loss, (*cut, (first, last)))
    found = [best[count, regimes] for regimes in range(1, MOST_REGIMES + 1) if (count, regimes) in best]
    loss, cut = min(found, key=lambda one: criterion(one[0], len(one[1]) * parts.shape[1], len(seconds)))
    return [Fitted(marks[a], marks[b - 1], tuple(map(float, fits[a, b][0]))) for a, b in cut], loss


def criterion(loss: float, parameters: int, points: int) -> float:
    """Return what to choose the least of: how much is unexplained, and a price for each parameter.

    Examples
    --------
    >>> criterion(0.1, 4, 60) < criterion(0.099, 8, 60)
    True
    """
    return points * math.log(loss / points + _NOISE**2) + _WORTH * parameters * math.log(points)


def _known(parts: _Array, offsets: _Array, seconds: _Array, known: Known) -> tuple[_Array, float]:
    """Return what `_fit` does, once for the same points."""
    key = (parts.tobytes(), offsets.tobytes(), seconds.tobytes())
    if key not in known:
        known[key] = _fit(parts, offsets, seconds)
    return known[key]


def _fit(parts: _Array, offsets: _Array, seconds: _Array) -> tuple[_Array, float]:
    """Return one regime's parameters and Huber's loss of its logarithms, by least squares weighted again and again."""
    weights = 1 / seconds
    parts = _told_apart(parts)
    for _ in range(5):
        found = _not_negative(parts, seconds - offsets, weights)
        modelled = np.maximum(parts @ found + offsets, 1e-12)
        apart = np.abs(np.log(modelled / seconds))
        scale = 1.345 * max(1.5 * _median(apart), _NOISE)
        weights = np.sqrt(np.minimum(1, scale / np.maximum(apart, 1e-12)) / (modelled * seconds))
    loss = np.where(apart < _LARGE, apart**2, 2 * _LARGE * apart - _LARGE**2)
    return found, float(loss.sum())


def _median(values: _Array) -> float:
    """Return the median, in a fifth of the time that `numpy.median` takes of a few."""
    ordered = np.sort(values)
    count = len(ordered)
    return float((ordered[(count - 1) // 2] + ordered[count // 2]) / 2)


def _told_apart(parts: _Array) -> _Array:
    """Return the parts without those that are in proportion to one before: which of two it was, no fit can tell."""
    kept = parts.copy()
    for last in range(1, parts.shape[1]):
        for first in range(last):
            if not (parts[:, first] > 0).all():
                continue
            ratios = parts[:, last] / parts[:, first]
            if ratios.max() - ratios.min() <= 1e-9 * np.abs(ratios).max():
                kept[:, last] = 0.0
    return kept


def _not_negative(parts: _Array, values: _Array, weights: _Array) -> _Array:
    """Return the least-squares parameters, none below 0: with four of them, every choice of which are 0 is tried."""
    scaled = parts * weights[:, None]
    scales = np.abs(scaled).max(axis=0)
    scales[scales == 0] = 1.0
    scaled, target = scaled / scales, values * weights
    # On a few columns of one scale the normal equations are as good as any way, and fast.
    normal, right = scaled.T @ scaled + _RIDGES[len(scales)], scaled.T @ target
    least, best = 0.0, np.zeros(len(scales))
    for choices in _CHOICES[len(scales)]:
        found = _solved(normal, right, choices)
        for chosen, solved, lowest in zip(choices, found, found.min(axis=1).tolist(), strict=True):
            if lowest < 0:
                continue
            left = -float(solved @ right[chosen])
            if left < least * (1 + 1e-9):
                least, best = left, np.zeros(len(scales))
                best[chosen] = solved / scales[chosen]
            if len(chosen) == len(scales):
                return best  # Nothing is better with fewer.
    return best


def _solved(normal: _Array, right: _Array, choices: NDArray[np.intp]) -> _Array:
    """Return the parameters of each choice, those that are left out aside, in one call: it costs more than to solve."""
    solved = np.linalg.solve(normal[choices[:, :, None], choices[:, None, :]], right[choices][:, :, None])
    return np.asarray(solved[:, :, 0], np.float64)


_RIDGES = {count: 1e-12 * np.eye(count) for count in range(1, 5)}
# For each number of parameters, the choices of those that are above 0 by how many they are: all of them first.
_CHOICES = {
    count: [np.array(list(itertools.combinations(range(count), size))) for size in range(count, 0, -1)]
    for count in range(1, 5)
}
