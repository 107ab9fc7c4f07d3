"""Whether a step is bound by the launching of what its devices run, and what launching for nothing would give."""

from __future__ import annotations

from mpsim.result.model import Result
from mpsim.units import format_duration

__all__ = ["is_launch_bound", "launch_bound"]

# Of the steps back to back: less than this is within what hosts vary by from second to second.
_WORTH_SAYING = 0.02


def is_launch_bound(eager: Result, graphs: Result) -> bool:
    """Whether steps back to back take longer than where hosts launch for nothing.

    Parameters
    ----------
    eager, graphs : Result
        A plan, and the same one where hosts launch for nothing.

    Examples
    --------
    >>> one = Result(workload="w", topology="t", plan="p", step_s=1.0, trial_step_s=(1.0,), free_step_s=1.0, steady_s=1)
    >>> is_launch_bound(one, one)
    False
    """
    if eager.steady_s is None or graphs.steady_s is None:
        return False
    return eager.steady_s > graphs.steady_s * (1 + _WORTH_SAYING)


def launch_bound(eager: Result, graphs: Result) -> list[str]:
    """Return what is to be said of a plan that is launch-bound: one line, or none.

    Parameters
    ----------
    eager, graphs : Result
        As `is_launch_bound` takes them.

    Examples
    --------
    >>> one = {"workload": "mlp", "topology": "one", "plan": "dp=1", "free_step_s": 2.0}
    >>> eager = Result(**one, step_s=2.5, trial_step_s=(2.5,), steady_s=2.0)
    >>> launch_bound(eager, Result(**one, step_s=1.0, trial_step_s=(1.0,), steady_s=1.0))
    ['launch-bound: hosts take 2 s to launch a step of 1 s, back to back (with --launch graphs one step takes 1 s)']
    """
    if not is_launch_bound(eager, graphs):
        return []
    return [
        f"launch-bound: hosts take {format_duration(eager.steady_s or 0.0)} to launch a step of"
        f" {format_duration(graphs.steady_s or 0.0)}, back to back (with --launch graphs one step takes"
        f" {format_duration(graphs.step_s)})"
    ]
