"""Routes: worked by hand on every shape, and against a search of all paths on random graphs."""

import itertools
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_routes import ReferenceRoutes

from mpsim.errors import MpsimError
from mpsim.topology.builders import chain, dragonfly, fat_tree, leaf_spine, mesh, ring, switch, torus
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire

WIRE = Wire(2.0**30, 0.25)


def visited(topology, a, b):
    """Return the nodes of a route after its first."""
    return [topology.links[i].target for i in Routes(topology).path(a, b)]


def test_a_device_to_itself_and_to_its_neighbour():
    routes = Routes(ring(4, link=WIRE))
    assert routes.path(2, 2) == ()
    assert routes.path(3, 0) == (routes.link_index("d3", "d0"),)
    assert routes.latency_s(()) == 0.0
    assert routes.bandwidth_bytes_per_s(()) == float("inf")


def test_chain_and_ring_take_the_short_way():
    assert visited(chain(4, link=WIRE), 3, 0) == ["d2", "d1", "d0"]
    assert visited(ring(8, link=WIRE), 1, 6) == ["d0", "d7", "d6"]
    assert visited(ring(4, link=WIRE), 0, 2) == ["d1", "d2"]  # Half way round: the way that is laid first.
    assert visited(ring(4, link=WIRE), 3, 1) == ["d0", "d1"]


def test_mesh_and_torus_travel_the_last_dimension_first():
    assert visited(mesh(3, 3, link=WIRE), 0, 8) == ["d1", "d2", "d5", "d8"]
    assert visited(mesh(3, 3, link=WIRE), 8, 0) == ["d7", "d6", "d3", "d0"]
    assert visited(torus(4, 4, link=WIRE), 0, 15) == ["d3", "d15"]
    assert visited(mesh(2, 2, 2, link=WIRE), 0, 7) == ["d1", "d3", "d7"]


def test_dimension_order_loads_no_torus_link_more_than_another():
    # Of a 5 x 5 torus every device sends to the one that is 2 rows and 1 column further: 3 links each, 75 in all,
    # and of the 25 links of each direction every row-wise one carries 1 and every column-wise one 2.
    topology = torus(5, 5, link=WIRE)
    routes = Routes(topology)
    load = [0] * len(topology.links)
    for row, col in itertools.product(range(5), range(5)):
        for link in routes.path(row * 5 + col, (row + 2) % 5 * 5 + (col + 1) % 5):
            load[link] += 1
    assert sorted(load) == [0] * 50 + [1] * 25 + [2] * 25


def test_switch_is_two_links():
    topology = switch(4, link=WIRE)
    assert visited(topology, 1, 3) == ["switch", "d3"]
    routes = Routes(topology)
    assert routes.latency_s(routes.path(1, 3)) == 0.5


def test_targets_of_one_leaf_come_over_different_spines():
    topology = leaf_spine(2, per_leaf=4, spines=4, link=WIRE)
    assert [visited(topology, 0, b)[1] for b in (4, 5, 6, 7)] == ["spine0", "spine1", "spine2", "spine3"]
    assert visited(topology, 0, 3) == ["leaf0", "d3"]


def test_a_fat_tree_carries_every_shift_without_two_messages_on_one_link():
    topology = fat_tree(4, link=WIRE)
    routes = Routes(topology)
    for shift in range(1, 16):
        load = [0] * len(topology.links)
        for a in range(16):
            for link in routes.path(a, (a + shift) % 16):
                load[link] += 1
        assert max(load) == 1, shift


def _link(source, target, bandwidth=1.0, latency=0.0):
    return Link(source=source, target=target, bandwidth_bytes_per_s=bandwidth, latency_s=latency)


def _diamond(**over_x):
    """Two ways from a to b, over switch x and over switch y; what is not said of x's links is as y's."""
    links = [_link("a", "y", 2.0, 1.0), _link("y", "b", 2.0, 1.0), _link("b", "a", 2.0, 1.0)]
    links += [_link("a", "x", **over_x), _link("x", "b", **over_x)]
    return Topology(
        name="diamond", devices=(Device(name="a"), Device(name="b")), switches=("x", "y"), links=tuple(links)
    )


