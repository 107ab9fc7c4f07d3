"""The traffic of collectives: hand-worked cases, conservation, and one event against the messages it stands for."""

import math
from itertools import chain as flatten

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.collectives.algorithms import ALGORITHMS, tree_parents
from mpsim.collectives.bounds import lower_bound_s
from mpsim.collectives.mapping import rounds_of
from mpsim.collectives.rounds import must_hear
from mpsim.collectives.traffic import Endpoint, collective, messages, point_to_point
from mpsim.errors import MpsimError
from mpsim.topology.builders import chain, fully_connected, nodes, product, ring, switch
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire

WIRE = Wire(2.0**30, 2.0**-20)
STREAMED = {
    (kind, name)
    for kind, name in ALGORITHMS
    if name == "double_binary_tree" or (name == "ring" and kind in ("broadcast", "reduce", "gather", "scatter"))
}


def idle_s(topology: Topology, traffic) -> float:
    """Return how long the traffic takes on an idle network."""
    links = topology.links
    paces = [
        count / links[link].bandwidth_bytes_per_s for link, count in zip(traffic.links, traffic.bytes, strict=True)
    ]
    return traffic.latency_s + max(paces)


def sizes(kind: str, algorithm: str) -> list[int]:
    return [2, 3, 4, 5, 6, 7, 8, 13, 16]


EACH = [(kind, algorithm, n) for kind, algorithm in ALGORITHMS for n in sizes(kind, algorithm)]


# Hand-worked, exact.


@pytest.mark.parametrize("n", [2, 4, 8, 16, 64])
@pytest.mark.parametrize("size", [64, 2**20, 2**30])
def test_ring_all_reduce_is_exact(n, size):
    topology = ring(n, link=WIRE)
    traffic = collective(Routes(topology), "all_reduce", range(n), size)
    assert traffic.bytes == (2 * (n - 1) * size / n,) * n
    assert traffic.latency_s == 2 * (n - 1) * WIRE.latency_s
    assert traffic.rounds == 2 * (n - 1)
    assert traffic.payload_bytes == size
    expected_s = 2 * (n - 1) * WIRE.latency_s + 2 * (n - 1) * size / n / WIRE.bandwidth_bytes_per_s
    assert idle_s(topology, traffic) == expected_s


@pytest.mark.parametrize("n", [3, 5, 6, 7, 12])
def test_ring_bytes_are_one_expression_where_n_does_not_divide(n):
    traffic = collective(Routes(ring(n, link=WIRE)), "all_reduce", range(n), 1000)
    assert traffic.bytes == (1000 * 2 * (n - 1) / n,) * n


def test_ring_all_reduce_through_a_switch_uses_both_links_of_each_device():
    traffic = collective(Routes(switch(4, link=WIRE)), "all_reduce", range(4), 2**20)
    assert traffic.bytes == (1.5 * 2**20,) * 8
    assert traffic.latency_s == 6 * 2 * WIRE.latency_s


def test_all_gather_reduce_scatter_and_ring_all_to_all():
    routes = Routes(ring(4, link=WIRE))
    for kind in ("all_gather", "reduce_scatter"):
        traffic = collective(routes, kind, range(4), 4096)
        assert (traffic.bytes, traffic.latency_s) == ((3 * 1024.0,) * 4, 3 * WIRE.latency_s)
    traffic = collective(routes, "all_to_all", range(4), 4096)
    assert (traffic.bytes, traffic.latency_s) == ((6 * 1024.0,) * 4, 6 * WIRE.latency_s)


def test_point_to_point_cuts_through():
    topology = chain(4, link=WIRE)
    traffic = point_to_point(Routes(topology), 0, 3, 2**20, Endpoint(delay_s=2.0**-10))
    assert traffic.latency_s == 3 * WIRE.latency_s + 2.0**-10
    assert traffic.bytes == (2.0**20,) * 3
    assert idle_s(topology, traffic) == 3 * WIRE.latency_s + 2.0**-10 + 2.0**-10


def test_endpoint_costs_each_round_and_each_reduced_byte():
    routes = Routes(ring(4, link=WIRE))
    endpoint = Endpoint(delay_s=2.0**-12, reduce_bytes_per_s=2.0**20)
    plain = collective(routes, "all_reduce", range(4), 2**20)
    costed = collective(routes, "all_reduce", range(4), 2**20, endpoint=endpoint)
    assert costed.latency_s == plain.latency_s + 6 * 2.0**-12 + 0.75
    assert costed.bytes == plain.bytes
    gather = collective(routes, "all_gather", range(4), 2**20, endpoint=endpoint)
    assert gather.latency_s == 3 * WIRE.latency_s + 3 * 2.0**-12


