"""Collectives that follow levels: groups found, hand-worked traffic, placement, and reduction inside the network."""

from collections import defaultdict
from dataclasses import replace
from itertools import chain as flatten
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.collectives.bounds import lower_bound_s
from mpsim.collectives.levelled import LEVELLED
from mpsim.collectives.mapping import laid_rounds
from mpsim.collectives.rounds import Round, must_hear
from mpsim.collectives.traffic import collective, messages
from mpsim.errors import MpsimError
from mpsim.topology.builders import chain, dragonfly, fat_tree, leaf_spine, mesh, nodes, ring, switch
from mpsim.topology.levels import find_levels, level_sizes
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire

INSIDE, BETWEEN = Wire(2.0**33, 2.0**-20), Wire(2.0**30, 2.0**-17)
NODES = {
    (m, k): nodes(k, per_node=m, nics=m, inside=INSIDE, between=BETWEEN)
    for m, k in ((2, 2), (4, 2), (4, 3), (3, 4), (8, 2))
}
SHAPES = [
    *NODES.values(),
    nodes(3, per_node=4, inside=INSIDE, between=BETWEEN, fabric="ring", nics=2),
    fat_tree(4, link=BETWEEN),
    leaf_spine(4, per_leaf=3, spines=2, link=BETWEEN),
    dragonfly(3, routers=2, per_router=2, link=BETWEEN),
    ring(9, link=BETWEEN),
    chain(7, link=BETWEEN),
    mesh(3, 4, link=BETWEEN),
]
SIZE = 2**24


def idle_s(topology: Topology, traffic) -> float:
    used = zip(traffic.links, traffic.bytes, strict=True)
    return traffic.latency_s + max(count / topology.links[link].bandwidth_bytes_per_s for link, count in used)


# The groups.


def test_levels_are_found_from_the_fewest_links_up():
    assert level_sizes(find_levels(Routes(NODES[4, 3]), range(12))) == (4, 3)
    assert level_sizes(find_levels(Routes(fat_tree(4, link=BETWEEN)), range(16))) == (2, 2, 4)
    assert level_sizes(find_levels(Routes(leaf_spine(4, per_leaf=4, spines=2, link=BETWEEN)), range(16))) == (4, 4)
    assert level_sizes(find_levels(Routes(dragonfly(3, routers=2, per_router=2, link=BETWEEN)), range(12)))[0] == 2
    for flat in (ring(8, link=BETWEEN), switch(8, link=BETWEEN)):
        assert find_levels(Routes(flat), range(8)) == ((tuple(range(8)),),)


def _joined(topology, devices):
    """Return the groups of each level as they are defined: by the links between each pair."""
    near = defaultdict(set)
    for one in topology.links:
        near[one.source].add(one.target)
        near[one.target].add(one.source)
    names = {topology.devices[device].name: device for device in devices}
    between = set()
    for name, device in names.items():
        away, frontier = {name: 0}, [name]
        for node in frontier:
            for other in near[node] - away.keys():
                away[other] = away[node] + 1
                frontier.append(other)
        between |= {(away[other], device, names[other]) for other in names if other != name}
    levels, group = [], {device: device for device in devices}
    for links, a, b in sorted(between):
        group = {device: group[b] if own == group[a] else own for device, own in group.items()}
        levels.append((links, tuple(tuple(d for d in devices if group[d] == g) for g in dict.fromkeys(group.values()))))
    found = list(dict(levels).values())
    return tuple(groups for before, groups in pairwise([None, *found]) if groups != before)


@given(st.data())
def test_levels_are_those_of_all_pairs(data):
    topology = data.draw(st.sampled_from(SHAPES))
    devices = data.draw(st.permutations(range(len(topology.devices))))
    devices = devices[: data.draw(st.integers(2, len(devices)))]
    assert find_levels(Routes(topology), devices) == _joined(topology, devices)


def test_levels_look_at_no_more_than_joins_the_ranks():
    # Four ranks of one node of eight, of 64 nodes: their own switches and cards, and not the network's 512 ports.
    routes, looked = Routes(nodes(64, per_node=8, nics=8, inside=INSIDE, between=BETWEEN)), []
    beside = routes.beside
    routes.beside = lambda node: looked.append(node) or beside(node)
    assert find_levels(routes, range(4)) == (((0, 1, 2, 3),),)
    assert sorted(looked) == [0, 1, 2, 3]


def test_levels_are_those_of_the_ranks_that_take_part():
    assert find_levels(Routes(NODES[4, 3]), (0, 4, 8)) == (((0, 4, 8),),)
    assert find_levels(Routes(NODES[4, 3]), (8, 0, 9, 1)) == (((8, 9), (0, 1)), ((8, 0, 9, 1),))