def test_ties_go_by_latency_and_then_by_bandwidth():
    assert visited(_diamond(bandwidth=0.5, latency=0.5), 0, 1)[0] == "x"
    assert visited(_diamond(bandwidth=0.5, latency=1.0), 0, 1)[0] == "y"
    assert visited(_diamond(bandwidth=4.0, latency=1.0), 0, 1)[0] == "x"
    assert visited(_diamond(bandwidth=4.0, latency=2.0), 0, 1)[0] == "y"


def test_latencies_in_another_order_still_tie():
    # 0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floats: the tie must go by the order of links all the same.
    def topology(first, second):
        steps = [*zip("a" + first, first + "b", (0.1, 0.2, 0.3), strict=True)]
        steps += [*zip("a" + second, second + "b", (0.3, 0.2, 0.1), strict=True)]
        links = [_link(s, t, 1.0, latency) for s, t, latency in steps]
        devices = tuple(Device(name=name) for name in "abuvwx")
        return Topology(name="tie", devices=devices, links=(*links, *(_link("b", n) for n in "auvwx")))

    def reachable(topology):
        back = tuple(_link(n, "a") for n in "uvwx")
        return Topology(name="tie", devices=topology.devices, links=topology.links + back)

    assert visited(reachable(topology("uv", "wx")), 0, 1) == ["u", "v", "b"]
    assert visited(reachable(topology("wx", "uv")), 0, 1) == ["w", "x", "b"]


@pytest.mark.parametrize("pair", [(0, 4), (-1, 0), (4, 4)])
def test_no_such_device(pair):
    with pytest.raises(MpsimError, match="has 4, from 0"):
        Routes(ring(4, link=WIRE)).path(*pair)


def test_no_such_link_or_node():
    routes = Routes(ring(4, link=WIRE))
    with pytest.raises(MpsimError, match="no link 'd0' -> 'd2'"):
        routes.link_index("d0", "d2")
    with pytest.raises(MpsimError, match="unknown node 'dd1'; did you mean 'd1'"):
        routes.link_index("dd1", "d2")


@st.composite
def graphs(draw):
    """Random strongly connected graphs of unlike links: a cycle through all nodes, and any other links."""
    n_devices, n_switches = draw(st.integers(1, 5)), draw(st.integers(0, 3))
    nodes = [f"d{i}" for i in range(n_devices)] + [f"s{i}" for i in range(n_switches)]
    cycle = draw(st.permutations(nodes))
    pairs = {pair for pair in zip(cycle, cycle[1:] + cycle[:1], strict=True) if pair[0] != pair[1]}
    others = [pair for pair in itertools.permutations(nodes, 2) if pair not in pairs]
    if others:
        pairs |= set(draw(st.lists(st.sampled_from(others), unique=True)))
    ordered = draw(st.permutations(sorted(pairs)))
    quantity = st.sampled_from([1.0, 2.0, 4.0])
    links = tuple(_link(a, b, draw(quantity), draw(quantity)) for a, b in ordered)
    devices = tuple(Device(name=f"d{i}") for i in range(n_devices))
    return Topology(name="random", devices=devices, switches=tuple(nodes[n_devices:]), links=links)


def _hops(topology, a, b):
    """Return the least number of links between two nodes, by plain breadth-first search."""
    distance, queue = {a: 0}, deque([a])
    while queue:
        node = queue.popleft()
        for link in topology.links:
            if link.source == node and link.target not in distance:
                distance[link.target] = distance[node] + 1
                queue.append(link.target)
    return distance[b]


def _every_path(topology, a, b, length):
    """Yield every way of exactly so many links from a to b."""
    if length == 0:
        if a == b:
            yield ()
        return
    for i, link in enumerate(topology.links):
        if link.source == a:
            for rest in _every_path(topology, link.target, b, length - 1):
                yield (i, *rest)