def test_a_direct_all_gather_between_each_pair_is_one_round():
    topology = fully_connected(4, link=WIRE)
    traffic = collective(Routes(topology), "all_gather", range(4), 4096, algorithm="direct")
    assert idle_s(topology, traffic) == WIRE.latency_s + 1024 / WIRE.bandwidth_bytes_per_s


def test_rounds_over_links_of_their_own_leave_a_stall():
    """Each pair has its own link: round 1 moves S/2, round 2 S/4, over different links, one after the other."""
    free = Wire(2.0**30)
    topology = fully_connected(4, link=free)
    traffic = collective(Routes(topology), "reduce_scatter", range(4), 2**20, algorithm="halving_doubling")
    assert sorted(traffic.bytes) == [2.0**18] * 4 + [2.0**19] * 4
    assert traffic.latency_s == 2.0**18 / 2.0**30
    assert idle_s(topology, traffic) == 0.75 * 2.0**20 / 2.0**30


def test_free_links_have_no_stall():
    topology = fully_connected(4, link=Wire(math.inf))
    for kind, algorithm in ALGORITHMS:
        assert collective(Routes(topology), kind, range(4), 2**20, algorithm).latency_s == 0.0


def test_a_ring_over_two_nodes_meets_the_slow_link_twice_and_not_in_every_round():
    """Eight links in a row, two of them slow: 14 in a row cross a slow one at most 4 times."""
    topology = nodes(2, per_node=4, nics=4, inside=Wire(2.0**30, 1.0), between=Wire(2.0**30, 8.0))
    routes = Routes(topology)
    hops = [routes.latency_s(routes.path(i, (i + 1) % 8)) for i in range(8)]
    slow, fast = max(hops), min(hops)
    assert slow > fast
    assert sorted(hops) == [fast] * 6 + [slow] * 2
    assert collective(routes, "all_reduce", range(8), 64).latency_s == 4 * slow + 10 * fast


def test_a_streamed_broadcast_costs_its_path_once():
    topology = chain(5, link=WIRE)
    traffic = collective(Routes(topology), "broadcast", range(5), 2**20)
    assert idle_s(topology, traffic) == 4 * WIRE.latency_s + 2.0**-10


def test_double_tree_moves_the_tensor_twice_through_each_port_of_a_switch():
    topology = switch(8, link=Wire(2.0**30))
    traffic = collective(Routes(topology), "all_reduce", range(8), 2**20, algorithm="double_binary_tree")
    assert max(traffic.bytes) == 2 * 2.0**20
    assert traffic.rounds == 6


@pytest.mark.parametrize("n", range(1, 70))
def test_trees_are_binary_and_the_inner_ranks_of_one_are_leaves_of_the_other(n):
    parents = tree_parents(n)
    assert parents.count(-1) == 1
    inner = {parent for parent in parents if parent >= 0}
    assert all(parents.count(node) <= 2 for node in inner)
    assert not inner & {(node + 1) % n for node in inner}
    for node in range(n):
        seen = []
        while node >= 0:
            assert node not in seen
            seen.append(node)
            node = parents[node]
        assert len(seen) <= n.bit_length()


def test_a_ring_is_not_expanded():
    calls = []

    class Counted(Routes):
        def path(self, a, b):
            calls.append((a, b))
            return super().path(a, b)

    routes = Counted(ring(1024, link=WIRE))
    first = collective(routes, "all_reduce", range(1024), 2**30)
    assert len(calls) == 1024
    second = collective(routes, "all_reduce", range(1024), 2**20)
    assert len(calls) == 1024
    assert first.bytes == tuple(1024 * count for count in second.bytes)


# What an algorithm must have done, whatever it is.


@pytest.mark.parametrize(("kind", "algorithm", "n"), EACH)
def test_everyone_hears_of_whom_it_must(kind, algorithm, n):
    known = [{rank} for rank in range(n)]
    for one in rounds_of(kind, algorithm, n).rounds:
        length = len(one.messages) // one.streams
        for _ in range(one.repeat):
            before = [set(of) for of in known]
            for first in range(0, len(one.messages), length):
                has = [set(of) for of in before]
                for source, target in one.messages[first : first + length]:
                    has[target] |= has[source] if one.hops > 1 else before[source]
                known = [old | new for old, new in zip(known, has, strict=True)]
    assert all(must_hear(kind, rank, n) <= of for rank, of in enumerate(known))


