"""Bandwidths as people write them."""

import pytest

from mpsim.errors import MpsimError
from mpsim.topology.show import draw
from mpsim.topology.spec import parse_topology
from mpsim.units import bandwidth


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("25GbE", 25e9 / 8), ("25 GbE", 25e9 / 8), ("2.5GbE", 2.5e9 / 8), ("100gbe", 12.5e9), ("10Gbps", 1.25e9),
        ("10gbps", 1.25e9), ("10 Gb/s", 1.25e9), ("10Gbit/s", 1.25e9), ("10gbit/s", 1.25e9), ("200 Mbps", 25e6),
        ("200mbps", 25e6), ("50GB/s", 50e9), ("50 GBps", 50e9), ("46 GiB/s", 46 * 2.0**30), ("1kB/s", 1e3),
    ],
)  # fmt: skip
def test_bandwidths_in_bytes_in_bits_and_by_the_name_of_an_ethernet(text, bytes_per_s):
    assert bandwidth(text) == bytes_per_s


@pytest.mark.parametrize("text", ["25", "25G", "25GbE/s", "GbE", "25 Ethernet", "-1GbE", "0GbE", "25gb", "25 mb/s"])
def test_what_is_no_bandwidth_is_refused(text):
    with pytest.raises(MpsimError, match="50 GB/s"):
        bandwidth(text)


def test_a_link_may_be_an_ethernet_with_a_latency():
    (wire, _) = parse_topology("chain:2,link=25GbE@50us").links
    assert (wire.bandwidth_bytes_per_s, wire.latency_s) == (25e9 / 8, 50e-6)
    assert parse_topology("switch:2,bandwidth=10Gbps,latency=1ms").links[0].bandwidth_bytes_per_s == 1.25e9
    with pytest.raises(MpsimError, match=r"25GbE@2us.*; the catalog has eth_25g"):
        parse_topology("chain:2,link=25GbE")
    assert "3.12 GB/s" in draw(parse_topology("chain:2,link=25GbE@50us"))
