"""Stages balanced by dynamic programming, against all partitions there are."""

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from cases import chained, layer
from hypothesis import given
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.partition import balance, cheapest, check_boundaries, stage_slices
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.wire import Wire
from mpsim.workload.model import Cost, Layer, Samples, Shard, ShardCollective, Workload


def tabled(n, stages, cost):
    """Return a cost of (stage, first, last) as `balance` takes it."""
    return [np.array([[float(cost(s, a, b)) for b in range(n + 1)] for a in range(n + 1)]) for s in range(stages)]


@given(st.data(), st.integers(1, 7))
def test_no_partition_is_better(data, n):
    stages = data.draw(st.integers(1, n))
    table = data.draw(
        st.dictionaries(
            st.tuples(st.integers(0, stages - 1), st.integers(0, n - 1), st.integers(1, n)), st.integers(0, 9)
        )
    )

    def cost(stage: int, first: int, last: int) -> float:
        return table.get((stage, first, last), last - first)

    def worst(boundaries: tuple[int, ...]) -> float:
        return max(cost(s, a, b) for s, (a, b) in enumerate(pairwise((0, *boundaries, n))))

    def whole(boundaries: tuple[int, ...]) -> float:
        return sum(cost(s, a, b) for s, (a, b) in enumerate(pairwise((0, *boundaries, n))))

    tables = tabled(n, stages, cost)
    every = list(combinations(range(1, n), stages - 1))
    found = balance(tables)
    check_boundaries(found, n)
    least = min(map(worst, every))
    assert worst(found) == least
    for room in (1.0, 1.5, math.inf):
        allowed = [one for one in every if worst(one) <= (least * room if least else 0)]
        assert whole(*cheapest(tables, [room])) == min(map(whole, allowed or every))


def test_of_equal_partitions_the_most_even_then_the_earliest():
    def cost(times):
        return lambda _, first, last: sum(times[first:last])

    assert balance(tabled(3, 2, cost([1, 1, 1]))) == (1,)
    assert balance(tabled(5, 3, cost([10, 1, 1, 1, 1]))) == (1, 3)
    # One heavy layer at the end: the others are still shared evenly.
    assert balance(tabled(5, 3, cost([1, 1, 1, 1, 10]))) == (2, 4)
    # Seconds whose squares no number holds.
    assert balance(tabled(5, 3, cost([1e200, 1e200, 1e200, 1e200, 1e201]))) == (2, 4)


def test_too_few_layers():
    with pytest.raises(MpsimError, match="2 layers cannot make 3 stages: lower pp"):
        balance(tabled(2, 3, lambda *_: 1.0))


@pytest.mark.parametrize("boundaries", [(0,), (5,), (3, 2), (2, 2), (-1,)])
def test_boundaries_that_leave_a_stage_empty(boundaries):
    with pytest.raises(MpsimError, match="leave a stage without layers"):
        stage_slices(boundaries, 5)


def boundaries_of(layers, count, plan, topology):
    stages = lower(chained(layers, count), topology, plan).stages
    return tuple(stage.layers.start for stage in stages[1:])


def test_measured_time_is_balanced():
    layers = [layer(name, (t, t, t)) for name, t in zip("abcd", (3.0, 1.0, 1.0, 1.0), strict=True)]
    assert boundaries_of(layers, 0, Plan(pp=2), chain(2, link=Wire(1.0))) == (1,)


def test_speeds_count():
    """Three layers of 3 s: a device of double speed takes two of them."""
    layers = [layer(name) for name in "abc"]
    fast_first = chain(2, link=Wire(1.0), devices=[Device(name="", speed=2.0), Device(name="")])
    fast_last = chain(2, link=Wire(1.0), devices=[Device(name=""), Device(name="", speed=2.0)])
    assert boundaries_of(layers, 0, Plan(pp=2), fast_first) == (2,)
    assert boundaries_of(layers, 0, Plan(pp=2), fast_last) == (1,)


def test_communication_counts():
    """Cutting in the middle balances, but sends 100 bytes at 10 bytes/s; the cut before d sends none."""
    layers = [layer(name) for name in "abcd"]
    assert boundaries_of(layers, [100, 100, 0, 0], Plan(pp=2), chain(2, link=Wire(10.0))) == (3,)
    assert boundaries_of(layers, [100, 100, 0, 0], Plan(pp=2), chain(2, link=Wire(1e6))) == (2,)


def test_the_way_back_counts():
    """Forwards are free; backwards the gradient of the cut before d alone is small."""
    topology = Topology(
        name="asymmetric",
        devices=(Device(name="x"), Device(name="y")),
        links=(
            Link(source="x", target="y", bandwidth_bytes_per_s=1e9),
            Link(source="y", target="x", bandwidth_bytes_per_s=10.0),
        ),
    )
    assert boundaries_of([layer(name) for name in "abcd"], [100, 100, 0, 0], Plan(pp=2), topology) == (3,)


def test_tensor_parallel_collectives_count():
    """Four layers of a second; the first also shares 3 MiB at 1 MiB/s: 1 + 3 s against 1 + 1 + 1."""
    samples = Samples(forward_s=(0.5,), backward_input_s=(0.25,), backward_weight_s=(0.25,))
    call = ShardCollective(kind="all_reduce", bytes=3 * 2**20, phase="forward")
    layers = [
        Layer(
            name=name,
            shards=(Shard(), Shard(tensor_parallel=2)),
            costs=(Cost(microbatch=1, tensor_parallel=2, samples=samples, collectives=(call,) if name == "a" else ()),),
        )
        for name in "abcd"
    ]
    topology = fully_connected(4, link=Wire(2.0**20))
    stages = lower(Workload.chain("w", layers), topology, Plan(pp=2, tp=2)).stages
    assert [len(stage.layers) for stage in stages] == [1, 3]
