"""gloo's ring: its recurrence against its loop replayed message by message, and by hand."""

from dataclasses import replace

import pytest

from mpsim.collectives.gloo import MAX_SEGMENT_BYTES, gloo_collective, phases_of, segments
from mpsim.engine.replay import replay
from mpsim.lowering.bind import collective_scripts
from mpsim.lowering.emit import emit
from mpsim.lowering.instructions import Collective, Compute, Listed, Receive, Script, Send, Wait
from mpsim.program.account import account_traffic
from mpsim.topology.builders import fully_connected, ring
from mpsim.topology.model import Device
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire

INF = float("inf")


def replayed_s(topology, n, count, kind="all_reduce"):
    """Return the time of the loops in gloo/allreduce.cc and allgather.cc, message by message, with their notices.

    Of an all-gather ranks stand the other way round: each sends to the one before it.
    """
    steps = [[] for _ in range(n)]
    for phase, lengths in enumerate(phases_of(kind, count, n)):
        for r in range(n):
            key = [(phase * len(lengths) + i) * n for i in range(len(lengths))]
            for i in range(len(lengths) + 2):
                if i >= 2:
                    steps[r].append(Wait((key[i - 2] + (r + 1) % n, key[i - 2] + r)))
                if i < len(lengths):
                    after, before = (r + 1) % n, (r - 1) % n
                    steps[r].append(Receive(key[i] + after, after, int(lengths[i][after]), 0, 0, 0, "F"))
                    steps[r].append(Send(key[i] + r, before, int(lengths[i][r]), 0, 0, 0, "F"))
    scripts = [Script(device=r, rank=r, steps=tuple(steps[r])) for r in range(n)]
    return replay(emit(Routes(topology), scripts, "torch-gloo"), topology).step_s


def one_event_s(topology, n, count, kind="all_reduce"):
    traffic = gloo_collective(Routes(topology), kind, range(n), count, INF)
    moving = max(
        size / topology.links[link].bandwidth_bytes_per_s
        for link, size in zip(traffic.links, traffic.bytes, strict=True)
    )
    return traffic.latency_s + moving


@pytest.mark.parametrize("n", [2, 3, 4, 8])
@pytest.mark.parametrize("count", [2**12, 2**16, 2**20, 2**23])
@pytest.mark.parametrize("latency_s", [2.0**-20, 2.0**-10, 2.0**-6])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather"])
def test_recurrence_is_the_loop_message_by_message(n, count, latency_s, kind):
    topology = fully_connected(n, link=Wire(2.0**24, latency_s))
    found = one_event_s(topology, n, count * n, kind)
    assert found == pytest.approx(replayed_s(topology, n, count * n, kind), rel=1e-12)


@pytest.mark.parametrize("n", [2, 4])
def test_a_reduce_scatter_is_an_all_reduce_and_an_all_gather_half_of_one(n):
    routes = Routes(fully_connected(n, link=Wire(2.0**20, 0.0)))
    reduced, scattered, gathered = (
        gloo_collective(routes, kind, range(n), 2**20, INF) for kind in ("all_reduce", "reduce_scatter", "all_gather")
    )
    assert (scattered.latency_s, scattered.links, scattered.bytes) == (reduced.latency_s, reduced.links, reduced.bytes)
    assert sum(reduced.bytes) == 2 * sum(gathered.bytes) == 2 * (n - 1) * 2**20
    assert gathered.latency_s == 0.0


@pytest.mark.parametrize(("late_s", "takes_s"), [(0.0, 2.125), (2.0**-5, 2.125), (2.0**-4, 3.125), (1.0, 3.125)])
def test_whoever_comes_late_to_an_all_gather_of_two_has_its_notices_behind_its_data(late_s, takes_s):
    """Two halves of a second each way, and latencies of a 16th; both begin at 0 there, or the second later::

    0 -> 1   [h0][h1]                      0 -> 1   ....[h0][h1]
    1 -> 0   [h0][h1]  notices went first  1 -> 0   [h0][h1]     each notice behind a half
    """
    topology = fully_connected(2, link=Wire(1024.0, 2.0**-4))
    step = Collective(0, Listed(0, "all_gather"), "all_gather", "", (0, 1), 4096, -1, -1)
    scripts = [
        Script(device=r, rank=r, steps=(Compute(0, "F", 0, 0, 1, r * late_s), step, Wait((0,)))) for r in range(2)
    ]
    assert replay(emit(Routes(topology), scripts, "torch-gloo"), topology).step_s - late_s == takes_s


