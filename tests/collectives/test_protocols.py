"""Measured costs: a curve of regimes by hand, levels told apart, what is chosen by them, and what lies beyond them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.collectives.bounds import lower_bound_s
from mpsim.collectives.choice import alone_s, candidates, choose
from mpsim.collectives.traffic import collective, point_to_point
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation import simulate, simulate_collectives
from mpsim.topology.builders import leaf_spine, nodes, switch
from mpsim.topology.costs import CollectiveCost, Regime
from mpsim.topology.file import load_topology, save_topology
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire
from mpsim.workload.model import Layer, Workload

NVLINK, NETWORK = Wire(2.0**30, 2.0**-20, "nvlink4"), Wire(2.0**27, 2.0**-17, "ib_ndr")
SMALL = Regime(least_bytes=2**10, most_bytes=2**14, launch_s=2.0**-10, step_s=2.0**-13, bandwidth_bytes_per_s=2.0**28)
LARGE = Regime(
    least_bytes=2**16, most_bytes=2**30, launch_s=2.0**-8, bandwidth_bytes_per_s=2.0**30, local_bytes_per_s=2.0**29
)
COST = CollectiveCost(link="nvlink4", kind="all_reduce", algorithm="ring", regimes=(SMALL, LARGE), most_ranks=8)
NODE = replace(switch(8, link=NVLINK), costs=(COST,))


def took_s(topology, kind, ranks, size, algorithm="ring"):
    traffic = collective(Routes(topology), kind, ranks, size, algorithm)
    used = zip(traffic.links, traffic.bytes, strict=True)
    return traffic.latency_s + max(n / topology.links[i].bandwidth_bytes_per_s for i, n in used)


def test_a_regime_by_hand():
    """Launch, six steps, 1.5 S at the regime's bandwidth; in the large one S/4 passes through memory."""
    assert took_s(NODE, "all_reduce", range(4), 2**14) == 2.0**-10 + 6 * 2.0**-13 + 1.5 * 2**14 / 2**28
    assert took_s(NODE, "all_reduce", range(4), 2**20) == 2.0**-8 + 1.5 * 2**20 / 2**30 + 2**18 / 2**29


def test_bytes_on_links_are_those_of_the_collective_whatever_it_costs():
    plain, costed = (collective(Routes(one), "all_reduce", range(8), 2**14) for one in (switch(8, link=NVLINK), NODE))
    assert (plain.links, plain.bytes) == (costed.links, costed.bytes)


def test_between_two_regimes_times_are_interpolated_on_log_scales():
    low, high = (took_s(NODE, "all_reduce", range(4), size) for size in (2**14, 2**16))
    assert took_s(NODE, "all_reduce", range(4), 2**15) == pytest.approx(math.sqrt(low * high), rel=1e-12)


def test_what_has_no_cost_keeps_the_links_latency():
    assert took_s(NODE, "all_gather", range(4), 2**14) == took_s(switch(8, link=NVLINK), "all_gather", range(4), 2**14)


def test_messages_between_nodes_cost_what_the_outer_level_says_and_those_inside_what_the_inner_does():
    between = CollectiveCost(
        link="ib_ndr",
        kind="all_reduce",
        algorithm="ring",
        regimes=(Regime(least_bytes=1, most_bytes=2**30, launch_s=2.0**-6, step_s=2.0**-8),),
        most_ranks=64,
    )
    topology = replace(nodes(2, per_node=4, nics=4, inside=NVLINK, between=NETWORK), costs=(COST, between))
    # Of the 14 messages in a row around the ring, 4 at most go between the nodes.
    bytes_s = 2 * 7 / 8 * 2**12 / 2**27
    assert took_s(topology, "all_reduce", range(8), 2**12) == 2.0**-6 + 4 * 2.0**-8 + 10 * 2.0**-13 + bytes_s
    assert took_s(topology, "all_reduce", range(4), 2**12) == took_s(NODE, "all_reduce", range(4), 2**12)


def test_direct_messages_of_a_rank_leave_one_after_another():
    direct = replace(COST, kind="all_to_all", algorithm="direct", regimes=(SMALL,))
    topology = replace(NODE, costs=(direct,))
    expected = 2.0**-10 + 7 * 2.0**-13 + 7 / 8 * 2**12 / 2**28
    assert took_s(topology, "all_to_all", range(8), 2**12, "direct") == expected


def test_a_message_costs_what_sends_and_receives_were_measured_to_cost():
    cost = replace(COST, kind="send_receive", algorithm="direct", least_ranks=8)  # Each of eight to the next.
    box = replace(switch(8, link=NVLINK), costs=(COST, cost))
    for size, measured_s in (
        (2**14, 2.0**-10 + 2.0**-13 + 2**14 / 2**28),
        (2**20, 2.0**-8 + 2**20 / 2**30 + 2**19 / 2**29),
    ):
        traffic = point_to_point(Routes(box), 0, 3, size)
        assert traffic.latency_s + size / 2**30 == measured_s
        assert not traffic.beyond
    assert point_to_point(Routes(box), 0, 3, 2**31).beyond
    assert point_to_point(Routes(NODE), 0, 3, 2**14).latency_s == 2.0**-19


