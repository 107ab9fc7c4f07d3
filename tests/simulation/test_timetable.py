"""A timetable is the step itself where exchanges take no time, and where they only hide; else no more than it."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from cases import chained, layer

from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.schedules import SCHEDULES
from mpsim.plan.shape import shape_of
from mpsim.plan.sharding import Sharding
from mpsim.simulation.levels import levels_of
from mpsim.simulation.run import simulate
from mpsim.simulation.timetable import Timetable
from mpsim.topology.builders import chain, ring
from mpsim.topology.wire import Wire

SYNCHRONOUS = tuple(name for name in SCHEDULES if name not in ("pipedream", "zb-auto"))


@pytest.mark.parametrize("recompute", ["", "full", "stages"])
@pytest.mark.parametrize("schedule", SYNCHRONOUS)
def test_over_links_that_take_no_time_it_is_the_step(schedule, recompute) -> None:
    layers = [layer(f"l{i}", (1.0 + i % 3, 0.5 + i % 2, 0.25 * (i % 4))) for i in range(8)]
    plan = Plan(pp=2, microbatches=4, batch=4, schedule=schedule, sharding=Sharding(recompute=recompute))
    topology = chain(2, link=Wire(math.inf))
    lowering = lower(chained(layers, 0), topology, plan)
    step_s = simulate(lowering.workload, topology, replace(plan, boundaries=lowering.boundaries)).step_s
    ended = Timetable(lowering).ended([lowering.boundaries])
    if any(one.overlaps for row in lowering.rows for one in row):  # layers of two passes take turns
        assert 0.9 * step_s < ended.row_s.max() <= step_s
    else:
        assert ended.row_s.max() == pytest.approx(step_s, rel=1e-12)
    assert (ended.closing_s < ended.row_s).all()


@pytest.mark.parametrize("schedule", SYNCHRONOUS)
def test_each_operation_stands_behind_what_it_needs(schedule) -> None:
    rows = Plan(pp=4, microbatches=8, batch=8, schedule=schedule).rows()
    levels = levels_of(rows, shape_of(rows), frozenset(), frozenset())
    assert len(levels.rank) == sum(map(len, rows))
    level = [i for i, (first, last) in enumerate(pairwise(levels.edges)) for _ in range(first, last)]
    for i, need in enumerate(levels.needs):
        assert need == len(level) or level[need] < level[i]
    for first, last in pairwise(levels.edges):
        assert len({*levels.rank[first:last]}) == last - first > 0


def test_parameters_that_are_gathered_by_hand() -> None:
    """Of 64 bytes each replica gathers half, in 0.5 s: once before forward and backward, and half reduced at the end.

    0.5 + 4 + 0.5 + 8 + 0.5 s; all other exchanges hide.
    """
    layers = [layer(f"l{i}", (1.0, 1.0, 1.0), parameters={f"p{i}": 64}) for i in range(4)]
    topology = ring(2, link=Wire(64.0))
    plan = Plan(dp=2, microbatches=1, batch=2, sharding=Sharding(zero=3))
    lowering = lower(chained(layers, 0), topology, plan)
    assert Timetable(lowering).ended([()]).row_s.tolist() == [[13.5]]
    assert simulate(lowering.workload, topology, plan).step_s == 13.5


def test_gathers_and_reductions_share_links() -> None:
    """Forward waits for 4 gathers of 2 s and the last layer; then 4 gathers and 4 reductions are 16 s of bytes."""
    layers = [layer(f"l{i}", (1.0, 1.0, 1.0), parameters={f"p{i}": 256}) for i in range(4)]
    topology = ring(2, link=Wire(64.0))
    plan = Plan(dp=2, microbatches=1, batch=2, sharding=Sharding(zero=3))
    lowering = lower(chained(layers, 0), topology, plan)
    assert Timetable(lowering).ended([()]).row_s.tolist() == [[9.0 + 16.0]]
    assert simulate(lowering.workload, topology, plan).step_s >= 25.0
