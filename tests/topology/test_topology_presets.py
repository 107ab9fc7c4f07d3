"""Presets: what each is made of, that collectives run over it, and how it is written."""

import re
from dataclasses import replace

import pytest

from mpsim.collectives.choice import alone_s, choose
from mpsim.collectives.traffic import collective
from mpsim.errors import MpsimError
from mpsim.topology.catalog import device, link, wire
from mpsim.topology.levels import find_levels, level_sizes
from mpsim.topology.presets import PRESETS
from mpsim.topology.published import published_bandwidths
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


def test_each_source_is_a_page_or_a_file_to_open_or_says_that_there_is_none():
    for name, preset in PRESETS.items():
        found = re.search(r"https://\S+|repository [\w-]+/[\w.-]+(, | at \w+, )\S+", preset.source)
        assert found or preset.source.startswith("no machine's: "), name


NODES = [name for name, preset in PRESETS.items() if preset.sizes == (1,) and name != "gb200_nvl72"]


@pytest.mark.parametrize("name", NODES)
def test_several_nodes_are_two_levels(name):
    topology = parse_topology(f"{name}:4")
    assert level_sizes(find_levels(Routes(topology), range(32))) == (8, 4)
    # Where NVLinks are a mesh, rings of several nodes go by ranks and not along them, and hold the cards up.
    large = ("trees",) if name == "dgx1_v100" else ("rings", "nvls_tree")
    blank = parse_topology(f"{name}:4,costs=none") if name == "dgx1_v100" else topology
    assert choose(Routes(blank), "all_reduce", tuple(range(32)), 2**33) in large


def test_a_chain_inside_a_node_costs_a_tree_what_messages_of_a_ring_do():
    """Two nodes of eight: 14 messages inside and 2 between by trees, 28 inside and 2 between by rings."""
    routes, ranks = Routes(parse_topology("dgx_a100:2")), tuple(range(16))
    assert choose(routes, "all_reduce", ranks, 4096) == "trees"
    trees_s, rings_s = (alone_s(routes, "all_reduce", name, ranks, 4096) for name in ("trees", "rings"))
    assert (
        trees_s < rings_s < alone_s(Routes(parse_topology("dgx_a100:2,costs=none")), "all_reduce", "rings", ranks, 4096)
    )


@pytest.mark.parametrize("name", ["azure_nd_a100:32", "aws_p4d:32"])
def test_costs_of_inner_links_do_not_choose_between_nodes(name):
    """The nodes' NVLink was measured as rings, their network was not: small sizes take trees, as without costs."""
    for text in (name, f"{name},costs=none"):
        routes = Routes(parse_topology(text))
        assert choose(routes, "all_reduce", tuple(range(256)), 1024) == "trees"


# The NVLinks that nvidia-smi topo -m prints of a DGX-1 (pytorch/pytorch, benchmarks/distributed/ddp/README.md).
DGX1 = """
 X  NV1 NV1 NV2 NV2 SYS SYS SYS
NV1  X  NV2 NV1 SYS NV2 SYS SYS
NV1 NV2  X  NV2 SYS SYS NV1 SYS
NV2 NV1 NV2  X  SYS SYS SYS NV1
NV2 SYS SYS SYS  X  NV1 NV1 NV2
SYS NV2 SYS SYS NV1  X  NV2 NV1
SYS SYS NV1 SYS NV1 NV2  X  NV2
SYS SYS SYS NV1 NV2 NV1 NV2  X
"""


@pytest.mark.parametrize(("name", "prefix"), [("dgx1_v100", "d"), ("dgx1_v100:2", "n1.d"), ("aws_p3dn:3", "n2.d")])
def test_a_hybrid_cube_mesh_is_wired_as_the_machine_says(name, prefix):
    links = {(link.source, link.target): link.bandwidth_bytes_per_s for link in parse_topology(name).links}
    for i, row in enumerate(DGX1.split("\n")[1:-1]):
        for j, cell in enumerate(row.split()):
            count = int(cell.removeprefix("NV")) if cell.startswith("NV") else 0
            found = links.get((f"{prefix}{i}", f"{prefix}{j}"), 0.0)
            assert found == pytest.approx(wire("nvlink2").bandwidth_bytes_per_s * count / 6)