def test_where_a_latency_is_short_one_of_two_is_late():
    """The same on a latency of 2^-12: 2 seconds take 3, as one comes two latencies late, and three more."""
    topology = fully_connected(2, link=Wire(1024.0, 2.0**-12))
    program = emit(Routes(topology), collective_scripts([4096], "all_gather", [0, 1]), "torch-gloo")
    assert replay(program, topology).step_s == 3 + (2 + 1 + 1) * 2.0**-12
    reduced = emit(Routes(topology), collective_scripts([4096], "all_reduce", [0, 1]), "torch-gloo")
    assert replay(reduced, topology).step_s == 4 + 4 * 2.0**-12


def test_a_small_all_gather_takes_two_latencies_a_round():
    for n in (3, 4, 8):
        traffic = gloo_collective(Routes(ring(n, link=Wire(INF, 0.5))), "all_gather", range(n), 8 * n, INF)
        assert traffic.latency_s == 2 * (n - 1) * 0.5


def test_small_tensors_take_four_latencies_a_rank():
    for n in (3, 4, 8):
        traffic = gloo_collective(Routes(ring(n, link=Wire(INF, 0.5))), "all_reduce", range(n), 8 * n, INF)
        assert traffic.latency_s == 4 * (n - 1) * 0.5


def test_large_tensors_on_free_wires_take_what_the_textbook_says():
    topology = fully_connected(4, link=Wire(2.0**20))
    assert one_event_s(topology, 4, 2**26) == 2 * 3 / 4 * 2**26 / 2**20


def test_bytes_are_those_of_a_ring():
    traffic = gloo_collective(Routes(ring(4, link="1GB/s@1ms")), "all_reduce", range(4), 2**20, INF)
    assert sorted(traffic.bytes) == [1.5 * 2**20] * 4


def test_segments_as_in_the_source():
    assert segments(4, 2) == (2, 4)
    assert segments(971048, 4) == (2, 121384)
    assert segments(25 * 2**20, 4)[1] <= MAX_SEGMENT_BYTES
    assert segments(25 * 2**20, 4)[0] == 7


def test_adding_up_takes_time():
    routes = Routes(ring(4, link="1GB/s@1ms"))
    slow = gloo_collective(routes, "all_reduce", range(4), 2**22, 1e9)
    assert slow.latency_s > gloo_collective(routes, "all_reduce", range(4), 2**22, INF).latency_s


@pytest.mark.parametrize("count", [4, 8, 12, 2600, 2**16, 2**23])
def test_two_ranks_alone_take_what_one_event_says(count):
    """Between two ranks a program has every message; one collective alone takes as long as the recurrence says."""
    topology = fully_connected(2, link=Wire(2.0**24, 2.0**-10))
    program = emit(Routes(topology), collective_scripts([count], "all_reduce", [0, 1]), "torch-gloo")
    assert replay(program, topology).step_s == pytest.approx(one_event_s(topology, 2, count), rel=1e-12)
    (shown,) = account_traffic(program)
    assert (shown.kind, shown.transfers, shown.payload_bytes, shown.link_bytes) == ("all_reduce", 1, count, 2 * count)


def test_two_collectives_at_once_between_two_ranks_cost_more_than_their_bytes_and_less_than_one_after_the_other():
    topology = fully_connected(2, link=Wire(2.0**24, 2.0**-10))
    scripts = collective_scripts([2**22, 2**22], "all_reduce", [0, 1])
    together = [replace(one, steps=(one.steps[0], one.steps[2], one.steps[1], one.steps[3])) for one in scripts]
    at_once, in_turn = (
        replay(emit(Routes(topology), order, "torch-gloo"), topology).step_s for order in (together, scripts)
    )
    assert 2 * 2**22 / 2**24 < at_once < in_turn


def test_every_message_of_a_collective_takes_its_hop():
    devices = tuple(Device(name=f"d{i}", hop_s=0.25) for i in range(4))
    topology = replace(ring(4, link=Wire(INF, 0.5)), devices=devices)
    assert gloo_collective(Routes(topology), "all_reduce", range(4), 32, INF).latency_s == 4 * 3 * 0.75
    pair = replace(fully_connected(2, link=Wire(INF, 0.5)), devices=devices[:2])
    program = emit(Routes(pair), collective_scripts([32], "all_reduce", [0, 1]), "torch-gloo")
    assert replay(program, pair).step_s == 4 * 0.75
