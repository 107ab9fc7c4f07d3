"""Presets: what each is made of, that collectives run over it, and how it is written."""

import pytest

from mpsim.errors import MpsimError
from mpsim.program.choice import choose
from mpsim.program.collectives import collective
from mpsim.topology.catalog import device, wire
from mpsim.topology.levels import find_levels, level_sizes
from mpsim.topology.presets import PRESETS
from mpsim.topology.routes import Routes
from mpsim.topology.show import draw
from mpsim.topology.spec import parse_topology


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_each_preset_is_drawn_cites_its_source_and_carries_collectives(name):
    topology = parse_topology(name)
    assert topology.name == name
    assert topology.provenance.source == PRESETS[name].source != ""
    assert all(one.memory_bytes > 0 and device(one.type).name == one.type for one in topology.devices)
    assert f"{len(topology.devices)} devices" in draw(topology)
    routes, ranks = Routes(topology), tuple(range(len(topology.devices)))
    assert collective(routes, "all_reduce", ranks, 2**20, "auto").algorithm in ("ring", "rings", "nvls")


@pytest.mark.parametrize("name", ["dgx_a100", "dgx_h100", "dgx_b200", "aws_p5", "gcp_a3_high", "azure_nd_a100"])
def test_several_nodes_are_two_levels(name):
    topology = parse_topology(f"{name}:4")
    assert level_sizes(find_levels(topology, range(32))) == (8, 4)
    assert choose(Routes(topology), "all_reduce", tuple(range(32)), 2**33) in ("rings", "nvls_tree")


def test_a_hybrid_cube_mesh_has_six_links_a_gpu():
    topology = parse_topology("dgx1_v100")
    for one in topology.devices:
        out = sum(link.bandwidth_bytes_per_s for link in topology.links if link.source == one.name)
        assert out == pytest.approx(wire("nvlink2").bandwidth_bytes_per_s)


def test_four_cards_are_shared_by_eight_devices():
    topology = parse_topology("aws_p4d:2")
    assert sum(link.target == "network" for link in topology.links) == 8


def test_a_pcie_box_has_three_levels_of_links_with_types_of_their_own():
    topology = parse_topology("pcie_box")
    assert level_sizes(find_levels(topology, range(8))) == (2, 2, 2)
    assert {link.type for link in topology.links} == {"pcie4_x16", "pcie_host", "socket"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dgx_h100:x", "'x' is not a size: write dgx_h100:4"),
        ("dgx_h100:0", "has a size of 0, expected 1 or more"),
        ("tpu_v4:4x4", "'tpu_v4:4x4' has 2 sizes, it takes 3"),
        ("dgx_h10", "did you mean 'dgx_h100'"),
        ("dgx_h100:999999999", "is not a size"),
    ],
)
def test_a_preset_written_wrong_is_refused(text, message):
    with pytest.raises(MpsimError, match=message):
        parse_topology(text)
