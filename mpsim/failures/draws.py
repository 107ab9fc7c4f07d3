"""When things fail in each trial: drawn by trial number and by nothing else."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "failure_times", "generator"]

Floats = NDArray[np.float64]


def generator(seed: int, trial: int, what: int) -> np.random.Generator:
    """Return the random numbers of one purpose in one trial."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(trial, what)))


def failure_times(
    rng: np.random.Generator, means_s: Floats, shape: float, horizon_s: float
) -> tuple[Floats, NDArray[np.int64]]:
    """Return when which of some things fail before an end, each replaced by a new one at each failure.

    Parameters
    ----------
    rng : numpy.random.Generator
        What to draw from.
    means_s : array, shape (things,)
        Mean time between each one's failures; infinite: it never fails.
    shape : float
        Of the Weibull distribution of that time; 1: exponential.
    horizon_s : float
        The end.

    Returns
    -------
    times, things : array, shape (failures,)
        In order of time.

    Examples
    --------
    >>> times, things = failure_times(np.random.default_rng(0), np.array([10.0, math.inf]), 1.0, 1000.0)
    >>> 70 < len(times) < 130, set(things.tolist())
    (True, {0})
    """
    things = np.flatnonzero(means_s < math.inf)
    scales = means_s[things] / math.gamma(1.0 + 1.0 / shape)
    last = np.zeros(len(things))
    times, which = [], []
    while len(things):
        drawn = rng.standard_exponential(len(things)) if shape == 1 else rng.weibull(shape, len(things))
        last = last + drawn * scales
        stay = last < horizon_s
        things, scales, last = things[stay], scales[stay], last[stay]
        times.append(last)
        which.append(things)
    if not times:
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    found, of = np.concatenate(times), np.concatenate(which)
    order = np.argsort(found, kind="stable")
    return found[order], of[order].astype(np.int64)
