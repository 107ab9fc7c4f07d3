"""What trials say: median, 5-95 % interval, distribution, and when two plans tie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpsim.errors import MpsimError
from mpsim.result.model import Result

__all__ = ["Interval", "cdf", "check_baseline", "interval", "middle", "quantile", "tie"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Step time over trials: 5 % of them are below `low_s`, 5 % above `high_s`.

    Examples
    --------
    >>> Interval(low_s=1.0, median_s=2.0, high_s=4.0).width_s
    3.0
    """

    low_s: float
    median_s: float
    high_s: float

    @property
    def width_s(self) -> float:
        """How far apart the ends are; 0 where nothing varies."""
        return self.high_s - self.low_s


def quantile(values: Sequence[float], fraction: float) -> float:
    """Return the value below which `fraction` of `values` lie, linear between neighbours.

    This is NumPy's default definition (type 7 of
    https://en.wikipedia.org/wiki/Quantile#Estimating_quantiles_from_a_sample), without loading NumPy.

    Parameters
    ----------
    values : sequence of float
        In any order; at least one.
    fraction : float
        0 to 1; 0.5 is the median.

    Raises
    ------
    MpsimError
        No values, or a fraction outside 0 to 1.

    Examples
    --------
    >>> quantile([4.0, 1.0, 2.0, 3.0, 5.0], 0.5), quantile([1.0, 2.0], 0.25)
    (3.0, 1.25)
    """
    if not values:
        raise MpsimError("a quantile of no values: give at least one trial")
    if not 0 <= fraction <= 1:
        raise MpsimError(f"quantile {fraction} is outside 0 to 1: write 0.05 for 5 %")
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def cdf(values: Sequence[float]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the empirical distribution: the distinct values `x`, and the fraction of values at or below each.

    Raises
    ------
    MpsimError
        No values.

    Examples
    --------
    >>> cdf([3.0, 1.0, 1.0, 2.0])
    ((1.0, 2.0, 3.0), (0.5, 0.75, 1.0))
    """
    if not values:
        raise MpsimError("a distribution of no values: give at least one trial")
    # The last of equal values stands at the fraction of all of them.
    last = {value: (i + 1) / len(values) for i, value in enumerate(sorted(values))}
    return tuple(last), tuple(last.values())


def interval(result: Result) -> Interval:
    """Return median and 5-95 % interval of the step time over the trials.

    Examples
    --------
    >>> trials = tuple(float(i) for i in range(21))
    >>> result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=10, trial_step_s=trials, free_step_s=9)
    >>> interval(result)
    Interval(low_s=1.0, median_s=10.0, high_s=19.0)
    """
    low_s, median_s, high_s = (quantile(result.trial_step_s, fraction) for fraction in (0.05, 0.5, 0.95))
    return Interval(low_s=low_s, median_s=median_s, high_s=high_s)


def tie(a: Result, b: Result) -> bool:
    """Whether the 5-95 % intervals of two plans overlap: then neither is called faster.

    Raises
    ------
    MpsimError
        The plans run unequal global batches, so that their steps cannot be compared.

    Examples
    --------
    >>> mlp = {"workload": "mlp", "topology": "pair", "free_step_s": 1.5}
    >>> a = Result(plan="pp=2", step_s=2.0, trial_step_s=(1.5, 2.0, 2.5), **mlp)
    >>> b = Result(plan="dp=2", step_s=2.25, trial_step_s=(2.0, 2.25, 3.0), **mlp)
    >>> tie(a, b)
    True
    """
    if a.global_batch != b.global_batch:
        raise MpsimError(
            f"{a.plan} runs a global batch of {a.global_batch} and {b.plan} of {b.global_batch}:"
            " compare plans on the same batch"
        )
    first, second = interval(a), interval(b)
    return first.low_s <= second.high_s and second.low_s <= first.high_s


def check_baseline(baseline: Result | None, batch: int, whose: str = "plan") -> None:
    """Refuse a baseline of another global batch than that of a plan.

    Raises
    ------
    MpsimError
        Naming `whose` batch is another.

    Examples
    --------
    >>> check_baseline(None, 64)
    """
    if baseline is not None and baseline.global_batch != batch:
        raise MpsimError(
            f"baseline has a global batch of {baseline.global_batch}, the {whose} {batch}: a speedup needs equal ones"
        )


def middle(steps: Sequence[float]) -> int:
    """Return the trial with the median step; of an even number, the lower of the two.

    Examples
    --------
    >>> middle([3.0, 1.0, 2.0, 9.0])
    2
    """
    return sorted(range(len(steps)), key=lambda i: steps[i])[(len(steps) - 1) // 2]
