"""Transfers that share links, worked out by hand: every start and end is exact."""

from mpsim.collectives.traffic import collective, point_to_point
from mpsim.engine.replay import replay
from mpsim.program.model import Program, Stream, Task
from mpsim.topology.builders import chain, ring, switch
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire

BYTE = Wire(1024.0)  # 1 KiB a second, no latency: seconds are KiB.
KIB = 1024


def play(topology: Topology, *transfers) -> list[tuple[float, float]]:
    """Return start and end of each (traffic, seconds before it starts)."""
    tasks: list[Task] = []
    for i, (traffic, begin_s) in enumerate(transfers):
        tasks.append(Task("wait", "compute", (2 * i,), duration_s=begin_s))
        tasks.append(Task("move", "send", (2 * i + 1,), (2 * i,), traffic=traffic))
    streams = tuple(Stream(device=0, name=str(i)) for i in range(len(tasks)))
    timing = replay(Program(streams=streams, tasks=tuple(tasks)), topology)
    return [(timing.start_s[i], timing.end_s[i]) for i in range(1, len(tasks), 2)]


def sent(topology: Topology, source: int, target: int, count: int):
    return point_to_point(Routes(topology), source, target, count)


def test_two_flows_on_a_link():
    """1 KiB and 3 KiB halve the link until 2 s; the rest of the longer, 2 KiB, has it alone until 4 s."""
    pair = chain(2, link=BYTE)
    assert play(pair, (sent(pair, 0, 1, KIB), 0.0), (sent(pair, 0, 1, 3 * KIB), 0.0)) == [(0.0, 2.0), (0.0, 4.0)]


def test_a_flow_that_comes_later_slows_the_one_that_is_there():
    """Alone for 1 s (1 of 3 KiB); halves until the other's 1 KiB is through at 3 s; its last 1 KiB alone, to 4 s."""
    pair = chain(2, link=BYTE)
    assert play(pair, (sent(pair, 0, 1, 3 * KIB), 0.0), (sent(pair, 0, 1, KIB), 1.0)) == [(0.0, 4.0), (1.0, 3.0)]


def test_three_flows_on_two_links():
    """The middle flow crosses both links and shares each with one other.

    ::

        0 --- A 1 KiB --- 1 --- B 3 KiB --- 2        C: 0 to 2, 2 KiB

    Each link is halved until A is through at 2 s: then B and C have 2 KiB and 1 KiB left. The second link is still
    halved, so C goes no faster on the first: C ends at 4 s, and B's last KiB has the link alone, to 5 s.
    """
    line = chain(3, link=BYTE)
    flows = [sent(line, 0, 1, KIB), sent(line, 1, 2, 3 * KIB), sent(line, 0, 2, 2 * KIB)]
    assert play(line, *((flow, 0.0) for flow in flows)) == [(0.0, 2.0), (0.0, 5.0), (0.0, 4.0)]


def test_three_flows_on_two_unlike_links():
    """The slow link, of 1 KiB/s, is halved between two; the third takes what they leave of the fast one, of 4 KiB/s.

    A (0 to 1) and C (0 to 2) share the fast link, B (1 to 2) and C the slow one: B and C get 1/2 each, A 3.5. A's
    7 KiB are through at 2 s; B's and C's 2 KiB each at 4 s.
    """
    line = chain(3, link=BYTE)
    links = tuple(
        type(link)(
            source=link.source,
            target=link.target,
            bandwidth_bytes_per_s=4096.0 if "d0" in (link.source, link.target) else 1024.0,
        )
        for link in line.links
    )
    unlike = Topology(name="unlike", devices=line.devices, links=links)
    flows = [sent(unlike, 0, 1, 7 * KIB), sent(unlike, 1, 2, 2 * KIB), sent(unlike, 0, 2, 2 * KIB)]
    assert play(unlike, *((flow, 0.0) for flow in flows)) == [(0.0, 2.0), (0.0, 4.0), (0.0, 4.0)]


def test_a_collective_against_a_send():
    """An all-reduce of 4 KiB puts 6 KiB on each link of a ring of four; a send of 2 KiB crosses one of them.

    They halve that link, and as the all-reduce moves at one pace, the other links are half idle: at 4 s the send is
    through, and 2 KiB a link have been moved. The 4 KiB left go at full speed, to 8 s: 2 s more than alone.
    """
    four = ring(4, link=BYTE)
    reduce = collective(Routes(four), "all_reduce", range(4), 4 * KIB)
    assert play(four, (reduce, 0.0)) == [(0.0, 6.0)]
    assert play(four, (reduce, 0.0), (sent(four, 1, 2, 2 * KIB), 0.0)) == [(0.0, 8.0), (0.0, 4.0)]


def test_two_collectives_on_one_fabric():
    """Two pairs on one switch do not meet; two groups that share a device halve its links.

    An all-reduce of 2 KiB between two moves 2 KiB each way on each link.
    """
    star = switch(4, link=BYTE)
    routes = Routes(star)
    left, right, across = (collective(routes, "all_reduce", ranks, 2 * KIB) for ranks in ((0, 1), (2, 3), (1, 2)))
    assert play(star, (left, 0.0), (right, 0.0)) == [(0.0, 2.0), (0.0, 2.0)]
    assert play(star, (left, 0.0), (across, 0.0)) == [(0.0, 4.0), (0.0, 4.0)]


def test_several_jobs_on_one_cluster():
    """Three jobs' messages leave one device: a third each, until the shortest is through, then a half.

    1, 2 and 3 KiB: the first ends at 3 s; the second, with 1 KiB left, at 5 s; the third, with 1 KiB left, at 6 s.
    """
    star = switch(4, link=BYTE)
    flows = [(sent(star, 0, target, target * KIB), 0.0) for target in (1, 2, 3)]
    assert play(star, *flows) == [(0.0, 3.0), (0.0, 5.0), (0.0, 6.0)]
