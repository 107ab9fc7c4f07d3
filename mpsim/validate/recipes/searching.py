"""The best plan in a recipe's place with a proof: what mpsim's own search finds among all that the framework runs.

Each plan is cut where its timetable is the shortest. Of these the answer is sure, which takes minutes where a ranking
takes seconds.
"""

from __future__ import annotations

from dataclasses import replace

from mpsim.plan.sharding import Sharding
from mpsim.search.run import best
from mpsim.search.space import Axes
from mpsim.search.study import Study
from mpsim.validate.recipes.candidates import candidates
from mpsim.validate.recipes.judged import Judged
from mpsim.validate.recipes.recipe import Recipe, topology_of
from mpsim.validate.recipes.shares import workload_of

__all__ = ["searched"]

_SCHEDULES = ("1f1b", "interleaved-1f1b")


def searched(recipe: Recipe, speed: float, judged: Judged) -> Judged:
    """Return a judged recipe with the best plan that a search finds, and out of how many.

    Parameters
    ----------
    recipe : Recipe
    speed : float
        Of kernels.
    judged : Judged
        What was predicted of it.
    """
    found = list(candidates(recipe))
    sizes = [recipe.microbatch, *sorted({one.microbatch for one in found} - {recipe.microbatch})]
    points = [(size, split) for size in sizes for split in sorted({one.split for one in found})]
    study = Study(workload_of(recipe.training, points, speed), topology_of(recipe))
    choices = recipe.choices
    axes = Axes(
        devices=(recipe.devices,), schedules=_SCHEDULES, recompute=choices.recompute,
        zero=tuple(dict.fromkeys((*choices.zero, *((0,) if recipe.plan.replicas == 1 else ())))),
    )  # fmt: skip
    base = replace(
        recipe.plan, dp=1, pp=1, tp=1, cp=1, ep=1, microbatches=1, schedule="1f1b", chunks=0, boundaries=None,
        devices=(), sharding=Sharding(),
    )  # fmt: skip
    answer = best(study, batch=recipe.plan.batch, axes=axes, base=base, top=1, processes=1)
    row = answer.best
    if row is None:
        return replace(judged, searched=answer.planned)
    return replace(
        judged, searched=answer.planned, simulated=answer.simulated, searched_best=str(row["plan"]),
        searched_tokens_per_s=recipe.tokens_per_s(float(row["step_s"])),
    )  # fmt: skip
