"""Topologies drawn: every pair of nodes once, nodes apart, and too many refused."""

from dataclasses import replace

import pytest

from mpsim.errors import MpsimError
from mpsim.result.plotting import network
from mpsim.topology.presets import PRESETS
from mpsim.topology.spec import parse_topology

WHOLE = [text for text in PRESETS if text != "gb200_nvl72"]  # its 72 devices are alike


@pytest.mark.parametrize("text", [*WHOLE, "dgx_h100:2", "fat_tree:4,link=ib_ndr", "mesh:3x3,link=nvlink4"])
def test_each_pair_is_drawn_once_and_no_two_nodes_stand_in_one_place(text):
    topology = parse_topology(text)
    ax = network(topology).axes[0]
    assert len(ax.lines) == len({frozenset((link.source, link.target)) for link in topology.links})
    places = [tuple(place) for nodes in ax.collections for place in nodes.get_offsets().tolist()]
    assert len(places) == len(set(places)) == len(topology.devices) + len(topology.switches)


def test_a_thousand_nodes_are_refused():
    with pytest.raises(MpsimError, match="1,024 nodes, 600 at most are drawn"):
        network(parse_topology("ring:1024,link=nvlink4"))
    with pytest.raises(MpsimError, match="22,350 links, 20,000 at most are drawn"):
        network(parse_topology("fully_connected:150,link=nvlink4"))


def names(ax):
    return {text.get_text() for text in ax.texts}


def test_of_sixteen_nodes_the_first_and_the_last_are_drawn():
    ax = network(parse_topology("dgx_h200:16")).axes[0]
    assert names(ax) == {
        "× 14", "network", *(f"n{n}.switch" for n in (0, 15)),
        *(f"n{n}.{one}{i}" for n in (0, 15) for one in ("d", "nic") for i in range(8)),
    }  # fmt: skip
    assert len(ax.lines) == 2 * 3 * 8
    assert "128 devices, 145 switches" in ax.get_title(loc="left")


@pytest.mark.parametrize(
    ("text", "folded", "devices"),
    [
        ("switch:64,link=nvlink4", ["× 62"], {"d0", "d63"}),
        ("gb200_nvl72:2", ["× 70"] * 2, {"n0.d0", "n0.d71", "n1.d0", "n1.d71"}),
        ("dgx_h200:128", ["× 126"], {f"n{n}.d{i}" for n in (0, 127) for i in range(8)}),
        ("fat_tree:8,link=ib_ndr", ["× 2", "× 6", "× 2"], None),
        ("dgx_h200:2", [], None),
        ("torus:4x4x4,link=nvlink4", [], set()),
    ],
)
def test_what_is_alike_is_drawn_at_its_ends(text, folded, devices):
    ax = network(parse_topology(text)).axes[0]
    shown = [one.get_text() for one in sorted(ax.texts, key=lambda one: one.get_position())]
    assert [one for one in shown if one.startswith("×")] == folded
    if devices is not None:
        assert {one for one in shown if one.rpartition(".")[2].startswith("d")} == devices


def test_a_node_that_differs_is_drawn_for_itself():
    topology = parse_topology("nodes:16,per_node=4,nics=4,inside=nvlink4,between=ib_ndr")
    slow = tuple(
        replace(link, bandwidth_bytes_per_s=1e9) if "n7.nic0" in (link.source, link.target) else link
        for link in topology.links
    )
    shown = names(network(replace(topology, links=slow)).axes[0])
    assert {"n0.d0", "n7.d0", "n15.d0", "× 13"} <= shown
    assert not {"n1.d0", "n6.d0", "n8.d0"} & shown


def test_meshes_stand_by_their_coordinates_and_ends_that_are_joined_go_around():
    ax = network(parse_topology("torus:3x4,link=nvlink4")).axes[0]
    places = {tuple(place) for nodes in ax.collections for place in nodes.get_offsets().tolist()}
    assert places == {(float(x), float(-y)) for x in range(4) for y in range(3)}
    assert sorted(len(line.get_xdata()) for line in ax.lines) == [2] * 17 + [17] * 7
    round_about = network(parse_topology("ring:6,link=nvlink4")).axes[0]
    assert {len(line.get_xdata()) for line in round_about.lines} == {2}
