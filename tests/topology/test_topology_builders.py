"""Every builder against counts and links worked out by hand."""

import pytest

from mpsim.errors import MpsimError
from mpsim.topology.builders import (
    chain,
    dragonfly,
    fat_tree,
    fully_connected,
    leaf_spine,
    mesh,
    nodes,
    product,
    ring,
    switch,
    torus,
)
from mpsim.topology.catalog import wire
from mpsim.topology.edit import join, replace_device, replace_link
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.routes import Routes
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire

WIRE = Wire(2.0**30, 0.25)
WIDE = Wire(2.0**20, 1.0)


def ends(topology):
    return {(link.source, link.target) for link in topology.links}


def both(*pairs):
    return {pair for a, b in pairs for pair in ((a, b), (b, a))}


def test_chain_ring_and_pair():
    assert ends(chain(3, link=WIRE)) == both(("d0", "d1"), ("d1", "d2"))
    assert ends(ring(3, link=WIRE)) == both(("d0", "d1"), ("d1", "d2"), ("d2", "d0"))
    assert ends(ring(2, link=WIRE)) == both(("d0", "d1"))
    assert ring(1, link=WIRE).links == ()


def test_mesh_and_torus_in_row_major_order():
    assert ends(mesh(2, 2, link=WIRE)) == both(("d0", "d1"), ("d2", "d3"), ("d0", "d2"), ("d1", "d3"))
    assert ends(mesh(1, 4, link=WIRE)) == ends(chain(4, link=WIRE))
    assert ends(torus(1, 4, link=WIRE)) == ends(ring(4, link=WIRE))
    rows = both(("d0", "d1"), ("d1", "d2"), ("d2", "d0"), ("d3", "d4"), ("d4", "d5"), ("d5", "d3"))
    assert ends(torus(2, 3, link=WIRE)) == rows | both(("d0", "d3"), ("d1", "d4"), ("d2", "d5"))


