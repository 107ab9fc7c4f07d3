"""Why the best plan found is not the one that people chose: what is known of it, in words, from the two replays."""

from __future__ import annotations

from collections.abc import Iterator

from mpsim.plan.model import Plan
from mpsim.result.model import Result
from mpsim.units import format_bytes
from mpsim.validate.recipes.judged import Judged
from mpsim.validate.recipes.recipe import Recipe

__all__ = ["why"]

_SPENT = {
    "compute_s": "computation", "exposed_communication_s": "waiting for exchanges", "idle_s": "bubbles and imbalance"
}  # fmt: skip
_WITHIN = 0.1
_FULL = 0.9
_UNEVEN = 0.02


def why(recipe: Recipe, judged: Judged, theirs: Result, plan: Plan, ours: Result, uneven: float = 0.0) -> str:
    """Return why theirs is more than a tenth behind ours; ``""`` where it is not.

    Parameters
    ----------
    recipe : Recipe
    judged : Judged
        With its rank and the best found.
    theirs, ours : Result
        Replays of the two.
    plan : Plan
        Ours.
    uneven : float
        How much longer their busiest pipeline rank works than a middle one, as a part of that.
    """
    if judged.gain_fraction <= _WITHIN:
        return ""
    reasons = (*_laid(recipe, plan, uneven), *_reasons(recipe, judged, plan), *_alike(judged))
    return "; ".join([_account(theirs, ours), *reasons]) + "."


def _alike(judged: Judged) -> Iterator[str]:
    """Yield what is left of the gain where kernels are the same."""
    if judged.alike_tokens_per_s and judged.predicted:
        best = "theirs" if judged.alike == judged.plan else judged.alike
        gain = f"claims {100 * judged.alike_fraction:+.1f} %"
        if judged.alike == judged.best:
            yield "it has their micro-batch and recomputation"
        else:
            yield f"at their micro-batch and recomputation {best} is the best of those replayed and {gain}"


def _account(theirs: Result, ours: Result) -> str:
    """Return where the time between the two goes, of the mean device as a part of their step."""
    saved = {word: (_mean(theirs, name) - _mean(ours, name)) / theirs.step_s for name, word in _SPENT.items()}
    parts = [f"{100 * part:.0f} % {word}" for word, part in sorted(saved.items(), key=lambda pair: -pair[1])]
    shown = [part for part in parts if not part.startswith(("0 %", "-0 %"))]
    return f"of their step ours saves {', '.join(shown)}"


def _mean(result: Result, name: str) -> float:
    count = sum(use.count for use in result.devices)
    return sum(float(getattr(use, name)) * use.count for use in result.devices) / count


def _laid(recipe: Recipe, plan: Plan, uneven: float) -> Iterator[str]:
    """Yield what of the difference is in how stages and states lie."""
    own = recipe.plan
    if uneven > _UNEVEN and plan.pp < own.pp:
        yield f"their last pipeline rank has the head beside its blocks and works {100 * uneven:.0f} % longer"
    if plan.sharding.zero == 3 > own.sharding.zero:
        yield (
            f"ours gathers parameters from {plan.replicas} ranks for each micro-batch beside computation, which neither"
            " is taken to slow"
        )


def _reasons(recipe: Recipe, judged: Judged, plan: Plan) -> Iterator[str]:
    """Yield what makes ours look better, or makes it no choice of theirs."""
    own = recipe.plan
    yield from _memory(recipe, judged, plan)
    if plan.chunks > max(own.chunks, 1):
        yield f"ours interleaves {plan.chunks} stages a rank, theirs has {max(own.chunks, 1)}"
    if plan.pp == 1 < own.pp:
        yield f"ours has no pipeline, theirs one of {own.pp} ranks"
    elif plan.pp != own.pp:
        yield f"pipelines of {plan.pp} ranks for their {own.pp}"
    if plan.tp < own.tp:
        yield f"weights are shared by {plan.tp} ranks and not {own.tp}, which exchange less"
    if plan.tp > own.tp and recipe.training.beside:
        yield (
            f"weights are shared by {plan.tp} ranks and not {own.tp}: what these exchange beside computation is taken"
            " to cost nothing while it is shorter, and kernels to be as fast on parts of a matrix"
        )
    elif plan.tp > own.tp:
        yield "kernels are taken to be as fast on parts of a matrix as on the whole"
    if plan.cp > own.cp:
        yield (
            f"sequences are shared by {plan.cp} ranks and not {own.cp}: torchtitan's rows that share them are the worst"
            " predicted of dense models, too fast"
        )
    size, ours = recipe.microbatch, plan.batch // (plan.dp * plan.microbatches)
    if ours < size:
        yield f"micro-batches of {ours} for their {size}, at which kernels are taken to be as fast, and free to launch"
    if ours > size:
        yield f"micro-batches of {ours} for their {size}"
    if recipe.experts:
        yield "launching many small kernels, which a mixture of experts is bound by, is in no roofline"
    if not judged.calibrates and abs(judged.error_fraction) > judged.gain_fraction:
        yield (
            f"the row itself is predicted {abs(100 * judged.error_fraction):.0f} % off, more than ours claims to gain"
        )


def _memory(recipe: Recipe, judged: Judged, plan: Plan) -> Iterator[str]:
    own = recipe.plan.sharding
    needs, has = judged.best_needs_bytes, judged.capacity_bytes
    if own.recompute and plan.sharding.recompute != own.recompute:
        again = (plan.sharding.recompute or "nothing").replace("block*", "all")
        room = f"needs {format_bytes(needs)} of {format_bytes(has)}"
        yield f"ours computes {again} again where theirs computes more, and {room}"
    elif needs > _FULL * has:
        yield f"ours needs {format_bytes(needs)} of {format_bytes(has)} before workspace and what the allocator loses"
    if judged.measured_bytes > judged.needs_bytes:
        yield (
            f"theirs was measured to need {format_bytes(judged.measured_bytes)}, counted are"
            f" {format_bytes(judged.needs_bytes)}: as much more would ours"
        )
    elif judged.needs_bytes > has:
        yield (
            f"theirs needs {format_bytes(judged.needs_bytes)} by this count and ran on {format_bytes(has)}:"
            " what it offloads, computes again or keeps in FP8 is not in the table"
        )
