"""Which devices a sweep's plans stand on: by hand, against all placements there are, and its one baseline."""

from dataclasses import replace
from itertools import permutations

import pytest
from cases import chained, layer
from hypothesis import given, settings
from hypothesis import strategies as st

import mpsim
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.sweeps import sweep
from mpsim.sweeps.choosing import best_played
from mpsim.sweeps.placing import kinds, placements
from mpsim.topology.builders import chain, fully_connected, nodes, ring, switch
from mpsim.topology.model import Device
from mpsim.topology.wire import Wire

FREE = Wire(float("inf"))
FOUR = chained([layer(name, (1.0, 1.0, 1.0)) for name in "abcd"], 0)


def speeds(*values: float, **fields) -> list[Device]:
    return [Device(name="", speed=value, **fields) for value in values]


def test_the_best_single_device_is_found_and_is_everyones_baseline():
    """Four layers of 3 s, four micro-batches: 12 s on the device of speed 4, 48 s on the first."""
    topology = switch(2, link=FREE, devices=speeds(1.0, 4.0))
    found = sweep(FOUR, topology, batch=4, processes=1)
    assert (found.best["plan"], found.best["step_s"]) == ("dp=1 micro-batches=4 place=1", 12.0)
    assert found.best["speedup"] == 1.0
    for place, speedup in (((0,), 0.25), ((1,), 1.0)):
        assert simulate(FOUR, topology, Plan(microbatches=4, devices=place)).speedup == speedup
    for row in found.ranked:
        plan = Plan(dp=row["dp"], pp=row["pp"], microbatches=row["microbatches"], schedule=row["schedule"] or "1f1b")
        places = tuple(map(int, row["plan"].split("place=")[1].split(","))) if "place=" in row["plan"] else ()
        alone = simulate(FOUR, topology, replace(plan, devices=places))
        assert (alone.step_s, alone.speedup) == (row["step_s"], row["speedup"])


def test_fewer_devices_than_there_are_need_not_be_the_first():
    topology = switch(4, link=FREE, devices=speeds(1.0, 2.0, 1.0, 2.0))
    found = sweep(FOUR, topology, batch=2, devices=2, processes=1)
    assert found.best["plan"] == "dp=2 place=1,3"


def test_a_link_decides_as_a_device_does():
    """All devices are alike; the links of the first are slow."""
    topology = fully_connected(3, link=Wire(1000.0))
    slow = tuple(
        replace(link, bandwidth_bytes_per_s=1.0) if "d0" in (link.source, link.target) else link
        for link in topology.links
    )
    work = chained([layer(name, parameters={name: 50}) for name in "ab"], 50)
    assert best_played(work, replace(topology, links=slow), Plan(dp=2), {}).lowering.plan.devices == (1, 2)


def test_on_nodes_that_are_alike_the_larger_traffic_stays_inside():
    """Gradients of 400 bytes and activations of 1: replicas of a stage belong in a node, not stages of a replica."""
    topology = nodes(2, per_node=2, nics=2, inside="nvlink4", between="eth_10g")
    work = chained([layer(name, parameters={name: 4 * 10**8}) for name in "ab"], 1000)
    assert best_played(work, topology, Plan(dp=2, pp=2), {}).lowering.plan.devices == (0, 2, 1, 3)
    work = chained([layer(name, parameters={name: 1000}) for name in "ab"], 4 * 10**8)
    assert best_played(work, topology, Plan(dp=2, pp=2), {}).lowering.plan.devices == ()


def test_what_fits_comes_before_what_is_faster():
    """The fast device holds 250 bytes, the model 400."""
    work = chained([layer("a", parameters={"a": 200})], 0)
    devices = [Device(name="", memory_bytes=1000), Device(name="", speed=4.0, memory_bytes=250)]
    assert best_played(work, switch(2, link=FREE, devices=devices), Plan(), {}).lowering.plan.devices == ()
    found = sweep(work, switch(2, link=FREE, devices=devices), batch=1, processes=1)
    assert (found.best["plan"], found.best["fits"]) == ("dp=1", True)