@pytest.mark.parametrize(("kind", "algorithm", "n"), EACH)
def test_bytes_sent_are_the_formula(kind, algorithm, n):
    size = 2**10 * n
    per_tensor = {"all_reduce": 2, "gather": 1 / n, "scatter": 1 / n, "send_receive": n / (n - 1)}.get(kind, 1)
    expected = per_tensor * (n - 1) * size
    if kind == "barrier":
        pytest.skip("a barrier moves nothing that counts")
    if kind == "all_to_all":
        # Over log2(n) rounds, what goes k ranks further takes a skip for each bit of k.
        passed_on = {"ring": n / 2, "direct": 1, "halving_doubling": sum(k.bit_count() for k in range(n)) / (n - 1)}
        expected *= passed_on[algorithm]
    if algorithm == "halving_doubling" and kind in ("broadcast", "reduce", "gather", "scatter"):
        # Down or up a tree of halves, each message holds what is below it.
        halves = sum(count for one in rounds_of("scatter", algorithm, n).rounds for count in one.counts)
        expected = halves / n * size + ((n - 1) * size if kind in ("broadcast", "reduce") else 0)
    if algorithm == "ring" and kind in ("gather", "scatter"):
        expected = (n - 1) / 2 * size
    sent = flatten.from_iterable(messages(kind, range(n), size, algorithm))
    assert math.fsum(count for _, _, count in sent) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("kind", "algorithm", "n"), EACH)
def test_link_bytes_are_those_of_the_messages_on_their_paths(kind, algorithm, n):
    routes = Routes(ring(n, link=WIRE))
    ranks = list(range(n))[::-1]
    expected: dict[int, float] = {}
    for source, target, count in flatten.from_iterable(messages(kind, ranks, 2**20, algorithm)):
        for link in routes.path(source, target):
            expected[link] = expected.get(link, 0.0) + count
    traffic = collective(routes, kind, ranks, 2**20, algorithm)
    assert dict(zip(traffic.links, traffic.bytes, strict=True)) == pytest.approx(expected, rel=1e-12)


# The one-event form against the messages of each round sharing links max-min fairly.


def fluid_s(topology: Topology, flows: list[tuple[tuple[int, ...], float]]) -> float:
    """Return when the last of these (path, bytes) is through, links shared max-min fairly."""
    now, left = 0.0, dict(enumerate(count for _, count in flows))
    while left:
        rates = fair_rates(topology, {flow: flows[flow][0] for flow in left})
        step = min(left[flow] / rates[flow] for flow in left)
        now += step
        left = {flow: count - rates[flow] * step for flow, count in left.items()}
        left = {flow: count for flow, count in left.items() if count > 1e-9 * flows[flow][1]}
    return now


def fair_rates(topology: Topology, paths: dict[int, tuple[int, ...]]) -> dict[int, float]:
    free = {link: topology.links[link].bandwidth_bytes_per_s for path in paths.values() for link in path}
    rates: dict[int, float] = {}
    while len(rates) < len(paths):
        users = {link: [f for f, path in paths.items() if link in path and f not in rates] for link in free}
        link = min((one for one in users if users[one]), key=lambda one: free[one] / len(users[one]))
        share = free[link] / len(users[link])
        for flow in users[link]:
            rates[flow] = share
            for used in paths[flow]:
                free[used] -= share
    return rates


def rounds_s(topology: Topology, kind: str, ranks, size: int, algorithm: str) -> float:
    routes = Routes(topology)
    return sum(
        fluid_s(topology, [(routes.path(source, target), count) for source, target, count in one])
        for one in messages(kind, ranks, size, algorithm)
    )


