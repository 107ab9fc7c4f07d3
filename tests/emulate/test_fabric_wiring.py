"""What the fabric would impose, without making it."""

import pytest

from mpsim import MpsimError, parse_topology
from mpsim.emulate.fabric.wiring import HEADER_BYTES, wire_up
from mpsim.topology.routes import Routes


def test_every_pair_has_the_simulators_path():
    topology = parse_topology("torus:2x3,bandwidth=1Gbit/s,latency=1ms")
    ranks = [5, 0, 3]
    wiring, routes = wire_up(topology, ranks), Routes(topology)
    for i, host in enumerate(wiring.hosts):
        for j, other in enumerate(wiring.hosts):
            if i != j:
                assert host.routes[other.address].links == routes.path(ranks[i], ranks[j])


@pytest.mark.parametrize(
    ("bandwidth", "mtu_bytes"), [("1Mbit/s", 1500), ("100Mbit/s", 6302), ("1Gbit/s", 62552), ("100GB/s", 65000)]
)
def test_a_packet_occupies_its_link_for_half_a_millisecond_at_most_where_that_can_be(bandwidth, mtu_bytes):
    wiring = wire_up(parse_topology(f"switch:2,bandwidth={bandwidth},latency=0"), [0, 1])
    assert wiring.hosts[0].routes[wiring.hosts[1].address].mtu_bytes == mtu_bytes


def test_the_window_fills_the_path():
    for bandwidth, latency_s in ((12.5e6, 0.0), (12.5e6, 0.01), (125e6, 0.01)):
        topology = parse_topology(f"switch:2,bandwidth={bandwidth:.0f}B/s,latency={latency_s / 2}s")
        host = wire_up(topology, [0, 1]).hosts[0]
        (route,) = host.routes.values()
        assert host.send_buffer_bytes * 2 / 3 >= bandwidth * 2 * latency_s
        assert route.window_packets * (route.mtu_bytes - HEADER_BYTES) >= host.send_buffer_bytes


def test_many_ranks_have_addresses_of_their_own():
    topology = parse_topology("switch:300,bandwidth=1Gbit/s,latency=0")
    assert len({host.address for host in wire_up(topology, range(300)).hosts}) == 300


def test_one_device_for_two_ranks_is_refused():
    with pytest.raises(MpsimError, match="device 1 is given to two ranks"):
        wire_up(parse_topology("switch:2,bandwidth=1Gbit/s,latency=0"), [1, 1])


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(MpsimError, match="no device 2"):
        wire_up(parse_topology("switch:2,bandwidth=1Gbit/s,latency=0"), [0, 2])
