"""The closed forms of Young and Daly: the interval that loses least, and what is left of the time with any."""

from __future__ import annotations

import math

__all__ = ["daly_s", "expected_goodput", "young_s"]


def young_s(blocked_s: float, mtbf_s: float) -> float:
    """Return Young's time of steps between checkpoints (https://doi.org/10.1145/361147.361115).

    Examples
    --------
    >>> young_s(2.0, 100.0)
    20.0
    """
    return math.sqrt(2.0 * blocked_s * mtbf_s)


def daly_s(blocked_s: float, mtbf_s: float) -> float:
    """Return Daly's, of a higher order (https://doi.org/10.1016/j.future.2004.11.016).

    Examples
    --------
    >>> round(daly_s(2.0, 100.0), 3)
    18.689
    """
    if blocked_s >= 2.0 * mtbf_s:
        return mtbf_s
    part = blocked_s / (2.0 * mtbf_s)
    return young_s(blocked_s, mtbf_s) * (1.0 + math.sqrt(part) / 3.0 + part / 9.0) - blocked_s


def expected_goodput(steps_s: float, blocked_s: float, restart_s: float, mtbf_s: float) -> float:
    """Return useful over wall time where failures are exponential and strike restarts too (Daly, the same).

    Parameters
    ----------
    steps_s : float
        Steps between checkpoints.
    blocked_s : float
        A checkpoint.
    restart_s : float
        From a failure to the first step after it.
    mtbf_s : float
        Mean time between failures of all that is used.

    Examples
    --------
    >>> round(expected_goodput(20.0, 2.0, 10.0, 100.0), 4)
    0.7354
    """
    if mtbf_s == math.inf:
        return steps_s / (steps_s + blocked_s)
    try:
        return steps_s / (mtbf_s * math.exp(restart_s / mtbf_s) * math.expm1((steps_s + blocked_s) / mtbf_s))
    except OverflowError:
        return 0.0