def test_unequal_groups_are_refused():
    with pytest.raises(MpsimError, match="in groups of 1 and of 4, levels need groups of one size"):
        collective(Routes(NODES[4, 2]), "all_reduce", range(5), SIZE, "hierarchical")


def test_levels_may_be_named():
    routes = Routes(switch(8, link=INSIDE))
    named = laid_rounds(routes, "all_reduce", "hierarchical:2x2", tuple(range(8)))[0].rounds
    assert [(one.pieces, one.repeat) for one in named] == [(4, 1), (2, 1), (1, 2), (2, 1), (4, 1)]
    with pytest.raises(MpsimError, match="levels of 3 do not divide 8 ranks"):
        collective(routes, "all_reduce", range(8), SIZE, "hierarchical:3")
    with pytest.raises(MpsimError, match="levels are named as in hierarchical:8"):
        collective(routes, "all_reduce", range(8), SIZE, "hierarchical:x")


# Everyone hears, for each algorithm and grid.


@pytest.mark.parametrize("which", sorted(set(LEVELLED)))
@pytest.mark.parametrize("grid", NODES)
def test_everyone_hears_of_whom_it_must(which, grid):
    kind, algorithm = which
    if algorithm == "nvls":
        pytest.skip("reduces inside one node")
    topology = replace(NODES[grid], reducing=tuple(NODES[grid].switches))
    n = len(topology.devices)
    rounds, order = laid_rounds(Routes(topology), kind, algorithm, tuple(range(n)))
    heard = [{device} for device in order]
    for one in [part for step in rounds.rounds for part in getattr(step, "parts", (step,))]:
        if isinstance(one, Round):
            for _ in range(one.repeat):
                before = heard if one.hops > 1 else [set(of) for of in heard]
                for source, target in one.messages:
                    heard[target] = heard[target] | before[source]
        else:
            for group in one.groups:
                together = set().union(*(heard[rank] for rank in group))
                for rank in group:
                    heard[rank] = set(together)
    assert all(must_hear(kind, rank, n) <= of for rank, of in enumerate(heard))


# Hand-worked.


def test_hierarchical_all_reduce_by_hand():
    """Inside: 3 rounds of S/4 each way; between: 2 of S/8 on each card; each level takes its time."""
    routes = Routes(NODES[4, 2])
    traffic = collective(routes, "all_reduce", range(8), SIZE, "hierarchical")
    loads = dict(zip(traffic.links, traffic.bytes, strict=True))
    assert loads[routes.link_index("n0.d0", "n0.switch")] == 2 * 3 * SIZE / 4
    assert loads[routes.link_index("n0.nic0", "network")] == 2 * SIZE / 8
    assert traffic.rounds == 3 + 2 + 3
    inside_s, between_s = 2 * 3 / 4 * SIZE / 2**33, 2 / 8 * SIZE / 2**30
    latency_s = 6 * 2 * INSIDE.latency_s + 2 * 2 * BETWEEN.latency_s
    assert idle_s(NODES[4, 2], traffic) == pytest.approx(latency_s + inside_s + between_s, rel=1e-12)


def test_rings_use_every_card_alike_and_one_ring_uses_one():
    routes = Routes(NODES[4, 2])
    cards = [routes.link_index(f"n0.nic{i}", "network") for i in range(4)]
    every, one = (collective(routes, "all_reduce", range(8), SIZE, name) for name in ("rings", "ring"))
    each = dict(zip(every.links, every.bytes, strict=True))
    assert [each[card] for card in cards] == [2 * 7 / 8 * SIZE / 4] * 4
    assert [link in one.links for link in cards] == [False, False, False, True]


def test_trees_pass_each_card_twice_with_its_share():
    """A half of a share goes up and down each of two trees: at most 2 S/m leaves a card, m cards a node."""
    topology = NODES[4, 3]
    routes = Routes(topology)
    traffic = collective(routes, "all_reduce", range(12), SIZE, "trees")
    cards = [routes.link_index(f"n{k}.nic{i}", "network") for k in range(3) for i in range(4)]
    loads = dict(zip(traffic.links, traffic.bytes, strict=True))
    assert sum(loads[card] for card in cards) == 2 * 2 * SIZE
    assert max(loads[card] for card in cards) <= 2 * SIZE / 4
    assert traffic.rounds == 2 * 3 + 2


def test_nvls_moves_n_plus_1_nths_each_way():
    topology = replace(switch(8, link=INSIDE), reducing=("switch",))
    traffic = collective(Routes(topology), "all_reduce", range(8), SIZE, "nvls")
    assert set(traffic.bytes) == {SIZE * 9 / 8}
    assert traffic.latency_s == 4 * INSIDE.latency_s


