"""The check on the one-event form: the engine replays a collective message by message, and takes as long."""

import pytest

from mpsim.collectives.algorithms import ALGORITHMS
from mpsim.collectives.mapping import laid_rounds, rounds_of
from mpsim.collectives.traffic import collective, messages, point_to_point
from mpsim.engine.replay import replay
from mpsim.program.model import Program, Stream, Task, Traffic
from mpsim.topology.builders import fully_connected, nodes, ring, switch
from mpsim.topology.model import Topology
from mpsim.topology.routes import Routes
from mpsim.topology.wire import Wire

WIRE = Wire(2.0**30, 2.0**-20)
STREAMED = {
    (kind, name)
    for kind, name in ALGORITHMS
    if name == "double_binary_tree" or (name == "ring" and kind in ("broadcast", "reduce", "gather", "scatter"))
}
ROUNDS = sorted(set(ALGORITHMS) - STREAMED)
SYMMETRIC = {"ring": ring, "switch": switch, "fully_connected": fully_connected}


def one_event_s(topology: Topology, kind: str, algorithm: str, ranks, size: int) -> float:
    traffic = collective(Routes(topology), kind, ranks, size, algorithm)
    task = Task(kind, kind, (0,), traffic=traffic)
    return replay(Program(streams=(Stream(device=0, name="network"),), tasks=(task,)), topology).step_s


def levelled_s(topology: Topology, kind: str, algorithm: str, size: int, blocking: bool) -> float:
    """Replay the messages of an algorithm that follows levels, each of its rings waiting for its own alone."""
    routes, n = Routes(topology), len(topology.devices)
    rings = max(one.streams for one in laid_rounds(routes, kind, algorithm, tuple(range(n)))[0].rounds)
    tasks: list[Task] = []
    before: dict[tuple[int, int], list[int]] = {}
    for one in messages(kind, range(n), size, algorithm, routes):
        touched: dict[tuple[int, int], list[int]] = {}
        for i, (source, target, count) in enumerate(one):
            number = i * rings // len(one)
            after = tuple(before.get((number, source), ()))
            for end in (source, target) if blocking else (target,):
                touched.setdefault((number, end), []).append(len(tasks))
            traffic = point_to_point(routes, source, target, count)
            tasks.append(Task(f"{source}>{target}", "send", (len(tasks),), after, traffic=traffic))
        before |= touched
    streams = tuple(Stream(device=0, name=task.name) for task in tasks)
    return replay(Program(streams=streams, tasks=tuple(tasks)), topology).step_s


def messages_s(topology: Topology, kind: str, algorithm: str, ranks, size: int, blocking: bool = True) -> float:
    """Replay each message as a task that waits for all that its source has received, and sent if sends block."""
    routes = Routes(topology)
    tasks: list[Task] = []
    before: dict[int, list[int]] = {rank: [] for rank in ranks}
    for one in messages(kind, ranks, size, algorithm):
        touched: dict[int, list[int]] = {}
        for source, target, count in one:
            traffic = point_to_point(routes, source, target, count)
            for end in (source, target) if blocking else (target,):
                touched.setdefault(end, []).append(len(tasks))
            tasks.append(Task(f"{source}>{target}", "send", (len(tasks),), tuple(before[source]), traffic=traffic))
        before |= touched
    streams = tuple(Stream(device=0, name=task.name) for task in tasks)
    return replay(Program(streams=streams, tasks=tuple(tasks)), topology).step_s


@pytest.mark.parametrize(("kind", "algorithm"), ROUNDS)
@pytest.mark.parametrize("shape", SYMMETRIC)
def test_one_event_takes_as_long_as_its_messages(kind, algorithm, shape):
    topology = SYMMETRIC[shape](8, link=WIRE)
    expected_s = messages_s(topology, kind, algorithm, range(8), 2**20)
    took_s = one_event_s(topology, kind, algorithm, range(8), 2**20)
    if (shape, algorithm) == ("ring", "direct"):
        # Messages to neighbours begin while those that go far are still in their latency: the event counts it all.
        assert expected_s <= took_s <= expected_s + 2 * 3 * WIRE.latency_s
    else:
        assert took_s == pytest.approx(expected_s, rel=1e-9)


