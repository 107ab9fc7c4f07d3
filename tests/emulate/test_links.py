"""From measured paths to a topology."""

import itertools
import math

import pytest

from mpsim import MpsimError, parse_topology
from mpsim.emulate.links import MeasuredPath, imposed_topology, pairs_to_measure, topology_from
from mpsim.topology.routes import Routes

SPECS = ["switch:4", "chain:4", "ring:5", "torus:2x3", "fully_connected:3"]


def measured(pair, latency_s, bandwidth_bytes_per_s):
    return MeasuredPath(
        source=pair[0],
        target=pair[1],
        latency_s=latency_s,
        latency_interval_s=(latency_s, latency_s),
        bandwidth_bytes_per_s=bandwidth_bytes_per_s,
        bandwidth_interval_bytes_per_s=(bandwidth_bytes_per_s, bandwidth_bytes_per_s),
    )


@pytest.mark.parametrize("spec", SPECS)
def test_the_pairs_cross_every_link_that_any_pair_crosses(spec):
    topology = parse_topology(spec + ",bandwidth=1Gbit/s,latency=1ms")
    routes, ranks = Routes(topology), range(len(topology.devices))
    both_ways = [way for a, b in pairs_to_measure(topology, ranks) for way in ((a, b), (b, a))]
    crossed = {link for way in both_ways for link in routes.path(*way)}
    assert crossed == {link for way in itertools.permutations(ranks, 2) for link in routes.path(*way)}


@pytest.mark.parametrize("spec", SPECS)
def test_measuring_what_is_stated_changes_nothing(spec):
    topology = parse_topology(spec + ",bandwidth=1Gbit/s,latency=1ms")
    routes, ranks = Routes(topology), range(len(topology.devices))
    paths = [
        measured(way, routes.latency_s(routes.path(*way)), 125e6)
        for a, b in pairs_to_measure(topology, ranks)
        for way in ((a, b), (b, a))
    ]
    for made, stated in zip(topology_from(paths, topology, ranks).links, topology.links, strict=True):
        assert made.latency_s == pytest.approx(stated.latency_s)
        assert made.bandwidth_bytes_per_s == pytest.approx(stated.bandwidth_bytes_per_s)


def test_measured_pairs_are_met_where_ranks_are_some_of_the_devices():
    topology = parse_topology("switch:4,bandwidth=1Gbit/s,latency=1ms")
    paths = [measured((0, 1), 0.003, 100e6), measured((1, 0), 0.005, 120e6)]
    made = topology_from(paths, topology, [3, 1])
    routes = Routes(made)
    assert routes.latency_s(routes.path(3, 1)) == pytest.approx(0.003)
    assert routes.bandwidth_bytes_per_s(routes.path(1, 3)) == pytest.approx(120e6)
    assert "2 paths" in made.provenance.source
    assert routes.latency_s(routes.path(0, 2)) == pytest.approx(0.002)  # Nobody measured it.


def test_loopback_has_a_link_for_each_pair_and_takes_what_was_measured():
    topology = imposed_topology("host", parse_topology("chain:3,bandwidth=1Gbit/s,latency=1ms"))
    assert all(math.isinf(link.bandwidth_bytes_per_s) for link in topology.links)
    paths = [measured(way, 50e-6, 3e9) for way in itertools.permutations(range(3), 2)]
    made = topology_from(paths, topology, range(3))
    assert {(link.latency_s, link.bandwidth_bytes_per_s) for link in made.links} == {(50e-6, 3e9)}


def test_nothing_measured_is_an_error():
    with pytest.raises(MpsimError, match="no path was measured"):
        topology_from([], parse_topology("switch:2,bandwidth=1Gbit/s,latency=0"), [0, 1])
