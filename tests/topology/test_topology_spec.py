"""The command line's form: each builder by its words, and each mistake in one line with what to write instead."""

import pytest

from mpsim.errors import MpsimError
from mpsim.topology import builders
from mpsim.topology.file import save_topology
from mpsim.topology.model import Topology
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire

ABSURD = [
    "fully_connected:5000,link=nvlink4",
    "fully_connected:1415,link=nvlink4",
    "torus:1000x1000x1000,link=nvlink4",
    "mesh:999999999x999999999,link=nvlink4",
    "product:1000x1000,kinds=fully_connected+switch,links=nvlink4+nvlink4",
    "switch:1000001,link=nvlink4",
    f"switch:{'9' * 5000},link=nvlink4",
    "nodes:1000,per_node=2000,inside=nvlink4,between=ib_ndr",
    "nodes:2,per_node=2000,inside=nvlink4,between=ib_ndr,fabric=fully_connected",
    f"nodes:2,per_node={'9' * 5000},inside=nvlink4,between=ib_ndr",
    "leaf_spine:2000,per_leaf=1,spines=2000,link=ib_ndr",
    "fat_tree:1000,link=ib_ndr",
    "dragonfly:5000,routers=2,per_router=1,link=ib_ndr",
    "dragonfly:2,routers=5000,per_router=1,link=ib_ndr",
    "dgx_h100:200000",
    "tpu_v4:1000x1000x4",
    "switch:4,link=nvlink4,device=T4*999999999",
    f"switch:4,link=nvlink4,device=T4*{'9' * 5000}",
]


@pytest.mark.parametrize("text", ABSURD, ids=lambda text: text[:40])
def test_what_no_one_can_have_meant_is_refused_at_once(text):
    with pytest.raises(
        MpsimError, match=r"at most are built|9 digits or fewer|lists 999,999,999 devices|unknown device"
    ):
        parse_topology(text)


def test_thousands_of_devices_are_built():
    assert len(parse_topology("switch:32768,link=nvlink4").links) == 65_536


WIRE = Wire(50e9, 2e-6)


@pytest.mark.parametrize(
    ("text", "built"),
    [
        ("ring:4,bandwidth=50GB/s,latency=2us", builders.ring(4, link=WIRE)),
        ("ring:4,link=400Gbit/s@2us", builders.ring(4, link=WIRE)),
        ("ring:8, link=nvlink4, device=H100-SXM5-80GB", builders.ring(8, link="nvlink4", device="H100-SXM5-80GB")),
        ("chain:3,link=ib_hdr@wire", builders.chain(3, link="ib_hdr@wire")),
        ("torus:4x4,link=ici_v4", builders.torus(4, 4, link="ici_v4")),
        ("mesh:2x3x4,link=ici_v4", builders.mesh(2, 3, 4, link="ici_v4")),
        ("fully_connected:3,bandwidth=inf,latency=0", builders.fully_connected(3, link=Wire(float("inf")))),
        ("fat_tree:4,link=ib_ndr", builders.fat_tree(4, link="ib_ndr")),
        (
            "nodes:2,per_node=4,inside=nvlink4,between=50GB/s@2us,nics=2",
            builders.nodes(2, per_node=4, inside="nvlink4", between=WIRE, nics=2),
        ),
        (
            "nodes:2,per_node=2,inside=nvlink4,between=ib_ndr,fabric=ring,host=pcie5_x16",
            builders.nodes(2, per_node=2, inside="nvlink4", between="ib_ndr", fabric="ring", host="pcie5_x16"),
        ),
        (
            "product:2x4,kinds=switch+ring,links=ib_ndr+nvlink4",
            builders.product(2, 4, kinds=("switch", "ring"), links=("ib_ndr", "nvlink4")),
        ),
        (
            "leaf_spine:2,per_leaf=2,spines=2,link=ib_ndr,up=ib_xdr",
            builders.leaf_spine(2, per_leaf=2, spines=2, link="ib_ndr", up="ib_xdr"),
        ),
        (
            "dragonfly:3,routers=2,per_router=1,link=slingshot_200",
            builders.dragonfly(3, routers=2, per_router=1, link="slingshot_200"),
        ),
    ],
)
def test_each_builder_by_its_words(text, built):
    parsed = parse_topology(text)
    assert (parsed.devices, parsed.switches, parsed.links) == (built.devices, built.switches, built.links)
    assert parsed.name == text