def streamed_s(topology: Topology, kind: str, algorithm: str, size: int, parts: int) -> float:
    """Replay a tensor streamed in so many parts: each goes the way of its messages behind the part before."""
    routes, tasks = Routes(topology), []
    found = rounds_of(kind, algorithm, len(topology.devices))
    (one,) = found.rounds
    length = len(one.messages) // one.streams
    wires: dict[tuple[int, int, int], int] = {}
    for _ in range(parts):
        for stream, way in enumerate(one.slices):
            heard: dict[int, list[int]] = {}
            counts = one.counts[stream * length : (stream + 1) * length]
            for (source, target), pieces in zip(way, counts, strict=True):
                traffic = point_to_point(routes, source, target, size * pieces / found.pieces / parts)
                # Latencies of parts overlap, so each part is behind the one before on the wire alone.
                behind = [wires[stream, source, target]] if (stream, source, target) in wires else []
                link = Traffic(links=traffic.links, bytes=traffic.bytes)
                tasks.append(Task("bytes", "send", (len(tasks),), (*heard.get(source, ()), *behind), traffic=link))
                wires[stream, source, target] = len(tasks) - 1
                flight = Traffic(latency_s=traffic.latency_s)
                tasks.append(Task("flight", "send", (len(tasks),), (len(tasks) - 1,), traffic=flight))
                heard.setdefault(target, []).append(len(tasks) - 1)
    streams = tuple(Stream(device=0, name=task.name) for task in tasks)
    return replay(Program(streams=streams, tasks=tuple(tasks)), topology).step_s


@pytest.mark.parametrize(("kind", "algorithm"), sorted(STREAMED - {("barrier", "double_binary_tree")}))
@pytest.mark.parametrize("shape", ["ring", "switch", "fully_connected"])
def test_a_streamed_event_is_what_ever_smaller_parts_come_to(kind, algorithm, shape):
    """Its messages take longer while a pipe of parts fills: what they take more shrinks as the parts do."""
    topology = SYMMETRIC[shape](4, link=WIRE)
    took_s = one_event_s(topology, kind, algorithm, range(4), 2**24)
    coarse, fine = (streamed_s(topology, kind, algorithm, 2**24, parts) for parts in (8, 32))
    assert took_s == pytest.approx(fine, rel=0.15)
    assert abs(fine - took_s) <= abs(coarse - took_s) * 0.5 or fine == pytest.approx(took_s, rel=0.02)


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
@pytest.mark.parametrize("size", [2**12, 2**16, 2**20])
def test_around_unlike_links_an_event_lies_between_buffered_and_blocking_sends(kind, size):
    """Where a rank waits for its message to arrive before it sends the next, every round pays the slow link."""
    inside, between = Wire(2.0**33, 2.0**-20), Wire(2.0**30, 2.0**-17)
    topology = nodes(2, per_node=4, nics=4, inside=inside, between=between)
    took_s = one_event_s(topology, kind, "ring", range(8), size)
    buffered_s, blocking_s = (
        messages_s(topology, kind, "ring", range(8), size, blocking) for blocking in (False, True)
    )
    assert buffered_s < took_s < blocking_s
    assert took_s - buffered_s < blocking_s - took_s


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter", "all_to_all"])
def test_around_unlike_links_a_large_tensor_takes_what_the_slow_link_takes(kind):
    topology = nodes(2, per_node=4, nics=4, inside=Wire(2.0**33, 2.0**-20), between=Wire(2.0**30, 2.0**-17))
    expected_s = messages_s(topology, kind, "ring", range(8), 2**28, blocking=False)
    assert one_event_s(topology, kind, "ring", range(8), 2**28) == pytest.approx(expected_s, rel=0.01)


@pytest.mark.parametrize("algorithm", ["hierarchical", "rings"])
@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("size", [2**14, 2**20, 2**26])
def test_along_levels_an_event_lies_between_buffered_and_blocking_sends(algorithm, kind, size):
    """Ranks of a level are alike, so its rounds take as long either way; between levels, as around unlike links."""
    inside, between = Wire(2.0**33, 2.0**-20), Wire(2.0**30, 2.0**-17)
    topology = nodes(2, per_node=4, nics=4, inside=inside, between=between)
    took_s = one_event_s(topology, kind, algorithm, range(8), size)
    buffered_s, blocking_s = (levelled_s(topology, kind, algorithm, size, blocking) for blocking in (False, True))
    if algorithm == "hierarchical":
        assert took_s == pytest.approx(blocking_s, rel=1e-9) == pytest.approx(buffered_s, rel=1e-9)
    else:
        assert buffered_s * (1 - 1e-9) <= took_s <= blocking_s * (1 + 1e-9)