@pytest.mark.parametrize("runtime", ["ideal", "torch-nccl"])
def test_sends_of_a_pipeline_cost_what_was_measured(runtime):
    layers = [Layer.given(name, forward_s=1.0, backward_s=1.0) for name in "ab"]
    work = Workload.chain("two", layers, activation_bytes=2**20)
    cost = replace(COST, kind="send_receive", algorithm="direct")
    steps = [
        simulate(work, replace(switch(2, link=NVLINK), costs=costs), Plan(pp=2, runtime=runtime)).step_s
        for costs in ((), (cost,))
    ]
    more_s = 2.0**-8 + 2**20 / 2**30 + 2**19 / 2**29 - (2.0**-19 + 2**20 / 2**30)
    assert steps[1] - steps[0] == 2 * more_s  # An output there, its gradient back.


def test_beyond_what_was_measured_the_result_says_so():
    inside = simulate_collectives([2**20], NODE)
    sizes = simulate_collectives([2**31], NODE)
    ranks = simulate_collectives([2**20], replace(NODE, costs=(replace(COST, most_ranks=4),)))
    assert [result.traffic[0].beyond for result in (inside, sizes, ranks)] == [0, 1, 1]


def test_costs_are_kept_in_files_and_must_name_a_type_of_link(tmp_path):
    save_topology(tmp_path / "node.json", NODE)
    assert load_topology(tmp_path / "node.json") == NODE
    with pytest.raises(MpsimError, match=r"a cost is for links of type 'nvlink5', not among the topology's; did you"):
        replace(NODE, costs=(replace(COST, link="nvlink5"),))
    with pytest.raises(MpsimError, match="regimes overlap or are out of order"):
        replace(COST, regimes=(LARGE, SMALL))


@given(
    size=st.integers(1, 2**40),
    n=st.integers(2, 8),
    launch=st.floats(0, 1e-3),
    step=st.floats(0, 1e-3),
    speeds=st.tuples(st.floats(1e3, 1e15), st.floats(1e3, 1e15)),
)
@settings(max_examples=80, deadline=None)
def test_no_cost_beats_the_bandwidth_bound(size, n, launch, step, speeds):
    """Whatever a file says: not even bandwidths above the links' own, nor interpolation between them."""
    regimes = [
        replace(regime, launch_s=launch, step_s=step, bandwidth_bytes_per_s=speed)
        for regime, speed in zip((SMALL, LARGE), speeds, strict=True)
    ]
    topology = replace(NODE, costs=(replace(COST, regimes=tuple(regimes)),))
    bound_s = lower_bound_s(Routes(topology), "all_reduce", range(n), size)
    assert took_s(topology, "all_reduce", range(n), size) >= bound_s * (1 - 1e-9)


# The choice.


def test_auto_takes_the_least_and_says_which():
    topology = nodes(4, per_node=4, nics=4, inside="nvlink4", between="ib_ndr")
    routes, ranks = Routes(topology), tuple(range(16))
    for size in (2**10, 2**24, 2**32):
        traffic = collective(routes, "all_reduce", ranks, size, "auto")
        times = {name: alone_s(routes, "all_reduce", name, ranks, size) for name in ("rings", "trees")}
        assert traffic.algorithm == min(times, key=times.__getitem__)
    result = simulate_collectives([2**10, 2**32], topology, algorithm="auto")
    assert {(count.kind, count.algorithm) for count in result.traffic} == {
        ("all_reduce", "trees"),
        ("all_reduce", "rings"),
    }


def test_within_a_node_there_is_no_tree_and_reduction_where_the_switch_can():
    ranks = tuple(range(8))
    assert candidates(Routes(switch(8, link="nvlink4")), "all_reduce", ranks, 2**20) == ["ring"]
    reduces = Routes(replace(switch(8, link="nvlink4"), reducing=("switch",)))
    assert choose(reduces, "all_reduce", ranks, 2**30) == "nvls"
    assert choose(reduces, "all_reduce", ranks[:2], 2**30) == "ring"
    assert choose(Routes(leaf_spine(4, per_leaf=2, spines=2, link="ib_ndr")), "all_reduce", ranks, 64) == "trees"


def test_with_unequal_nodes_there_is_one_ring():
    routes = Routes(nodes(2, per_node=4, nics=4, inside="nvlink4", between="ib_ndr"))
    assert choose(routes, "all_gather", (0, 1, 2, 3, 4), 2**20) == "ring"
    assert choose(routes, "all_to_all", (0, 1, 2, 3, 4), 2**20) == "direct"


def test_what_was_measured_is_chosen_before_what_was_not():
    reduces = replace(NODE, reducing=("switch",))
    assert candidates(Routes(reduces), "all_reduce", tuple(range(8)), 2**20) == ["ring"]
