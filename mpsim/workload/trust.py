"""How far a trace can be trusted at the point that a plan uses, by the plain steps that were run beside it.

What a check compares with the whole step is the sum of the layers or, where there are two clocks, the step that both
make (`mpsim.workload.model.StepCheck`).
"""

from __future__ import annotations

from mpsim.errors import MpsimError
from mpsim.workload.model import Fidelity, StepCheck, Workload
from mpsim.workload.split import WHOLE, Split, split_of

__all__ = ["cautions", "check_trust", "doubted", "doubts", "in_words", "refused", "remarks", "times_of"]

_DOUBTED = 0.05  # A trace whose layers miss the step by more is doubtful,
_REFUSED = 0.15  # and by more than this no prediction is made of it unasked.
_ROUNDING = 1e-9
# What is said of costs that nobody measured, by what they are: "", or of whose device.
_UNMEASURED = {
    Fidelity.ANALYTICAL: "computed from the roofline of {device}, not measured",
    Fidelity.GIVEN: "given by hand, not measured",
}


def doubts(workload: Workload, microbatch: int, split: Split | int = 1) -> list[StepCheck]:
    """Return the checks that bear on a point and make it doubtful, the worst first.

    They miss the time of the whole step by more than 5 %, or what was watched did otherwise than the plain step. On a
    point that was measured its own check bears, on one between two measured ones both of theirs.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> check = StepCheck(microbatch=1, whole_s=(1.0,), layers_s=(1.25,))
    >>> work = Workload(name="w", layers=(Layer.given("a", forward_s=1.0, backward_s=2.0),), checks=(check,))
    >>> [found.ratio for found in doubts(work, 1)], doubts(work, 2)
    ([1.25], [])
    """
    return [one for one in _bearing(workload, microbatch, split) if one.differences or _misses(one, _DOUBTED)]


def doubted(check: StepCheck) -> bool:
    """Return whether the layers miss the time of the whole step by more than 5 %."""
    return _misses(check, _DOUBTED)


def refused(workload: Workload, microbatch: int, split: Split | int = 1) -> list[StepCheck]:
    """Return the checks that bear on a point and miss the whole step by more than 15 %, the worst first."""
    return [one for one in _bearing(workload, microbatch, split) if _misses(one, _REFUSED)]


def _bearing(workload: Workload, microbatch: int, split: Split | int) -> list[StepCheck]:
    checks = {one.microbatch: one for one in workload.checks if one.split == split_of(split)}
    below = max((size for size in checks if size <= microbatch), default=None)
    above = min((size for size in checks if size >= microbatch), default=None)
    if below is None or above is None:
        return []
    return sorted((checks[size] for size in dict.fromkeys((below, above))), key=_miss, reverse=True)


def check_trust(workload: Workload, microbatch: int, split: Split | int = 1) -> None:
    """Refuse a point at which the trace misses the step that was measured beside it by more than 15 %.

    Raises
    ------
    MpsimError
        It names the point, the ratio, and what to do.
    """
    missed = refused(workload, microbatch, split)
    if missed:
        raise MpsimError(
            f"workload {workload.name!r}: {_ratio(missed[0])}, more than {100 * _REFUSED:.0f} % off: trace it"
            " again with this mpsim, use a point that holds (mpsim show), or take it with --unchecked (unchecked=True)"
        )


def in_words(check: StepCheck) -> str:
    """Return what a check says against a trace, in a phrase.

    Examples
    --------
    >>> in_words(StepCheck(microbatch=4, tensor_parallel=2, whole_s=(1.0,), layers_s=(1.25,)))
    'layers sum to 1.25 of the whole step at micro-batch 4, tp=2'
    >>> in_words(StepCheck(microbatch=1, whole_s=(1.0,), layers_s=(1.0,), differences=("loss 1, the plain step's 2",)))
    "what was watched is not the plain step at micro-batch 1: loss 1, the plain step's 2"
    """
    said = [_ratio(check)] if _misses(check, _DOUBTED) else []
    if check.differences:
        more = f" and {len(check.differences) - 1} more" if len(check.differences) > 1 else ""
        said.append(f"what was watched is not the plain step{_at(check)}: {check.differences[0]}{more}")
    return ", and ".join(said)


def _ratio(check: StepCheck) -> str:
    return f"layers sum to {check.ratio:.3g} of the whole step{_at(check)}"


def _at(check: StepCheck) -> str:
    shard = f", {check.split.text}" if check.split != WHOLE else ""
    return f" at micro-batch {check.microbatch}{shard}"


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


def cautions(workload: Workload) -> tuple[str, ...]:
    """Return what of a workload's own times may make an answer wrong, in a phrase each, the worst first.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> cautions(Workload(name="w", layers=(Layer.given("a", forward_s=1.0, backward_s=2.0),)))
    ('given: times are given by hand, not measured',)
    """
    worst = sorted((one for one in workload.checks if one.differences or doubted(one)), key=_miss, reverse=True)
    found = [f"{Fidelity.DOUBTFUL.value}: {in_words(one)}" for one in worst]
    found += [] if workload.scaling is None else [workload.scaling.text]
    for fidelity, words in _UNMEASURED.items():
        count = sum(any(cost.fidelity is fidelity for cost in layer.costs) for layer in workload.layers)
        whose = "times" if count == len(workload.layers) else f"times of {count:,} of {len(workload.layers):,} layers"
        if count:
            found.append(f"{fidelity.value}: {whose} are {words.format(device=workload.device)}")
    return tuple(found)


def times_of(workload: Workload) -> tuple[str, str]:
    """Return how a workload's times were come by, in a word or two, and of what device they are.

    Examples
    --------
    >>> from mpsim.workload.model import Layer
    >>> times_of(Workload(name="w", layers=(Layer.given("a", forward_s=1.0, backward_s=2.0),)))
    ('given', 'by hand, not measured')
    """
    found = {cost.fidelity for layer in workload.layers for cost in layer.costs}
    threads = f", {workload.threads} thread{'s' * (workload.threads > 1)}" if workload.threads else ""
    device = f"{workload.device} (clock {workload.clock}{threads})"
    if not found & {*_UNMEASURED}:
        return "measured on", device
    if Fidelity.ANALYTICAL not in found:
        return "given", "by hand, not measured" + ("" if found == {Fidelity.GIVEN} else f"; the rest is of {device}")
    some = "" if found == {Fidelity.ANALYTICAL} else "in part "
    return "computed for", f"{workload.device} ({some}by its roofline, not measured)"


def _miss(check: StepCheck) -> float:
    return abs(check.ratio - 1)


def _misses(check: StepCheck, beyond: float) -> bool:
    return _miss(check) > beyond + _ROUNDING