def test_devices_alike_and_unlike():
    text = "switch:4,link=nvlink3,device=A100-SXM4-80GB*2+T4+L4,memory=30GiB*2+8GiB*2,speed=1*3+0.5,type=x"
    devices = parse_topology(text).devices
    assert [device.memory_bytes for device in devices] == [30 * 2**30] * 2 + [8 * 2**30] * 2
    assert [device.speed for device in devices] == [1.0, 1.0, 1.0, 0.5]
    assert {device.type for device in devices} == {"x"}
    unlike = parse_topology("ring:3,link=nvlink3,device=A100-SXM4-40GB*2+h100-sxm5-80gb").devices
    assert [device.type for device in unlike] == ["A100-SXM4-40GB", "A100-SXM4-40GB", "H100-SXM5-80GB"]


def test_a_file(tmp_path):
    save_topology(tmp_path / "mine.json", builders.ring(4, link=WIRE))
    assert parse_topology(str(tmp_path / "mine.json")) == builders.ring(4, link=WIRE)


def test_a_registered_builder_is_understood_by_its_signature(monkeypatch):
    def pair(gap: int, *, cable: Wire | str, times: int = 1) -> Topology:
        return builders.chain(2 + gap * times, link=cable)

    monkeypatch.setitem(builders.BUILDERS, "pair", pair)
    assert len(parse_topology("pair:3,cable=nvlink4,times=2").devices) == 8
    with pytest.raises(MpsimError, match="'pair:3' has no cable: add cable="):
        parse_topology("pair:3")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ring:8", "'ring:8' has no link: add link=nvlink4, or bandwidth=50GB/s,latency=2us"),
        ("ring", "'ring' has no size: write ring:4,link=nvlink4"),
        ("ring:", "'ring:' has no size: write ring:4,link=nvlink4"),
        ("rng:8,link=nvlink4", "unknown topology 'rng'; did you mean 'ring'?"),
        ("ring:8,lnk=nvlink4", "unknown argument 'lnk'; did you mean 'link'?"),
        ("ring:8,link=nvlnk4", "unknown link 'nvlnk4'; did you mean 'nvlink4'?"),
        ("ring:8,bandwidth=50", "bandwidth '50' has no unit: write '50 GB/s'"),
        ("ring:8,bandwidth=50,latency=2us", "bandwidth '50' has no unit: write '50 GB/s'"),
        ("ring:8,bandwidth=50GB/s", "has a bandwidth and no latency: add latency=2us, or latency=0 for none"),
        ("ring:8,latency=2us", "has a latency and no bandwidth: add bandwidth=50GB/s"),
        ("ring:8,bandwidth=50GB/s,latency=2", "latency '2' has no unit: write '2 us'"),
        ("ring:8,link=nvlink4,bandwidth=50GB/s", "has link=nvlink4 and bandwidth too"),
        ("ring:8,link=nvlink4,link=nvlink3", "link is given twice, 'nvlink4' and 'nvlink3'"),
        ("ring:8,link=nvlink4,memory=80", "memory '80' has no unit"),
        ("ring:8,link=nvlink4,speed=fast", "speed 'fast' is not a number"),
        ("ring:8,link=nvlink4,speed=0", "speed is 0.0, expected more than 0"),
        ("ring:8,link=nvlink4,device=T4*4+L4*3", "device lists 7 devices, the topology has 8"),
        ("ring:8,link=nvlink4,device=T44", "unknown device 'T44'"),
        ("ring:8,link", "'link' is not name=value"),
        ("ring:4x4,link=nvlink4", "has 2 sizes, ring takes 1: write ring:4,link=nvlink4"),
        ("mesh:4,link=nvlink4", "has 1 sizes, mesh takes 2 to 3: write mesh:4x4,link=nvlink4"),
        ("mesh:axb,link=nvlink4", "'axb' is not a size: write mesh:4x4,link=nvlink4"),
        ("ring:0,link=nvlink4", "size is 0, expected 1 or more"),
        ("nodes:2", "'nodes:2' has no per_node: add per_node=4"),
        ("nodes:2,per_node=x,inside=nvlink4,between=ib_ndr", "per_node 'x' is not a whole number"),
        ("nodes:2,per_node=4,inside=nvlink4", "has no between: add between=ib_ndr"),
        ("product:2x2", "'product:2x2' has no kinds: add kinds=switch+ring"),
        ("nowhere.json", "no file 'nowhere.json'; a topology is a file, or a builder such as ring:8,link=nvlink4"),
        ("no/where.json", "there is no folder 'no'; a topology is a file, or a builder such as ring:8"),
        ("", "no file and no topology ''"),
        ("x" * 5000, "no file and no topology"),
    ],
)
def test_each_mistake_in_one_line(text, message):
    with pytest.raises(MpsimError) as caught:
        parse_topology(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
