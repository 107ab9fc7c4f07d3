"""Topology files: what is written comes back, what is written by hand is understood, and what is wrong is named."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from mpsim.errors import MpsimError
from mpsim.topology.builders import BUILDERS, nodes
from mpsim.topology.file import load_topology, save_topology
from mpsim.topology.model import Device

GOLDEN = Path(__file__).parents[1] / "data" / "topology-1.json"


def test_version_1_stays_readable():
    topology = load_topology(GOLDEN)
    assert topology.devices == (
        Device(name="a", type="A100-SXM4-40GB", memory_bytes=40_000_000_000),
        Device(name="b", type="mine", memory_bytes=24 * 2**30, speed=0.5),
        Device(name="c", type="mine", memory_bytes=24 * 2**30, speed=2.0),
        Device(name="d", type="A100-SXM4-40GB", memory_bytes=30_000_000_000),
    )
    assert topology.switches == ("switch", "spine")
    assert [(x.source, x.target, x.bandwidth_bytes_per_s, x.latency_s, x.type) for x in topology.links] == [
        ("a", "switch", 50e9, 2e-6, "cable"),
        ("switch", "a", 50e9, 2e-6, "cable"),
        ("b", "switch", 1e9, 50e-6, ""),
        ("switch", "b", math.inf, 0.0, ""),
        ("switch", "spine", 22.5e9, 0.0, "ib_hdr"),  # Of 20 us for a message, none between switches,
        ("spine", "switch", 22.5e9, 0.0, "ib_hdr"),
        ("spine", "c", 22.5e9, 10e-6, "ib_hdr"),  # and half at a device.
        ("c", "spine", 22.5e9, 10e-6, "ib_hdr"),
        ("d", "switch", 22.5e9, 0.6e-6, "ib_hdr"),
        ("switch", "d", 22.5e9, 0.6e-6, "ib_hdr"),
        ("d", "c", 1.25e9, 32e-6, ""),
    ]


def test_saved_and_loaded_is_the_same(tmp_path):
    topology = nodes(2, per_node=2, nics=2, inside="nvlink4", between="ib_ndr", device="H100-SXM5-80GB")
    save_topology(tmp_path / "nodes.json", topology)
    assert load_topology(tmp_path / "nodes.json") == topology
    assert json.loads((tmp_path / "nodes.json").read_text())["schema"] == "mpsim.topology/5"
    assert "ring" in BUILDERS


WHOLE = {
    "schema": "mpsim.topology/1",
    "name": "two",
    "devices": [{"name": "a"}, {"name": "b"}],
    "links": [{"source": "a", "target": "b", "both_ways": True, "bandwidth": "50 GB/s", "latency": "2 us"}],
}


def _edited(tmp_path, change):
    body = json.loads(json.dumps(WHOLE))
    change(body)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(body))
    return path


def _link(**fields):
    def change(body):
        body["links"][0].update(fields)
        for name in [name for name, value in fields.items() if value is None]:
            del body["links"][0][name]

    return change


def _device(**fields):
    return lambda body: body["devices"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_link(bandwidth=50), "links[0].bandwidth 50 has no unit: write '50 GB/s'"),
        (_link(latency=2), "links[0].latency 2 has no unit: write '2 us'"),
        (_link(latency="2 parsecs"), "links[0].latency '2 parsecs' is not a time"),
        (_link(latency=None), "links[0]: no latency"),
        (_link(bandwidth=None), "links[0]: no bandwidth"),
        (_link(bandwidth_bytes_per_s=5e10), "'bandwidth' and 'bandwidth_bytes_per_s' are both given"),
        (_link(link="nvlink4"), "'link' and 'bandwidth' are both given"),
        (_link(bandwidth=None, latency=None, link="nvlnk4"), "links[0].link: unknown link 'nvlnk4'; did you mean"),
        (_link(bandwidth=None, latency=None, link=4), "links[0].link: text: expected text, found 4"),
        (_link(bandwidth=None, latency=None, link="ib_ndr@wire"), "no wire latency for ib_ndr"),
        (_link(bandwith="50 GB/s"), "links[0]: unknown field 'bandwith'; did you mean 'bandwidth"),
        (_link(both_ways="yes"), 'links[0].both_ways: expected true or false, found "yes"'),
        (_link(both_ways=False), "no way from device 'b' to 'a'"),
        (_link(target="c"), "no node 'c'"),
        (_link(target="a"), "links[0]: link 'a' -> 'a' joins a node to itself"),
        (_link(source=None), "links[0]: field 'source' is missing"),
        (_link(bandwidth=None, latency_s=-1.0, bandwidth_bytes_per_s=1.0, latency=None), "latency is -1.0 s"),
        (_device(memory=80), "devices[0].memory 80 has no unit"),
        (_device(memory="80 GB/s"), "devices[0].memory '80 GB/s' is not a number of bytes"),
        (_device(device="h100"), "devices[0].device: unknown device 'h100'; the catalog has H100-PCIe-80GB"),
        (_device(speed=0), "speed is 0.0, expected more than 0"),
        (_device(speed="fast"), 'devices[0].speed: expected a number, found "fast"'),
        (_device(name="b"), "two nodes named 'b'"),
        (lambda body: body.update(devices=[]), "has no devices"),
        (lambda body: body.update(devices=["a"]), "devices[0]"),
        (lambda body: body.update(schema="mpsim.topology/6"), "this mpsim reads up to mpsim.topology/5"),
        (lambda body: body.update(schema="mpsim.workload/1"), "is a workload"),
        (lambda body: body.update(lnks=[]), "unknown field 'lnks'; did you mean 'links'"),
    ],
)
def test_a_file_with_a_mistake_is_refused_in_one_line(tmp_path, change, message):
    path = _edited(tmp_path, change)
    with pytest.raises(MpsimError) as caught:
        load_topology(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_and_none_at_all(tmp_path):
    path = _edited(tmp_path, lambda body: None)
    path.write_text(path.read_text()[:50])
    with pytest.raises(MpsimError, match="not whole JSON"):
        load_topology(path)
    with pytest.raises(MpsimError, match=r"no file .*; did you mean 'edited.json'"):
        load_topology(tmp_path / "edted.json")


def test_version_2_stays_readable():
    topology = load_topology(GOLDEN.with_name("topology-2.json"))
    assert topology.devices[0] == Device(name="a", send_buffer_bytes=65536)
    assert topology.reducing == ()


def test_version_3_has_costs_and_switches_that_reduce():
    topology = load_topology(GOLDEN.with_name("topology-3.json"))
    assert topology.reducing == ("n0.switch", "n1.switch")
    (cost,) = topology.costs
    assert (cost.link, cost.kind, cost.algorithm, cost.source) == (
        "nvlink4",
        "all_reduce",
        "ring",
        "all_reduce_perf.log",
    )
    assert cost.regimes[0].launch_s == 2.0**-17
    first = topology.devices[0]
    assert (first.post_s, first.hop_s, first.overlap_slowdown) == (2.0**-12, 2.0**-13, 1.25)


def test_version_4_has_speeds_of_rooflines():
    found = load_topology(GOLDEN.with_name("topology-4.json")).devices
    assert [(one.speed, one.speed_of) for one in found[:2]] == [(0.875, "roofline"), (1.0, "")]


def test_switches_that_reduce_are_kept_and_must_exist(tmp_path):
    path = tmp_path / "reduces.json"
    save_topology(
        path, replace(nodes(2, per_node=2, nics=2, inside="nvlink4", between="ib_ndr"), reducing=("n0.switch",))
    )
    assert load_topology(path).reducing == ("n0.switch",)
    path.write_text(path.read_text().replace('["n0.switch"]', '["n0.swich"]'))
    with pytest.raises(MpsimError, match=r"reducing names 'n0.swich', no switch of the topology; did you mean"):
        load_topology(path)


def test_the_fifth_version_says_where_hosts_are():
    topology = load_topology(GOLDEN.with_name("topology-5.json"))
    assert [device.host for device in topology.devices] == ["d0.host", "d1.host"]
    assert topology.switches == ("switch", "d0.host", "d1.host")
    assert [device.host for device in load_topology(GOLDEN.with_name("topology-4.json")).devices] == [""] * 4