FREE = Wire(2.0**30)
SYMMETRIC = {
    "ring": lambda n: ring(n, link=FREE),
    "switch": lambda n: switch(n, link=FREE),
    "fully_connected": lambda n: fully_connected(n, link=FREE),
    "torus": lambda n: product(2, n // 2, kinds=("ring", "ring"), links=(FREE, FREE)),
}


@pytest.mark.parametrize(("kind", "algorithm"), sorted(set(ALGORITHMS) - STREAMED))
@pytest.mark.parametrize("shape", SYMMETRIC)
def test_one_event_takes_as_long_as_the_rounds(kind, algorithm, shape):
    topology = SYMMETRIC[shape](8)
    traffic = collective(Routes(topology), kind, range(8), 2**20, algorithm)
    expected_s = rounds_s(topology, kind, range(8), 2**20, algorithm)
    assert idle_s(topology, traffic) == pytest.approx(expected_s, rel=1e-9)


def chain_s(routes: Routes, kind: str, ranks, algorithm: str) -> float:
    """Return the latency of the longest chain of messages, found by playing every round."""
    at = dict.fromkeys(ranks, 0.0)
    for one in messages(kind, ranks, 1, algorithm):
        after = dict(at)
        for source, target, _ in one:
            after[target] = max(after[target], at[source] + routes.latency_s(routes.path(source, target)))
        at = after
    return max(at.values())


@given(
    which=st.sampled_from(sorted(set(ALGORITHMS) - STREAMED)),
    latencies=st.lists(st.integers(0, 20), min_size=8, max_size=8),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_latency_is_that_of_the_longest_chain(which, latencies, data):
    kind, algorithm = which
    n = data.draw(st.integers(2, 8))
    topology = product(8, kinds=("ring",), links=(Wire(math.inf),))
    links = tuple(
        type(link)(
            source=link.source, target=link.target, bandwidth_bytes_per_s=math.inf, latency_s=float(latencies[i % 8])
        )
        for i, link in enumerate(topology.links)
    )
    routes = Routes(Topology(name="unlike", devices=topology.devices, links=links))
    ranks = data.draw(st.permutations(range(8)))[:n]
    traffic = collective(routes, kind, ranks, 1, algorithm)
    assert traffic.latency_s == chain_s(routes, kind, ranks, algorithm)


@given(
    which=st.sampled_from(sorted(ALGORITHMS)),
    shape=st.sampled_from(["ring", "chain", "switch", "fully_connected", "nodes", "torus"]),
    speeds=st.tuples(st.integers(1, 64), st.integers(1, 64)),
    size=st.integers(1, 2**40),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_no_collective_beats_the_bandwidth_bound(which, shape, speeds, size, data):
    kind, algorithm = which
    inside, outside = (Wire(speed * 1e9) for speed in speeds)
    topology = {
        "ring": lambda: ring(8, link=inside),
        "chain": lambda: chain(8, link=inside),
        "switch": lambda: switch(8, link=inside),
        "fully_connected": lambda: fully_connected(8, link=inside),
        "nodes": lambda: nodes(2, per_node=4, nics=4, inside=inside, between=outside),
        "torus": lambda: product(2, 4, kinds=("ring", "switch"), links=(outside, inside)),
    }[shape]()
    n = data.draw(st.integers(2, 8))
    ranks = data.draw(st.permutations(range(8)))[:n]
    routes = Routes(topology)
    bound_s = lower_bound_s(routes, kind, ranks, size)
    assert bound_s > 0 or kind == "barrier"
    assert idle_s(topology, collective(routes, kind, ranks, size, algorithm)) >= bound_s * (1 - 1e-9)


def test_the_ring_reaches_the_bound_on_a_switch():
    topology = switch(8, link=FREE)
    routes = Routes(topology)
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        assert idle_s(topology, collective(routes, kind, range(8), 2**20)) == lower_bound_s(
            routes, kind, range(8), 2**20
        )


# Bad input: one line each.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ranks": [0]}, "all_reduce over 1 rank: it takes at least 2, leave it out"),
        ({"ranks": [0, 1, 1]}, "all_reduce names device 1 twice: give each rank its own device"),
        ({"ranks": [0, 4]}, "all_reduce names device 4, topology 'ring:4' has 4: 0 to 3"),
        ({"ranks": [-1, 0]}, "all_reduce names device -1, topology 'ring:4' has 4: 0 to 3"),
        ({"bytes": 0}, "all_reduce of 0 bytes: expected more than 0, leave it out"),
        ({"bytes": -8}, "all_reduce of -8 bytes: expected more than 0, leave it out"),
        ({"kind": "allreduce"}, "unknown collective 'allreduce'; did you mean 'all_reduce'?"),
        ({"algorithm": "tres"}, "unknown all_reduce algorithm 'tres'; did you mean 'trees'?"),
        (
            {"kind": "all_to_all", "algorithm": "double_binary_tree"},
            "unknown all_to_all algorithm 'double_binary_tree'; known: auto, direct, halving_doubling, hierarchical,"
            " ring",
        ),
    ],
)
def test_bad_collectives_are_refused(change, message):
    arguments = {"kind": "all_reduce", "ranks": range(4), "bytes": 64, "algorithm": "ring"} | change
    with pytest.raises(MpsimError) as error:
        collective(Routes(ring(4, link=WIRE)), **arguments)
    assert str(error.value) == message


def test_bad_messages_and_endpoints_are_refused():
    routes = Routes(ring(4, link=WIRE))
    with pytest.raises(MpsimError, match="message names device 2 twice"):
        point_to_point(routes, 2, 2, 64)
    with pytest.raises(MpsimError, match="message of 0 bytes"):
        point_to_point(routes, 0, 1, 0)
    with pytest.raises(MpsimError, match="endpoint delay is nan s"):
        Endpoint(delay_s=math.nan)
    with pytest.raises(MpsimError, match=r"endpoint reduces 0\.0 bytes/s"):
        Endpoint(reduce_bytes_per_s=0.0)