def test_collnet_sends_each_share_once_up_and_once_down():
    topology = replace(NODES[4, 3], reducing=("network",))
    routes = Routes(topology)
    traffic = collective(routes, "all_reduce", range(12), SIZE, "collnet")
    loads = dict(zip(traffic.links, traffic.bytes, strict=True))
    assert loads[routes.link_index("n2.nic1", "network")] == SIZE / 4
    assert loads[routes.link_index("network", "n2.nic1")] == SIZE / 4


def test_switches_above_one_that_reduces_carry_the_sum_once():
    topology = leaf_spine(2, per_leaf=4, spines=1, link=BETWEEN)
    every = replace(topology, reducing=("leaf0", "leaf1", "spine0"))
    for reducing, expected in ((every, SIZE), (replace(topology, reducing=("spine0",)), 4 * SIZE)):
        routes = Routes(reducing)
        traffic = collective(routes, "all_reduce", (0, 4, 1, 5, 2, 6, 3, 7), SIZE, "collnet:1")
        loads = dict(zip(traffic.links, traffic.bytes, strict=True))
        assert loads[routes.link_index("leaf0", "spine0")] == expected


def test_reduction_needs_a_switch_that_reduces():
    with pytest.raises(MpsimError, match=r"no switch of topology 'switch:8' that reduces stands next to all ranks"):
        collective(Routes(switch(8, link=INSIDE)), "all_reduce", range(8), SIZE, "nvls")
    with pytest.raises(MpsimError, match="it has no messages from rank to rank"):
        list(messages("all_reduce", range(8), SIZE, "nvls", Routes(switch(8, link=INSIDE))))


def test_a_group_strided_over_nodes_pays_for_the_network():
    """Four ranks of one node, or one of each of four nodes: the same ring, over other links."""
    topology = nodes(4, per_node=4, nics=4, inside=INSIDE, between=BETWEEN)
    together, strided = (
        idle_s(topology, collective(Routes(topology), "all_reduce", ranks, SIZE))
        for ranks in (range(4), range(0, 16, 4))
    )
    assert together == 6 * 2 * INSIDE.latency_s + 1.5 * SIZE / 2**33
    assert strided == 6 * 2 * BETWEEN.latency_s + 1.5 * SIZE / 2**30


# Properties.


@given(
    which=st.sampled_from(sorted(set(LEVELLED))),
    per_node=st.integers(1, 4),
    count=st.integers(1, 4),
    fabric=st.sampled_from(["switch", "fully_connected", "ring"]),
    speeds=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    size=st.integers(1, 2**40),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_no_levelled_collective_beats_the_bandwidth_bound(which, per_node, count, fabric, speeds, size, data):
    kind, algorithm = which
    inside, outside = (Wire(speed * 1e9) for speed in speeds)
    topology = nodes(count, per_node=per_node, nics=per_node, inside=inside, between=outside, fabric=fabric)
    ranks = data.draw(st.permutations(range(per_node * count)))[: data.draw(st.integers(2, max(2, per_node * count)))]
    if len(ranks) < 2:
        return
    if algorithm == "nvls":
        topology, ranks = switch(16, link=inside), ranks
    if algorithm == "nvls_tree":
        topology = nodes(count, per_node=per_node, nics=per_node, inside=inside, between=outside)
    if algorithm in ("nvls", "nvls_tree", "collnet"):
        topology = replace(topology, reducing=tuple(topology.switches))
    routes = Routes(topology)
    levels = find_levels(routes, ranks) if algorithm != "nvls" else ()
    used = levels if algorithm == "hierarchical" else levels[:1]
    if any(len({len(group) for group in groups}) > 1 for groups in used):
        with pytest.raises(MpsimError, match="levels need groups of one size"):
            collective(routes, kind, ranks, size, algorithm)
        return
    traffic = collective(routes, kind, ranks, size, algorithm)
    assert idle_s(topology, traffic) >= lower_bound_s(routes, kind, ranks, size) * (1 - 1e-9)


@pytest.mark.parametrize("which", sorted(key for key in LEVELLED if key[1] in ("hierarchical", "rings", "trees")))
def test_link_bytes_are_those_of_the_messages(which):
    kind, algorithm = which
    routes = Routes(NODES[4, 3])
    expected: dict[int, float] = {}
    for source, target, count in flatten.from_iterable(messages(kind, range(12), SIZE, algorithm, routes)):
        for link in routes.path(source, target):
            expected[link] = expected.get(link, 0.0) + count
    traffic = collective(routes, kind, range(12), SIZE, algorithm)
    assert dict(zip(traffic.links, traffic.bytes, strict=True)) == pytest.approx(expected, rel=1e-12)


def test_a_barrier_moves_nothing():
    traffic = collective(Routes(switch(8, link=INSIDE)), "barrier", range(8), 0, "halving_doubling")
    assert (traffic.links, traffic.payload_bytes, traffic.latency_s) == ((), 0, 3 * 2 * INSIDE.latency_s)
