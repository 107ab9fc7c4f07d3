"""Drawings fit the page and say what there is; the object for programs has all of it, units in the keys."""

import json

import pytest

from mpsim.topology.builders import chain, mesh, nodes, ring, switch, torus
from mpsim.topology.edit import replace_link
from mpsim.topology.show import draw, topology_to_dict
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire

WIRE = Wire(50e9, 2e-6)


def test_a_mesh_is_drawn_as_it_lies():
    assert draw(mesh(2, 3, link=WIRE, device="T4")).splitlines() == [
        "mesh:2x3",
        "6 devices, 14 links",
        "",
        "  d0 ── d1 ── d2",
        "  │     │     │",
        "  d3 ── d4 ── d5",
        "",
        "devices",
        "  6 × T4 (d0 … d5), 14.6 GiB",
        "links, one direction",
        "  14 × d* ⇄ d*, 50 GB/s, 2 us",
    ]


def test_a_star_with_unlike_devices():
    text = draw(parse_topology("switch:3,link=50GB/s@2us,type=fast+slow*2,speed=2+1*2"))
    assert text.splitlines()[1:] == [
        "3 devices, 1 switch, 6 links",
        "",
        "  d0  d1  d2",
        "  │   │   │",
        "  ═ switch ═",
        "",
        "devices",
        "  1 × fast (d0), memory unknown, speed 2",
        "  2 × slow (d1, d2), memory unknown",
        "links, one direction",
        "  6 × d* ⇄ switch, 50 GB/s, 2 us",
    ]


def test_nodes_are_counted_by_what_joins_what():
    lines = draw(nodes(128, per_node=8, nics=8, inside=WIRE, between=Wire(25e9, 5e-6))).splitlines()
    assert lines[1] == "1024 devices, 1153 switches, 6144 links"
    assert lines[-3:] == [
        "  2048 × n*.d* ⇄ n*.switch, 50 GB/s, 2 us",
        "  2048 × n*.d* ⇄ n*.nic*, host 25 GB/s, 0 s",
        "  2048 × n*.nic* ⇄ network, 25 GB/s, 5 us",
    ]


def test_unlike_links_and_one_way_links_are_told_apart():
    slow = replace_link(ring(4, link=WIRE), "d0", "d1", Wire(float("inf"), 1e-3))
    assert draw(slow).splitlines()[-2:] == ["  2 × d* ⇄ d*, free, 1 ms", "  6 × d* ⇄ d*, 50 GB/s, 2 us"]
    uneven = replace_link(chain(2, link=WIRE), "d0", "d1", Wire(1e9, 2e-6), both_ways=False)
    assert draw(uneven).splitlines()[-2:] == ["  1 × d* → d*, 1 GB/s, 2 us", "  1 × d* → d*, 50 GB/s, 2 us"]


def test_many_kinds_of_device_and_link_are_cut_short():
    text = draw(ring(40, link=WIRE, devices=["T4", "L4"] * 20))
    assert "  20 × T4 (d0 … d38), 14.6 GiB" in text
    unlike = ring(40, link=WIRE)
    for i in range(39):
        unlike = replace_link(unlike, f"d{i}", f"d{i + 1}", Wire(1e9 + i * 1e7, 0.0))
    assert draw(unlike).splitlines()[-1] == "  and 24 more kinds of link"


@pytest.mark.parametrize("build", [chain, ring, switch])
@pytest.mark.parametrize("n", [1, 2, 8, 15, 16, 100, 1024])
def test_a_drawing_fits_the_page(build, n):
    lines = draw(build(n, link=WIRE, device="H100-SXM5-80GB")).splitlines()
    assert max(map(len, lines)) <= 98
    assert len(lines) <= 14
    assert lines == [line.rstrip() for line in lines]


def test_a_large_torus_fits_the_page():
    assert len(draw(torus(32, 32, link=WIRE)).splitlines()) == 7
    assert len(draw(torus(8, 8, link=WIRE)).splitlines()) == 24


def test_the_object_has_everything_and_is_json():
    topology = parse_topology("switch:2,link=inf@0,device=T4,speed=2")
    shown = json.loads(json.dumps(topology_to_dict(topology), allow_nan=False))
    assert {key: value for key, value in shown.items() if key.endswith(("_count", "_bytes"))} == {
        "device_count": 2,
        "switch_count": 1,
        "link_count": 4,
        "memory_bytes": 2 * topology.devices[0].memory_bytes,
    }
    memory = topology.devices[0].memory_bytes
    assert shown["devices"][1] == {
        "name": "d1",
        "type": "T4",
        "memory_bytes": memory,
        "speed": 2.0,
        "speed_of": "",
        "send_buffer_bytes": 0,
        "post_s": 0.0,
        "hop_s": 0.0,
        "overlap_slowdown": 1.0,
        "host": "",
    }
    assert shown["links"][0] == {
        "source": "d0",
        "target": "switch",
        "bandwidth_bytes_per_s": "inf",
        "latency_s": 0.0,
        "type": "",
    }
