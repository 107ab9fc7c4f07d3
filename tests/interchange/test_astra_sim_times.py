"""What ASTRA-sim itself made of traces that mpsim wrote, and of one that chakra's converter wrote.

Run by hand with astra-sim 518bd513, its feeder at astra-sim/chakra ``stage`` (17 April 2025) and the
congestion-unaware analytical backend 599a0473 on the network below: rings, one chunk, ``endpoint-delay`` 1 ns (at 0 it
stops at an assertion, on its own example too). That delay stands before and behind each message, and each message
takes whole nanoseconds: what is asked is 50 ns of several milliseconds.
"""

import json

import pytest
from test_chakra_import import DATA
from test_chakra_round_trip import without_hints

from mpsim.interchange import from_chakra, load_astra_network, load_chakra, replay_program, to_chakra
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.workload.model import Layer, Workload

NETWORK = "topology: [ Switch ]\nnpus_count: [ 4 ]\nbandwidth: [ 50.0 ]\nlatency: [ 500.0 ]\n"
MIB = 2**20
# When its slowest NPU had finished, in ns.
PEER = [
    (Plan(pp=4, microbatches=1), 6_248_186),
    (Plan(pp=4, microbatches=4, schedule="gpipe"), 10_748_186),
    (Plan(pp=4, microbatches=4), 10_830_310),
    (Plan(dp=4, bucket_bytes=4 * MIB), 6_623_202),
    (Plan(pp=2, dp=2, microbatches=2, bucket_bytes=8 * MIB), 9_371_222),
]


@pytest.fixture
def network(tmp_path):
    (tmp_path / "net.yml").write_text(NETWORK)
    return load_astra_network(tmp_path / "net.yml")[0]


def lowered(plan, network):
    layers = [
        Layer.given(name, forward_s=500e-6, backward_s=1000e-6, optimizer_s=125e-6, parameter_bytes=4 * MIB)
        for name in "abcd"
    ]
    return program_of(lower(Workload.chain("four", layers, activation_bytes=MIB), network, plan))


@pytest.mark.parametrize(("plan", "peer_ns"), PEER, ids=lambda value: getattr(value, "text", ""))
def test_our_trace_takes_there_what_it_takes_here_by_its_rules(network, plan, peer_ns):
    traces, _ = to_chakra(lowered(plan, network), network)
    groups = {name: ranks for trace in traces for name, ranks in json.loads(trace.attributes["mpsim_groups"]).items()}
    read, _ = from_chakra([without_hints(trace) for trace in traces], network, groups=groups)
    assert replay_program(read, network, name="").step_s * 1e9 == pytest.approx(peer_ns, abs=50)


@pytest.mark.parametrize(("plan", "peer_ns"), PEER[:-1], ids=lambda value: getattr(value, "text", ""))
def test_where_no_two_transfers_meet_its_rules_are_ours(network, plan, peer_ns):
    program = lowered(plan, network)
    assert replay_program(program, network, name="").step_s * 1e9 == pytest.approx(peer_ns, abs=50)


def test_a_step_of_chakras_converter(network):
    read, _ = load_chakra([DATA / "dp3"], network)
    assert replay_program(read, network, name="").step_s * 1e9 == pytest.approx(250_649, abs=50)
