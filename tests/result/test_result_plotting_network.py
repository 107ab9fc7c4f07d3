"""Topologies drawn: every pair of nodes once, nodes apart, and too many refused."""

import pytest

from mpsim.errors import MpsimError
from mpsim.result.plotting import network
from mpsim.topology.presets import PRESETS
from mpsim.topology.spec import parse_topology


@pytest.mark.parametrize("text", [*PRESETS, "dgx_h100:2", "fat_tree:4,link=ib_ndr", "mesh:3x3,link=nvlink4"])
def test_each_pair_is_drawn_once_and_no_two_nodes_stand_in_one_place(text):
    topology = parse_topology(text)
    ax = network(topology).axes[0]
    assert len(ax.lines) == len({frozenset((link.source, link.target)) for link in topology.links})
    places = [tuple(place) for nodes in ax.collections for place in nodes.get_offsets().tolist()]
    assert len(places) == len(set(places)) == len(topology.devices) + len(topology.switches)


def test_a_thousand_nodes_are_refused():
    with pytest.raises(MpsimError, match="1,024 nodes, 600 at most are drawn"):
        network(parse_topology("ring:1024,link=nvlink4"))
    with pytest.raises(MpsimError, match="159,600 links, 20,000 at most are drawn"):
        network(parse_topology("fully_connected:400,link=nvlink4"))
