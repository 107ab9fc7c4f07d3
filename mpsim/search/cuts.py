"""Where else to cut a plan into stages, so that each fits."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import comb

import numpy as np

from mpsim.lowering.balancing import boundaries_worth_trying
from mpsim.lowering.model import Lowering
from mpsim.lowering.stages import scales_of
from mpsim.plan.automatic import Fitted
from mpsim.plan.model import Plan
from mpsim.plan.partition import balance, least_most
from mpsim.plan.schedules import resolve_schedule
from mpsim.program.allocator import workspace_bytes
from mpsim.search.facts import facts_of
from mpsim.search.family import tables
from mpsim.search.weighing import Weighing, rooms

__all__ = ["FEW_CUTS", "other_cuts"]

FEW_CUTS = 100  # So many are all tried.
_MOST_ROUNDS = 8


def other_cuts(weighing: Weighing, plan: Plan) -> list[Plan]:
    """Return a plan with its stages cut otherwise.

    Of no more than 100 cuts there are, all. Of more those that are worth trying for their step, and where each rank
    has one stage that of which, of all whose stages fit, the slowest is fastest (dynamic programming over what stages
    hold at least; with less room where that is too little, and again).

    Raises
    ------
    MpsimError
        The plan cannot be run.

    Examples
    --------
    >>> from mpsim.search.study import Study
    >>> from mpsim.topology.spec import parse_topology
    >>> from mpsim.workload.model import Layer, Workload
    >>> layers = [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "abc"]
    >>> study = Study(Workload.chain("three", layers), parse_topology("chain:2,link=1GB/s@0,memory=1kB"))
    >>> [one.boundaries for one in other_cuts(Weighing(study), Plan(pp=2, boundaries=(1,)))]
    [(2,)]
    """
    whole = weighing.lower(replace(plan, boundaries=None))
    n, stages = len(whole.workload.layers), whole.shape.stages
    if stages in (1, n) or isinstance(resolve_schedule(plan.schedule), Fitted):
        return []
    scales = scales_of(whole.costs, whole.routes, whole.plan, whole.place, whole.shape)
    found = boundaries_worth_trying(scales, FEW_CUTS)
    if comb(n - 1, stages - 1) > FEW_CUTS and facts_of(plan).plain:
        found += _roomy(weighing, whole)
    return [replace(plan, boundaries=one) for one in dict.fromkeys(found) if one != plan.boundaries]


def _roomy(weighing: Weighing, whole: Lowering) -> list[tuple[int, ...]]:
    """Return cuts whose stages fit as far as is known before they are replayed, the last one as a replay has it."""
    plan, study = whole.plan, weighing.study
    scales = scales_of(whole.costs, whole.routes, plan, whole.place, whole.shape)
    times = scales.costs(1.0)
    facts = facts_of(plan)
    state, gradients, kept, *_ = map(tables, study.bounds.of(plan).memory.by_layer)
    room = rooms(whole)
    lacks = Counter[int]()
    found: list[tuple[int, ...]] = []
    for _ in range(_MOST_ROUNDS):
        allowed = []
        for rank, seconds in enumerate(times):
            held = state + np.maximum(gradients, facts.held[rank] * kept) + workspace_bytes(whole.workload)
            allowed.append(np.where(held + lacks[rank] <= room[rank], seconds, np.inf))
        if not least_most(allowed) < _NOWHERE:
            return found
        found.append(balance(allowed))
        excess = weighing.weigh(replace(plan, boundaries=found[-1])).excess
        if not excess:
            return found
        lacks.update(excess)
    return found


_NOWHERE = 1e299  # What stands for infinity where layers are cut.
