"""What one trial draws: a quantile for every execution of every layer, slow devices, late messages.

Every number comes from ``SeedSequence(seed, spawn_key=(trial, what, which))``, the key that ``spawn`` would give, so
that it depends on the trial and on what it is for, and on nothing else: not on the plan, the number of processes or
the order of trials. Plans that are compared meet the same draws.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

from mpsim.calls import checked
from mpsim.errors import MpsimError
from mpsim.program.model import Task, Traffic
from mpsim.units import whole

__all__ = ["Draw", "Seed", "Trials", "Variability", "check_processes", "delayed", "seed_of"]

Seed = int | np.random.Generator | None


def seed_of(rng: Seed) -> int:
    """Return the seed that stands for an ``rng=`` argument (SPEC 7).

    Examples
    --------
    >>> seed_of(7)
    7
    """
    if isinstance(rng, Integral) and not isinstance(rng, bool):
        return whole(rng, "seed")
    return int(np.random.default_rng(rng).integers(2**63))


MOST_TRIALS = 10_000_000


def check_processes(count: int) -> None:
    """Refuse a number of processes that this machine cannot hold.

    Raises
    ------
    MpsimError
        Below 1, or many times its processors.

    Examples
    --------
    >>> check_processes(100_000)
    Traceback (most recent call last):
    ...
    mpsim.errors.MpsimError: 100,000 processes are more than this machine has use for: ask for as many as processors
    """
    if count < 1:
        raise MpsimError(f"processes is {count}, expected 1 or more")
    if count > max(64, 4 * (os.cpu_count() or 1)):
        raise MpsimError(f"{count:,} processes are more than this machine has use for: ask for as many as processors")


class _Key(IntEnum):
    LAYER = 0
    OPTIMIZER = 1
    DEVICE = 2
    LINK = 3


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Variability:
    """What differs from trial to trial, besides the measured samples of layer times.

    Attributes
    ----------
    link_jitter_s : float
        Every transfer waits an exponentially distributed extra latency of this mean.
    straggler_probability : float
        In a trial each device is slow with this probability, 0 to 1.
    straggler_factor : float
        A slow device's computations take this many times as long.

    Examples
    --------
    >>> Variability(straggler_probability=0.01, straggler_factor=1.5).none
    False
    """

    link_jitter_s: float = 0.0
    straggler_probability: float = 0.0
    straggler_factor: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.link_jitter_s) and self.link_jitter_s >= 0):
            raise MpsimError(f"link jitter is {self.link_jitter_s} s, expected 0 or more")
        if not 0 <= self.straggler_probability <= 1:
            raise MpsimError(f"straggler probability is {self.straggler_probability}, expected 0 to 1")
        if not (math.isfinite(self.straggler_factor) and self.straggler_factor >= 1):
            raise MpsimError(f"straggler factor is {self.straggler_factor}, expected 1 or more")

    @property
    def none(self) -> bool:
        """Whether nothing varies."""
        slow = self.straggler_probability > 0 and self.straggler_factor > 1
        return not (self.link_jitter_s or slow)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The random numbers of one trial."""

    seed: int
    trial: int
    variability: Variability = Variability()

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.trial, *key)))

    def layer(self, layer: int, tp_rank: int, first: int, count: int) -> NDArray[np.float64]:
        """Return quantiles, shape (count, 3), of micro-batches `first` on of the global batch: forward, input, weight.

        The k-th micro-batch meets the same quantiles however the plan numbers its replicas.
        """
        return self._generator(_Key.LAYER, layer, tp_rank).random((first + count, 3))[first:]

    def optimizer(self, layer: int, tp_rank: int, replica: int) -> float:
        """Return the quantile of a layer's update."""
        return float(self._generator(_Key.OPTIMIZER, layer, tp_rank, replica).random())

    def slowdown(self, device: int) -> float:
        """Return by how much a device's computations take longer in this trial."""
        if not self.variability.straggler_probability:
            return 1.0
        slow = self._generator(_Key.DEVICE, device).random() < self.variability.straggler_probability
        return self.variability.straggler_factor if slow else 1.0

    def lateness(self, count: int) -> NDArray[np.float64]:
        """Return the extra latency of each of a program's transfers, in seconds, in the program's order."""
        return self._generator(_Key.LINK).exponential(self.variability.link_jitter_s, count)


@checked
@dataclass(frozen=True, slots=True, kw_only=True)
class Trials:
    """How many steps are run, and what differs between them.

    Attributes
    ----------
    count : int
        1 or more.
    rng : int, numpy.random.Generator or None
        What makes them reproducible.
    variability : Variability
        What differs besides the measured samples of layer times.
    processes : int
        That share them; no number depends on it.

    Raises
    ------
    MpsimError
        Less than one trial or process.

    Examples
    --------
    >>> Trials(count=8, rng=3).draw(7) == Draw(seed=3, trial=7)
    True
    """

    count: int = 1
    rng: Seed = 0
    variability: Variability = Variability()
    processes: int = 1

    def __post_init__(self) -> None:
        if self.count < 1:
            raise MpsimError(f"trials is {self.count}, expected 1 or more")
        if self.count > MOST_TRIALS:
            raise MpsimError(f"{self.count:,} trials would not end: ask for {MOST_TRIALS:,} at most")
        check_processes(min(self.processes, self.count))

    def differ(self, *, random: bool) -> bool:
        """Whether steps differ, where layer times are `random` or not; otherwise one replay stands for all."""
        return not self.variability.none or (random and self.count > 1)

    def seeded(self) -> Trials:
        """Return the same trials with a whole number as their seed, which a generator gives only once."""
        return replace(self, rng=seed_of(self.rng))

    def draw(self, trial: int) -> Draw:
        """Return the random numbers of one of them; of several, `seeded` ones have the same seed."""
        return Draw(seed=seed_of(self.rng), trial=trial, variability=self.variability)


def delayed(tasks: Sequence[Task], draw: Draw) -> tuple[Task, ...]:
    """Return the tasks with every transfer's latency longer by what the trial drew for it."""
    if not draw.variability.link_jitter_s:
        return tuple(tasks)
    late = iter(draw.lateness(sum(task.traffic is not None for task in tasks)).tolist())
    return tuple(
        task if task.traffic is None else task._replace(traffic=_later(task.traffic, next(late))) for task in tasks
    )


def _later(traffic: Traffic, seconds: float) -> Traffic:
    return replace(traffic, latency_s=traffic.latency_s + seconds)
