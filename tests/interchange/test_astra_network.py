"""ASTRA-sim's network files as topologies."""

import pytest

from mpsim.collectives.traffic import collective
from mpsim.errors import MpsimError
from mpsim.interchange import load_astra_network
from mpsim.topology.routes import Routes

ONE = (
    "topology: [ {kind} ]  # Ring, Switch, FullyConnected\nnpus_count: [ 8 ]\nbandwidth: [ 50.0 ]\nlatency: [ 500.0 ]\n"
)
THREE = """
topology: [ Ring, FullyConnected, Switch ]
npus_count: [ 2, 8, 4 ]
bandwidth: [ 200.0, 100.0, 50.0 ]
latency: [ 50.0, 500.0, 2000.0 ]
"""


def load(tmp_path, text):
    (tmp_path / "net.yml").write_text(text)
    return load_astra_network(tmp_path / "net.yml")


@pytest.mark.parametrize(("kind", "links"), [("Ring", 16), ("FullyConnected", 56), ("Switch", 16)])
def test_one_dimension(tmp_path, kind, links):
    topology, losses = load(tmp_path, ONE.format(kind=kind))
    assert (topology.name, len(topology.devices), len(topology.links)) == ("net", 8, links)
    assert {(link.bandwidth_bytes_per_s, link.latency_s) for link in topology.links} == {(50.0 * 2**30, 5e-7)}
    assert losses.lines == ()


def test_the_first_dimension_is_the_innermost(tmp_path):
    topology, _ = load(tmp_path, THREE)
    ends = {(link.source, link.target): link for link in topology.links}
    assert len(topology.devices) == 64
    assert ends["d0", "d1"].bandwidth_bytes_per_s == 200.0 * 2**30
    assert ends["d0", "d14"].latency_s == 500e-9  # NPU 14 is number 7 of dimension 1
    assert len(topology.switches) == 16
    assert all(ends[name, target].latency_s == 2e-6 for name, target in ends if target in topology.switches)


def test_a_ring_takes_what_the_peer_says(tmp_path):
    """Its all-reduce of 1 MiB takes 43,025 ns, of which 15 endpoint delays of 10 ns and 7 reductions of 245.76 ns.

    `astra_sim_collectives.csv`, row 1; a reduction moves 3 times its 128 KiB at 1600 GB/s.
    """
    topology, _ = load(tmp_path, ONE.format(kind="Ring"))
    traffic = collective(Routes(topology), "all_reduce", range(8), 2**20)
    moved_s = traffic.latency_s + traffic.bytes[0] / topology.links[0].bandwidth_bytes_per_s
    assert moved_s * 1e9 + 15 * 10 + 7 * 3 * 2**17 / 1600 == pytest.approx(43025, rel=1e-3)


def test_a_key_that_nobody_reads_is_listed(tmp_path):
    _, losses = load(tmp_path, ONE.format(kind="Ring") + "colour: red\n")
    assert losses.lines == ("keys that the analytical backends do not read: 1, the first 'colour'",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("topology: [", "net.yml is not YAML"),
        ("[1, 2]", "is no network file of ASTRA-sim"),
        ("a: 1", "is no network file of ASTRA-sim"),
        (ONE.format(kind="Torus"), "unknown building block 'Torus'"),
        (ONE.format(kind="ring"), "did you mean 'Ring'"),
        (ONE.format(kind="Ring, Ring"), "npus_count has 1 entries, topology has 2"),
        (ONE.format(kind="Ring").replace("npus_count: [ 8 ]", ""), "npus_count is missing"),
        (ONE.format(kind="Ring").replace("[ 8 ]", "8"), r"npus_count is 8, expected a list"),
        (ONE.format(kind="Ring").replace("8", "1"), "npus_count holds 1, expected a number of 2 or more"),
        (ONE.format(kind="Ring").replace("8", "2.5"), "npus_count holds 2.5, expected a whole number"),
        (ONE.format(kind="Ring").replace("50.0 ", "-50.0 "), "bandwidth holds -50.0"),
        (ONE.format(kind="Ring").replace("50.0 ", "0 "), "bandwidth holds 0, expected a number above 0"),
        (ONE.format(kind="Ring").replace("[ 500.0 ]", "[ .nan ]"), "latency holds nan"),
        (ONE.format(kind="Ring").replace("[ 500.0 ]", "[ fast ]"), "latency holds 'fast'"),
        (ONE.format(kind="Ring").replace("500.0", "9" * 400), r"latency holds more than 10\^15"),
        (ONE.format(kind="Ring").replace("[ 500.0 ]", "[ .inf ]"), "latency holds inf"),
        (ONE.format(kind="Ring") + "npus_count: [ 4 ]\n", "gives npus_count 2 times: keep one"),
        (ONE.format(kind="FullyConnected").replace("[ 8 ]", "[ 5000 ]"), "5,000 devices and 24,995,000 links"),
        ("[" * 5000, "is not YAML"),
    ],
)
def test_a_network_that_cannot_be_is_one_line(tmp_path, text, message):
    with pytest.raises(MpsimError, match=message) as error:
        load(tmp_path, text)
    assert "net.yml" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(MpsimError, match="No such file"):
        load_astra_network(tmp_path / "none.yml")
