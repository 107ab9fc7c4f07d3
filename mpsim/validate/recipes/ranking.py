"""Where a recipe's plan stands among those that its framework could have run, and what the best claims to gain.

All candidates are estimated, and those that promise most are replayed, as theirs is: the best of ours is a replayed
one. Theirs fits, as it ran: so does what needs no more by the same count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.result.model import Result
from mpsim.validate.recipes.candidates import Candidate, Estimate, Estimator, candidate_of, candidates, plan_as
from mpsim.validate.recipes.judged import Judged
from mpsim.validate.recipes.recipe import Recipe, named, step_of
from mpsim.validate.recipes.shares import workload_of
from mpsim.validate.recipes.why import why

__all__ = ["ranked"]

_MOST_REPLAYED = 5
_MOST_ALIKE = 2
_LAYER_PASSES = 30_000  # replayed for a row: micro-batches times layers, some seconds
_OVER = 1.1  # an estimate of memory this much too large is not replayed
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class _Tried:
    """A candidate that was replayed."""

    candidate: Candidate
    plan: Plan
    result: Result

    @property
    def needs_bytes(self) -> int:
        return max(use.memory.peak_bytes for use in self.result.devices)


def ranked(recipe: Recipe, speed: float, judged: Judged, theirs: Result) -> Judged:
    """Return a judged recipe with its place among its candidates, and the best of these.

    Parameters
    ----------
    recipe : Recipe
    speed : float
        Of kernels.
    judged : Judged
        What was predicted of it.
    theirs : Result
        Of its replay.
    """
    estimator = Estimator(recipe, speed)
    own = candidate_of(recipe)
    room = max(judged.capacity_bytes, judged.needs_bytes)
    off = estimator.of(own)
    known = {one: estimator.of(one) for one in candidates(recipe)}
    # An estimate of memory is off for others as it is for theirs.
    most = _OVER * room * off.bytes / judged.needs_bytes
    fitting = {one: found for one, found in known.items() if one == own or found.bytes <= most}
    tried = {own: _Tried(own, recipe.plan, theirs)}
    over = set()
    for one in _promising(fitting, own, recipe):
        found = _replayed(recipe, speed, one)
        if found is None or found.needs_bytes > room:
            over.add(one)
        else:
            tried[one] = found
    placed = replace(
        judged, others=len(fitting) - len(over), rank=_rank(fitting, tried, over, own), replayed=len(tried) + len(over)
    )
    return _beside(recipe, placed, tried, own, estimator.unevenness(own))


def _rank(
    fitting: dict[Candidate, Estimate], tried: dict[Candidate, _Tried], over: set[Candidate], own: Candidate
) -> int:
    """Return the place of theirs: what was not replayed is off by as much as what was, in the median."""
    ratios = [one.result.step_s / fitting[name].step_s for name, one in tried.items() if name != own or len(tried) == 1]
    ratio, least_s = median(ratios), tried[own].result.step_s * (1 - _SAME)
    steps = (
        tried[one].result.step_s if one in tried else found.step_s * ratio
        for one, found in fitting.items()
        if one not in over and one != own
    )
    return 1 + sum(step_s < least_s for step_s in steps)


def _beside(recipe: Recipe, judged: Judged, tried: dict[Candidate, _Tried], own: Candidate, uneven: float) -> Judged:
    """Return a judged recipe with the best that was replayed, and the best of those with the same kernels."""
    best = _fastest(list(tried.values()), own)
    found = replace(
        judged, best=named(best.plan), best_tokens_per_s=recipe.tokens_per_s(best.result.step_s),
        best_needs_bytes=best.needs_bytes,
    )  # fmt: skip
    same = [one for one in tried.values() if _has_kernels_of(one.candidate, own)]
    if len(same) > 1 or not _is_long(recipe):
        alike = _fastest(same, own)
        found = replace(found, alike=named(alike.plan), alike_tokens_per_s=recipe.tokens_per_s(alike.result.step_s))
    return replace(found, why=why(recipe, found, tried[own].result, best.plan, best.result, uneven))


def _fastest(tried: list[_Tried], own: Candidate) -> _Tried:
    """Return the fastest; theirs, where that is as fast."""
    return min(tried, key=lambda one: one.result.step_s * (1 - _SAME * (one.candidate == own)))


def _has_kernels_of(candidate: Candidate, own: Candidate) -> bool:
    return (candidate.microbatch, candidate.recompute) == (own.microbatch, own.recompute)


def _is_long(recipe: Recipe) -> bool:
    """Return whether one replay is as much as is replayed for a row."""
    return recipe.plan.microbatches * recipe.training.decoder.layers > _LAYER_PASSES


def _promising(fitting: dict[Candidate, Estimate], own: Candidate, recipe: Recipe) -> Iterator[Candidate]:
    """Yield the candidates to replay, the fastest by their estimates: of all, and of those with the same kernels."""
    order = sorted((one for one in fitting if one != own), key=lambda one: (fitting[one].step_s, one))
    alike, layers = [one for one in order if _has_kernels_of(one, own)], recipe.training.decoder.layers
    chosen = [*_soon(order, layers, _MOST_REPLAYED)]
    if not _is_long(recipe):
        chosen += _soon(alike, layers, _MOST_ALIKE)
    yield from dict.fromkeys(chosen)


def _soon(order: list[Candidate], layers: int, most: int) -> Iterator[Candidate]:
    """Yield the first, and as many more as are soon replayed."""
    passes = 0
    for count, one in enumerate(order[:most]):
        passes += one.microbatches * layers
        if count and passes > _LAYER_PASSES:
            return
        yield one


def _replayed(recipe: Recipe, speed: float, candidate: Candidate) -> _Tried | None:
    """Return a candidate replayed; None if it cannot be."""
    try:
        plan = plan_as(recipe, candidate)
        work = workload_of(recipe.training, [(candidate.microbatch, candidate.split)], speed)
        return _Tried(candidate, plan, step_of(recipe, speed, work, plan))
    except MpsimError:
        return None