def test_like_parts_are_used_in_their_order():
    for topology in (ring(6, link=FREE), chain(6, link=FREE), mpsim.parse_topology("torus:2x3,link=eth_10g")):
        assert placements(topology, 2, 2, 1) == [()]


def test_kinds_are_told_apart_by_what_is_behind_their_switch():
    topology = nodes(2, per_node=2, nics=2, inside="nvlink4", between="eth_10g")
    assert kinds(topology) == [0, 0, 0, 0]
    first = topology.devices[0]
    assert kinds(replace(topology, devices=(replace(first, speed=2.0), *topology.devices[1:]))) == [0, 1, 2, 2]
    port = next(link for link in topology.links if link.source not in {device.name for device in topology.devices})
    slower = replace(port, bandwidth_bytes_per_s=port.bandwidth_bytes_per_s / 2)
    links = tuple(slower if link is port else link for link in topology.links)
    assert kinds(replace(topology, links=links)) != [0, 0, 0, 0]


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=2, max_size=4),
    st.sampled_from([(1, 1), (1, 2), (2, 1), (1, 3), (2, 2)]),
    st.integers(1, 3),
)
def test_no_placement_of_a_small_plan_is_better(values, shape, microbatches):
    (dp, pp), topology = shape, switch(len(values), link=Wire(64.0), devices=speeds(*values))
    if dp * pp > len(values):
        return
    work = chained([layer(str(i), (1.0, 1.0, i + 1.0)) for i in range(4)], 16)
    plan = Plan(dp=dp, pp=pp, microbatches=microbatches)
    every = [
        simulate(work, topology, replace(plan, devices=place)).step_s
        for place in permutations(range(len(values)), dp * pp)
    ]
    ours = simulate(work, topology, best_played(work, topology, plan, {}).lowering.plan).step_s
    assert ours <= min(every) * (1 + 1e-9)


@given(
    st.lists(st.sampled_from([1.0, 2.0, 4.0, 8.0]), min_size=1, max_size=9),
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 2),
)  # fmt: skip
def test_a_placement_is_one(values, dp, pp, tp):
    topology = chain(len(values), link=FREE, devices=speeds(*values))
    if dp * pp * tp > len(values):
        return
    found = placements(topology, dp, pp, tp)
    assert found[0] == ()
    assert len(set(found)) == len(found)
    for place in found[1:]:
        assert len(set(place)) == len(place) == dp * pp * tp
        Plan(dp=dp, pp=pp, tp=tp, devices=place).place(len(values))


def test_a_type_without_costs_of_that_shard_is_passed_over():
    """Only the new devices were measured at tp 2: the plan stands on them."""
    old = chained([layer(name, {1: (1.0, 1.0, 1.0)}) for name in "ab"], 0)
    new = chained([layer(name, {1: (1.0, 1.0, 1.0), 2: (0.5, 0.5, 0.5)}, tensor_parallel=(1, 2)) for name in "ab"], 0)
    devices = [Device(name="", type="old")] * 2 + [Device(name="", type="new")] * 2
    topology = switch(4, link=FREE, devices=devices)
    plan = best_played(new, topology, Plan(tp=2), {"old": old}).lowering.plan
    assert plan.devices == (2, 3)
    with pytest.raises(mpsim.MpsimError, match="was measured at tp 1"):
        best_played(old, topology, Plan(tp=2), {"new": old})


def test_cards_that_lead_to_no_other_device_make_none_unlike():
    """One node's devices are joined by its switch; each has a card beside, on a link of another kind."""
    assert placements(nodes(1, per_node=8, nics=8, inside="nvlink4", between="ib_ndr"), dp=2, pp=4, tp=1) == [()]
    assert len(placements(nodes(2, per_node=4, nics=4, inside="nvlink4", between="ib_ndr"), dp=2, pp=4, tp=1)) > 1
