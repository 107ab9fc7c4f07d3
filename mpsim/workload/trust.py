"""How far a trace can be trusted at the point that a plan uses, by the whole steps that were measured beside it."""

from __future__ import annotations

from mpsim.errors import MpsimError
from mpsim.workload.model import StepCheck, Workload

__all__ = ["DOUBTED", "REFUSED", "check_trust", "doubts", "in_words", "remarks"]

DOUBTED = 0.05  # A trace whose layers miss the step by more is doubtful,
REFUSED = 0.15  # and by more than this no prediction is made of it unasked.
_ROUNDING = 1e-9


def doubts(
    workload: Workload, microbatch: int, tensor_parallel: int = 1, *, beyond: float = DOUBTED
) -> list[StepCheck]:
    """Return the checks that bear on a point and miss the whole step by more than `beyond`, the worst first.

    On a point that was measured its own check bears, on one between two measured ones both of theirs.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> check = StepCheck(microbatch=1, whole_s=(1.0,), layers_s=(1.25,))
    >>> work = Workload(name="w", layers=(Layer.given("a", forward_s=1.0, backward_s=2.0),), checks=(check,))
    >>> [found.ratio for found in doubts(work, 1)], doubts(work, 2)
    ([1.25], [])
    """
    checks = {one.microbatch: one for one in workload.checks if one.tensor_parallel == tensor_parallel}
    below = max((size for size in checks if size <= microbatch), default=None)
    above = min((size for size in checks if size >= microbatch), default=None)
    if below is None or above is None:
        return []
    bearing = [checks[size] for size in dict.fromkeys((below, above))]
    missed = [one for one in bearing if _miss(one) > beyond + _ROUNDING]
    return sorted(missed, key=_miss, reverse=True)


def check_trust(workload: Workload, microbatch: int, tensor_parallel: int = 1) -> None:
    """Refuse a point at which the trace misses the step that was measured beside it by more than 15 %.

    Raises
    ------
    MpsimError
        It names the point, the ratio, and what to do.
    """
    missed = doubts(workload, microbatch, tensor_parallel, beyond=REFUSED)
    if missed:
        raise MpsimError(
            f"workload {workload.name!r}: {in_words(missed[0])}, more than {100 * REFUSED:.0f} % off: trace it"
            " again with this mpsim, use a point that holds (mpsim show), or take it with --unchecked (unchecked=True)"
        )


def in_words(check: StepCheck) -> str:
    """Return what a check says, in a phrase.

    Examples
    --------
    >>> in_words(StepCheck(microbatch=4, tensor_parallel=2, whole_s=(1.0,), layers_s=(1.25,)))
    'layers sum to 1.25 of the whole step at micro-batch 4, tp=2'
    """
    shard = f", tp={check.tensor_parallel}" if check.tensor_parallel > 1 else ""
    return f"layers sum to {check.ratio:.3g} of the whole step at micro-batch {check.microbatch}{shard}"


def remarks(workload: Workload) -> tuple[str, ...]:
    """Return what the trace has to say in words: its notes, and how its step differed from the plain one.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> remarks(Workload(name="w", layers=(Layer.given("a", forward_s=1, backward_s=2),), notes=("a cache dropped",)))
    ('a cache dropped',)
    """
    differences = [f"{text} (micro-batch {one.microbatch})" for one in workload.checks for text in one.differences]
    return tuple(dict.fromkeys((*workload.notes, *differences)))


def _miss(check: StepCheck) -> float:
    return abs(check.ratio - 1)
