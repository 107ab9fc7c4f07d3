"""Rings on a graph's own links: cycles through every device, no lane of a link taken twice, as many as fit."""

import math
from collections import Counter
from dataclasses import replace

import pytest

from mpsim.collectives.choice import choose
from mpsim.collectives.traffic import collective
from mpsim.topology.builders import chain, fully_connected, mesh, ring, switch, torus
from mpsim.topology.cycles import link_cycles
from mpsim.topology.routes import Routes
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire

WIRE = Wire(2.0**30, 2.0**-20)
FIT = {
    "a triangle": (fully_connected(3, link=WIRE), 1),
    "five, all joined": (fully_connected(5, link=WIRE), 2),
    "eight, all joined": (fully_connected(8, link=WIRE), 3),
    "a ring": (ring(6, link=WIRE), 1),
    "a torus": (torus(4, 4, link=WIRE), 2),
    "a DGX-1": (parse_topology("dgx1_v100:costs=none"), 3),
    "a chain has none": (chain(4, link=WIRE), 0),
    "an odd mesh has none": (mesh(3, 3, link=WIRE), 0),
    "behind a switch no link is direct": (switch(4, link=WIRE), 0),
    "two devices": (ring(2, link=WIRE), 0),
    "more than are searched": (ring(17, link=WIRE), 0),
}


@pytest.mark.parametrize("name", FIT)
def test_as_many_cycles_as_fit_and_no_lane_twice(name):
    topology, count = FIT[name]
    devices = range(len(topology.devices))
    found = link_cycles(Routes(topology), devices)
    assert len(found) == count
    narrowest = min(link.bandwidth_bytes_per_s for link in topology.links)
    index = {device.name: i for i, device in enumerate(topology.devices)}
    lanes = Counter(
        {
            (index[link.source], index[link.target]): int(link.bandwidth_bytes_per_s / narrowest)
            for link in topology.links
            if {link.source, link.target} <= index.keys()
        }
    )
    for cycle in found:
        assert sorted(cycle) == list(devices)
        for a, b in zip(cycle, cycle[1:] + cycle[:1], strict=True):
            lanes.subtract([(a, b), (b, a)])
    assert min(lanes.values(), default=0) >= 0


def test_six_rings_of_a_dgx_1_use_every_nvlink_alike():
    """Six NVLinks a GPU: 2·7/8 S in six rings, one for each lane and direction."""
    topology = parse_topology("dgx1_v100:costs=none")
    routes, size = Routes(topology), 6 * 8 * 2**20
    assert choose(routes, "all_reduce", tuple(range(8)), size) == "rings"
    traffic = collective(routes, "all_reduce", range(8), size, "rings")
    narrowest = min(topology.links[i].bandwidth_bytes_per_s for i in traffic.links)
    per_lane = {
        count / (topology.links[i].bandwidth_bytes_per_s / narrowest)
        for i, count in zip(traffic.links, traffic.bytes, strict=True)
    }
    assert per_lane == {size * 2 * 7 / 8 / 6}
    assert traffic.rounds == 14


def test_any_subset_in_any_order_gets_the_rings_of_its_devices():
    routes = Routes(parse_topology("dgx1_v100:costs=none"))
    orders = [(0, 1, 2, 3), (3, 1, 0, 2)]
    one, other = (collective(routes, "all_gather", ranks, 3 * 2**20, "rings") for ranks in orders)
    assert sum(one.bytes) == sum(other.bytes)
    # 0, 5 and 6 have no triangle of NVLinks.
    assert link_cycles(routes, (0, 5, 6)) == ()


def test_a_lane_far_wider_than_another_is_as_many_as_cycles_could_use():
    box = parse_topology("dgx1_v100:costs=none")
    for width in (math.inf, 1e15):
        links = [
            replace(one, bandwidth_bytes_per_s=width) if "d3" in (one.source, one.target) else one for one in box.links
        ]
        assert 1 <= len(link_cycles(Routes(replace(box, links=tuple(links))), range(8))) <= 3


def test_loopback_links_of_no_bound_are_all_one_lane():
    assert len(link_cycles(Routes(fully_connected(4, link=Wire(float("inf"), 0.0))), range(4))) == 1