def _quality(topology, path):
    links = [topology.links[i] for i in path]
    return sum(link.latency_s for link in links), -min(link.bandwidth_bytes_per_s for link in links)


@given(graphs())
def test_every_pair_has_the_best_of_its_shortest_paths(topology):
    routes = Routes(topology)
    for a, b in itertools.permutations(range(len(topology.devices)), 2):
        path, names = routes.path(a, b), (f"d{a}", f"d{b}")
        links = [topology.links[i] for i in path]
        assert (links[0].source, links[-1].target) == names
        assert all(one.target == two.source for one, two in itertools.pairwise(links))
        assert len(path) == _hops(topology, *names)
        best = min(_quality(topology, other) for other in _every_path(topology, *names, len(path)))
        assert _quality(topology, path) == best == (routes.latency_s(path), -routes.bandwidth_bytes_per_s(path))


@given(graphs())
def test_routes_depend_on_nothing_but_the_topology(topology):
    pairs = list(itertools.product(range(len(topology.devices)), repeat=2))
    forwards, backwards = Routes(topology), Routes(topology)
    last_first = {pair: backwards.path(*pair) for pair in reversed(pairs)}
    assert [forwards.path(*pair) for pair in pairs] == [last_first[pair] for pair in pairs]


def _uneven(topology, random):
    """Return the topology with links of other widths and latencies here and there."""
    links = [
        _link(link.source, link.target, random.choice([1.0, 2.0]), random.choice([0.5, 0.5, 0.5, 1.0]))
        if random.random() < 0.2
        else link
        for link in topology.links
    ]
    return Topology(name="uneven", devices=topology.devices, switches=topology.switches, links=tuple(links))


def _hung(topology, random):
    """Return the topology with devices that hang on its nodes by one link each way, not always on the same."""
    nodes = [*(device.name for device in topology.devices), *topology.switches]
    names = [f"end{i}" for i in range(random.randint(0, 4))]
    links = [_link(name, random.choice(nodes), random.choice([1.0, 4.0])) for name in names]
    links += [_link(random.choice(nodes), name, random.choice([1.0, 4.0])) for name in names]
    devices = topology.devices + tuple(Device(name=name) for name in names)
    return Topology(name="hung", devices=devices, switches=topology.switches, links=topology.links + tuple(links))


def _as_searched(topology, random):
    pairs = list(itertools.product(range(len(topology.devices)), repeat=2))
    pairs = random.sample(pairs, min(len(pairs), 300))
    routes, reference = Routes(topology), ReferenceRoutes(topology)
    assert [routes.path(*pair) for pair in pairs] == [reference.path(*pair) for pair in pairs]


@given(graphs(), st.randoms(use_true_random=False))
def test_ways_that_devices_share_are_those_of_a_search_for_each(topology, random):
    _as_searched(_hung(topology, random), random)


@settings(max_examples=20)
@given(st.sampled_from([(leaf_spine, 4), (fat_tree, 4), (dragonfly, 4)]), st.randoms(use_true_random=False))
def test_networks_have_the_routes_of_a_search_for_each(case, random):
    build, size = case
    counts = {leaf_spine: {"per_leaf": 4, "spines": 3}, dragonfly: {"routers": 3, "per_router": 2}}.get(build, {})
    topology = build(size, link=WIRE, **counts)
    _as_searched(topology, random)
    _as_searched(_uneven(topology, random), random)


class _Counting(dict):
    looked = 0

    def __iter__(self):
        for item in super().__iter__():
            _Counting.looked += 1
            yield item


def test_a_route_through_a_switch_of_a_thousand_ports_looks_at_few_links():
    routes = Routes(switch(1024, link=WIRE))
    for table in (routes._out, routes._in):
        table[:] = [_Counting(neighbours) for neighbours in table]
    routes.path(0, 1023)
    assert _Counting.looked <= 4