@pytest.mark.parametrize(
    ("name", "cards", "card_bytes_per_s", "kind"),
    [
        ("dgx1_v100", 4, 12.5e9, "ib_edr"),
        ("aws_p3dn", 1, 12.5e9, "efa_v1_p4d"),
        ("aws_p4d", 4, 12.5e9, "efa_v1_p4d"),
        ("aws_p5", 8, 50e9, "efa_v2_p5"),
        ("gcp_a3_high", 4, 25e9, "gcp_tcpx_a3_high"),
        ("gcp_a3_mega", 8, 25e9, "gcp_tcpx_a3_high"),
        ("azure_nd_h100", 8, 50e9, "ib_ndr"),
    ],
)
def test_a_node_has_as_many_cards_as_the_machine_of_their_bandwidth(name, cards, card_bytes_per_s, kind):
    found = [one for one in parse_topology(f"{name}:2,costs=none").links if one.target == "network"]
    assert len(found) == 2 * cards
    assert {one.type for one in found} == {kind}
    for one in found:
        assert one.bandwidth_bytes_per_s == pytest.approx(card_bytes_per_s * link(kind).reachable_fraction)


def test_a_message_between_nodes_takes_the_catalogs_latency_once_over_a_shared_card():
    routes = Routes(parse_topology("aws_p4d:2,costs=none"))
    assert routes.latency_s(routes.path(0, 8)) == pytest.approx(link("efa_v1_p4d").effective_latency_s)


@pytest.mark.parametrize(("text", "links"), [("tpu_v4:4x4x8", 6 * 128), ("tpu_v4:2x2x4", 56), ("tpu_v5p:4x4x4", 384)])
def test_tpus_are_wrapped_on_whole_cubes_only(text, links):
    assert len(parse_topology(text).links) == links


def test_a_pcie_box_has_three_levels_of_links_with_types_of_their_own():
    topology = parse_topology("pcie_box")
    assert level_sizes(find_levels(Routes(topology), range(8))) == (2, 2, 2)
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


# What others published.


def test_presets_have_published_costs_unless_told():
    node, bare = parse_topology("dgx_h100"), parse_topology("dgx_h100:costs=none")
    assert {cost.link for cost in node.costs} == {"nvlink4"}
    assert all(cost.source.startswith("nccl-tests, h100_sxm") for cost in node.costs)
    assert bare.costs == ()
    assert {one.bandwidth_bytes_per_s for one in bare.links} == {wire("nvlink4").bandwidth_bytes_per_s}
    assert {one.bandwidth_bytes_per_s for one in node.links} == {published_bandwidths()["nvlink4"]}
    assert [cost.link for cost in parse_topology("aws_p5:2").costs][-1] == "efa_v2_p5"  # Inner levels first.


def test_a_builder_gets_them_when_it_asks():
    made = parse_topology("switch:8,link=nvlink3,costs=published")
    assert {cost.link for cost in made.costs} == {"nvlink3"}
    assert parse_topology("switch:8,link=nvlink3").costs == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("switch:4,link=eth_10g,costs=published", "no costs were published for links of"),
        ("tpu_v4:4x4x4,costs=published", "no costs were published for links of"),
        ("dgx_h100:costs=mine", "unknown costs 'mine'"),
        ("dgx_h100:4,", "'' is not costs=none or costs=published"),
        ("dgx_h100:4,size=3", "'size=3' is not costs=none"),
        ("dgx_h100,costs=none", "write dgx_h100:costs=none, a colon after the name"),
    ],
)
def test_costs_that_cannot_be_had_are_one_line(text, message):
    with pytest.raises(MpsimError, match=message) as error:
        parse_topology(text)
    assert "\n" not in str(error.value)


def test_a_slower_link_slows_itself_and_no_other():
    node = parse_topology("dgx_a100")
    links = [
        replace(one, bandwidth_bytes_per_s=one.bandwidth_bytes_per_s / 10) if "d7" in (one.source, one.target) else one
        for one in node.links
    ]
    whole, broken = Routes(node), Routes(replace(node, links=tuple(links)))
    for size in (2**14, 2**23, 2**29):
        healthy, hurt = (alone_s(routes, "all_reduce", "ring", (0, 1, 2, 3), size) for routes in (whole, broken))
        assert healthy == hurt
    healthy, hurt = (alone_s(routes, "all_reduce", "ring", tuple(range(8)), 2**29) for routes in (whole, broken))
    assert 9 < hurt / healthy <= 10