@pytest.mark.parametrize(("rows", "cols", "depth"), [(3, 3, 3), (3, 4, 5), (2, 3, 4)])
def test_three_dimensions(rows, cols, depth):
    wires = (rows - 1) * cols * depth + rows * (cols - 1) * depth + rows * cols * (depth - 1)
    assert len(mesh(rows, cols, depth, link=WIRE).links) == 2 * wires
    closing = sum(rows * cols * depth // size for size in (rows, cols, depth) if size > 2)
    assert len(torus(rows, cols, depth, link=WIRE).links) == 2 * (wires + closing)


def test_fully_connected_and_switch():
    assert len(fully_connected(5, link=WIRE).links) == 20
    star = switch(3, link=WIRE)
    assert ends(star) == both(("d0", "switch"), ("d1", "switch"), ("d2", "switch"))
    assert {link.latency_s for link in star.links} == {0.25}


def test_product_lays_each_dimension_by_its_own_wire():
    topology = product(2, 3, kinds=("switch", "ring"), links=(WIDE, WIRE))
    assert topology.switches == ("s0.0", "s0.1", "s0.2")
    columns = [("d0", "s0.0"), ("d3", "s0.0"), ("d1", "s0.1"), ("d4", "s0.1"), ("d2", "s0.2"), ("d5", "s0.2")]
    wide = {(link.source, link.target) for link in topology.links if link.latency_s == 1.0}
    assert wide == both(*columns)
    rings = both(("d0", "d1"), ("d1", "d2"), ("d2", "d0"), ("d3", "d4"), ("d4", "d5"), ("d5", "d3"))
    assert ends(topology) - wide == rings


def test_product_of_alike_dimensions_is_the_torus():
    assert product(3, 4, kinds=("ring", "ring"), links=(WIRE, WIRE)).links == torus(3, 4, link=WIRE).links


def test_nodes_with_a_card_each():
    topology = nodes(2, per_node=2, nics=2, inside=WIRE, between=WIDE)
    inside = [(f"n{i}.d{j}", f"n{i}.switch") for i in (0, 1) for j in (0, 1)]
    cards = [(f"n{i}.d{j}", f"n{i}.nic{j}") for i in (0, 1) for j in (0, 1)]
    up = [(f"n{i}.nic{j}", "network") for i in (0, 1) for j in (0, 1)]
    assert ends(topology) == both(*inside, *cards, *up)
    routes = Routes(topology)
    assert routes.latency_s(routes.path(0, 1)) == 0.5
    assert routes.latency_s(routes.path(0, 2)) == 2.0
    assert routes.bandwidth_bytes_per_s(routes.path(0, 2)) == 2.0**20


def test_nodes_have_one_card_each_unless_they_are_given_more():
    assert nodes(2, per_node=2, inside=WIRE, between=WIDE) == nodes(2, per_node=2, nics=1, inside=WIRE, between=WIDE)
    shared, own = (nodes(2, per_node=2, nics=n, inside=WIRE, between=WIDE) for n in (1, 2))
    assert [name for name in shared.switches if "nic" in name] == [
        "n0.nic0.out",
        "n0.nic0.in",
        "n1.nic0.out",
        "n1.nic0.in",
    ]
    assert len([name for name in own.switches if "nic" in name]) == 4
    assert parse_topology("nodes:2,per_node=2,inside=nvlink4,between=25GbE@50us").links == (
        nodes(2, per_node=2, inside="nvlink4", between=Wire(25e9 / 8, 50e-6)).links
    )


def test_nodes_with_shared_cards_never_turn_round_in_one():
    topology = nodes(2, per_node=4, inside=Wire(1.0, 8.0), between=Wire(2.0**30), nics=2)
    routes = Routes(topology)
    assert [topology.links[i].target for i in routes.path(0, 1)] == ["n0.switch", "n0.d1"]
    assert [topology.links[i].target for i in routes.path(1, 6)] == ["n0.nic0.out", "network", "n1.nic1.in", "n1.d2"]


def test_nodes_with_a_mesh_inside_and_a_host_link():
    host = Wire(2.0**25, 0.125)
    topology = nodes(2, per_node=4, nics=4, inside=WIRE, between=WIDE, fabric="fully_connected", host=host)
    routes = Routes(topology)
    assert len(routes.path(0, 3)) == 1
    assert routes.latency_s(routes.path(0, 7)) == 0.125 + 1.0 + 1.0 + 0.125


def test_leaf_spine():
    topology = leaf_spine(2, per_leaf=2, spines=2, link=WIRE, up=WIDE)
    down = [("d0", "leaf0"), ("d1", "leaf0"), ("d2", "leaf1"), ("d3", "leaf1")]
    up = [(f"leaf{i}", f"spine{j}") for i in (0, 1) for j in (0, 1)]
    assert ends(topology) == both(*down, *up)


def test_fat_tree_of_four_ports():
    topology = fat_tree(4, link=WIRE)
    assert (len(topology.devices), len(topology.switches), len(topology.links)) == (16, 20, 2 * 48)
    degree = {name: sum(link.source == name for link in topology.links) for name in topology.switches}
    assert set(degree.values()) == {4}
    routes = Routes(topology)
    assert [len(routes.path(0, b)) for b in (1, 2, 4, 15)] == [2, 4, 6, 6]


@pytest.mark.parametrize(("groups", "routers"), [(2, 1), (3, 2), (5, 2), (9, 4)])
def test_dragonfly_joins_every_two_groups_once(groups, routers):
    topology = dragonfly(groups, routers=routers, per_router=2, link=WIRE, wide=WIDE)
    wide = [link for link in topology.links if link.latency_s == 1.0]
    joined = {tuple(int(end[1:]) // routers for end in (link.source, link.target)) for link in wide}
    assert joined == {(g, h) for g in range(groups) for h in range(groups) if g != h}
    assert len(wide) == groups * (groups - 1)
    routes, last = Routes(topology), 2 * groups * routers - 1
    assert max(len(routes.path(0, b)) for b in range(last + 1)) <= 5


def test_an_effective_latency_is_charged_once_however_many_switches():
    message = wire("ib_hdr").latency_s
    for topology in (
        switch(4, link="ib_hdr"),
        leaf_spine(2, per_leaf=2, spines=2, link="ib_hdr"),
        fat_tree(4, link="ib_hdr"),
        dragonfly(3, routers=2, per_router=1, link="ib_hdr"),
        nodes(2, per_node=2, nics=2, inside="nvlink3", between="ib_hdr"),
        nodes(2, per_node=2, inside="nvlink3", between="ib_hdr", nics=1, host="pcie4_x16"),
    ):
        routes = Routes(topology)
        assert routes.latency_s(routes.path(0, len(topology.devices) - 1)) == message, topology.name


def test_a_wire_latency_is_charged_on_every_hop():
    routes = Routes(switch(4, link="ib_hdr@wire"))
    assert routes.latency_s(routes.path(0, 3)) == 2 * 0.6e-6


def test_unlike_devices():
    devices = ["A100-SXM4-40GB", Device(name="", type="mine", memory_bytes=7, speed=2.0), None]
    topology = ring(3, link=WIRE, devices=devices)
    assert [device.name for device in topology.devices] == ["d0", "d1", "d2"]
    assert [device.type for device in topology.devices] == ["A100-SXM4-40GB", "mine", ""]
    assert [device.memory_bytes for device in topology.devices] == [40_000_000_000, 7, 0]
    assert topology.devices[1].speed == 2.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ring(0, link=WIRE), "size is 0, expected 1 or more"),
        (lambda: ring(3, link=WIRE, devices=["T4"]), "devices has 1 entries, the topology has 3 devices"),
        (lambda: ring(1, link=WIRE, device="T4", devices=["T4"]), "device and devices are both given"),
        (lambda: ring(3, link="nvlink44"), "unknown link 'nvlink44'; did you mean 'nvlink4'"),
        (lambda: nodes(2, per_node=4, inside=WIRE, between=WIRE, nics=3), "4 devices do not divide over 3"),
        (lambda: nodes(2, per_node=4, nics=4, inside=WIRE, between=WIRE, fabric="swich"), "did you mean 'switch'"),
        (lambda: product(2, 2, kinds=("ring",), links=(WIRE,)), "2 sizes, 1 kinds and 1 links"),
        (lambda: product(2, kinds=("rong",), links=(WIRE,)), "did you mean 'ring'"),
        (lambda: fat_tree(3, link=WIRE), "arity is 3, expected an even number"),
        (lambda: Wire(0.0), "bandwidth is 0.0 bytes/s, expected more than 0"),
        (lambda: Wire(1.0, float("nan")), "latency is nan s, expected 0 or more"),
        (lambda: replace_link(ring(4, link=WIRE), "d0", "d2", WIDE), "no link 'd0' -> 'd2'"),
        (lambda: replace_device(ring(4, link=WIRE), "d9", speed=2.0), "no device 'd9'"),
        (lambda: join(ring(2, link=WIRE), ring(2, link=WIRE), WIRE, at=[("d0", "d5")]), "no node 'b.d5'"),
        (lambda: join(ring(2, link=WIRE), ring(2, link=WIRE), WIRE, at=[]), "no way from device"),
        (lambda: join(ring(2, link=WIRE), ring(2, link=WIRE), WIRE, at=[], prefixes=("", "")), "two nodes named"),
    ],
)
def test_what_cannot_be_built_says_why_in_one_line(build, message):
    with pytest.raises(MpsimError) as caught:
        build()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_replace_link_one_way_and_both_ways():
    one = replace_link(ring(4, link=WIRE), "d0", "d1", WIDE, both_ways=False)
    assert [(link.source, link.target) for link in one.links if link.latency_s == 1.0] == [("d0", "d1")]
    two = replace_link(ring(4, link=WIRE), "d0", "d1", WIDE)
    assert {(link.source, link.target) for link in two.links if link.latency_s == 1.0} == both(("d0", "d1"))
    star = replace_link(switch(2, link=WIRE), "d0", "switch", "ib_hdr")
    assert {link.latency_s for link in star.links if link.type == "ib_hdr"} == {10e-6}


def test_join_keeps_both_and_adds_the_wires():
    left, right = ring(3, link=WIRE, device="T4"), switch(2, link=WIRE)
    both_sides = join(left, right, WIDE, at=[("d0", "d0"), ("d2", "switch")], name="two")
    assert both_sides.name == "two"
    assert [device.name for device in both_sides.devices] == ["a.d0", "a.d1", "a.d2", "b.d0", "b.d1"]
    assert [device.type for device in both_sides.devices] == ["T4"] * 3 + [""] * 2
    assert both_sides.switches == ("b.switch",)
    assert ends(both_sides) >= both(("a.d0", "b.d0"), ("a.d2", "b.switch"))
    assert len(both_sides.links) == len(left.links) + len(right.links) + 4


def test_a_topology_of_a_thousand_nodes_reports_a_bad_link_in_one_short_line():
    big = ring(1024, link=WIRE)
    stray = Link(source="d0", target="elsewhere", bandwidth_bytes_per_s=1.0)
    with pytest.raises(MpsimError, match="the topology has 1024 nodes, such as 'd0'") as caught:
        Topology(name="big", devices=big.devices, links=(*big.links, stray))
    assert len(str(caught.value)) < 200
