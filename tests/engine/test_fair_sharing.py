"""Random transfers over random links: capacity kept, rates max-min fair, every byte moved, none too soon."""

import math
from collections import defaultdict
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.engine.replay import replay
from mpsim.program.model import Program, Stream, Task, Traffic
from mpsim.topology.model import Device, Link, Topology

# Far above what rounding does in a few hundred operations, far below what an unfair share would be.
NEAR = 1e-9

SPEEDS = st.one_of(st.sampled_from([1.0, 2.0, 3.0, 10.0, 5e10]), st.floats(1e-3, 1e12))
COUNTS = st.one_of(st.sampled_from([1.0, 2.0, 7.0, 2.0**20]), st.floats(1e-3, 1e12))
SECONDS = st.one_of(st.just(0.0), st.floats(0.0, 10.0))


def pairs(speeds: list[float]) -> Topology:
    """Return a device for each link, each link to the next one, of these speeds; back again in no time."""
    names = [f"d{i}" for i in range(len(speeds) + 1)]
    links = [Link(source=names[i], target=names[i + 1], bandwidth_bytes_per_s=speed) for i, speed in enumerate(speeds)]
    links += [Link(source=names[i + 1], target=names[i], bandwidth_bytes_per_s=math.inf) for i in range(len(speeds))]
    return Topology(name="random", devices=tuple(Device(name=name) for name in names), links=tuple(links))


@st.composite
def cases(draw):
    """Return a topology, and transfers and computations that wait for earlier ones, some on streams of their own."""
    speeds = draw(st.lists(SPEEDS, min_size=1, max_size=6))
    tasks = []
    n = draw(st.integers(1, 10))
    for i in range(n):
        after = draw(st.lists(st.integers(0, i - 1), max_size=2, unique=True)) if i else []
        stream = draw(st.integers(0, n - 1))
        if draw(st.integers(0, 4)) == 0:
            tasks.append(Task(f"c{i}", "compute", (stream,), tuple(after), draw(SECONDS)))
            continue
        links = draw(st.lists(st.integers(0, len(speeds) - 1), min_size=1, max_size=len(speeds), unique=True))
        same = draw(st.booleans())
        counts = [draw(COUNTS)] * len(links) if same else [draw(COUNTS) for _ in links]
        traffic = Traffic(latency_s=draw(SECONDS), links=tuple(links), bytes=tuple(counts))
        tasks.append(Task(f"t{i}", "send", (stream,), tuple(after), 0.0, traffic))
    return pairs(speeds), Program(streams=tuple(Stream(device=0, name=f"s{i}") for i in range(n)), tasks=tuple(tasks))


def observed(program: Program, topology: Topology):
    """Return the timing, and by time the rate of each transfer in flight from then on."""
    rates: dict[int, float] = {}
    moments: dict[float, dict[int, float]] = {}

    def observe(time_s: float, task: int, rate: float) -> None:
        rates[task] = rate
        moments[time_s] = {key: value for key, value in rates.items() if value}

    return replay(program, topology, observer=observe), moments


def shares_of(traffic: Traffic) -> dict[int, float]:
    size = max(traffic.bytes)
    return {link: count / size for link, count in zip(traffic.links, traffic.bytes, strict=True)}


@settings(max_examples=150)
@given(cases())
def test_links_are_shared_max_min_fairly(case):
    topology, program = case
    _, moments = observed(program, topology)
    for rates in moments.values():
        users = defaultdict(dict)
        for task, rate in rates.items():
            for link, share in shares_of(program.tasks[task].traffic).items():
                users[link][task] = (rate, share)
        used = {link: math.fsum(r * s for r, s in flows.values()) for link, flows in users.items()}
        capacity = {link: topology.links[link].bandwidth_bytes_per_s for link in users}
        for link in users:
            assert used[link] <= capacity[link] * (1 + NEAR)
        full = {link for link in users if used[link] >= capacity[link] * (1 - NEAR)}
        for task, rate in rates.items():
            # Nobody's rate could grow but at the cost of one that is no faster: Bertsekas and Gallager, 6.5.2.
            assert any(
                link in full and rate >= max(r for r, _ in users[link].values()) * (1 - NEAR)
                for link in shares_of(program.tasks[task].traffic)
            )


@settings(max_examples=150)
@given(cases())
def test_every_byte_is_moved(case):
    topology, program = case
    timing, moments = observed(program, topology)
    moved = defaultdict(float)
    for begin, end in pairwise([*sorted(moments), timing.step_s]):
        for task, rate in moments[begin].items():
            moved[task] += rate * (end - begin)
    for i, task in enumerate(program.tasks):
        if task.traffic is not None:
            # Times are rounded to the floats near the end of the step; a rate may be large.
            slack = (
                max(topology.links[link].bandwidth_bytes_per_s for link in task.traffic.links) * timing.step_s * 1e-15
            )
            assert moved[i] == pytest.approx(max(task.traffic.bytes), rel=NEAR, abs=20 * slack)


@settings(max_examples=150)
@given(cases())
def test_causes_come_before_effects(case):
    topology, program = case
    timing = replay(program, topology)
    last: dict[int, int] = {}
    for i, task in enumerate(program.tasks):
        start, end = timing.start_s[i], timing.end_s[i]
        assert all(timing.end_s[j] <= start for j in task.after)
        for stream in task.streams:
            if stream in last:
                assert timing.end_s[last[stream]] <= start
            last[stream] = i
        if task.traffic is None:
            assert end == start + task.duration_s
        else:
            pace = max(
                count / topology.links[link].bandwidth_bytes_per_s
                for link, count in zip(task.traffic.links, task.traffic.bytes, strict=True)
            )
            assert end >= (start + task.traffic.latency_s + pace) * (1 - 1e-12)


@settings(max_examples=100)
@given(cases())
def test_nothing_starts_later_than_it_could(case):
    """A task starts the moment that the last of what it waits for ends."""
    topology, program = case
    timing = replay(program, topology)
    last: dict[int, int] = {}
    for i, task in enumerate(program.tasks):
        causes = [*task.after, *(last[stream] for stream in task.streams if stream in last)]
        assert timing.start_s[i] == max((timing.end_s[j] for j in causes), default=0.0)
        last |= dict.fromkeys(task.streams, i)


@settings(max_examples=100)
@given(cases())
def test_free_links_never_slow_anything(case):
    topology, program = case
    timing, free = replay(program, topology), replay(program, topology, free=True)
    assert all(a <= b for a, b in zip(free.start_s, timing.start_s, strict=True))
    assert all(a <= b for a, b in zip(free.end_s, timing.end_s, strict=True))


@settings(max_examples=50)
@given(cases())
def test_same_program_same_bits_watched_or_not(case):
    topology, program = case
    assert replay(program, topology) == replay(program, topology) == observed(program, topology)[0]


@settings(max_examples=50)
@given(cases(), st.randoms(use_true_random=False))
def test_the_numbering_of_links_does_not_matter(case, random):
    """Relabelled links give the same times, but for rounding."""
    topology, program = case
    order = list(range(len(topology.links)))
    random.shuffle(order)
    links = [topology.links[i] for i in order]
    at = {old: new for new, old in enumerate(order)}
    moved = Topology(name="shuffled", devices=topology.devices, links=tuple(links))
    tasks = [
        task
        if task.traffic is None
        else task._replace(
            traffic=Traffic(
                latency_s=task.traffic.latency_s,
                links=tuple(at[link] for link in task.traffic.links),
                bytes=task.traffic.bytes,
            )
        )
        for task in program.tasks
    ]
    again = replay(Program(streams=program.streams, tasks=tuple(tasks)), moved)
    assert again.end_s == pytest.approx(replay(program, topology).end_s, rel=1e-9, abs=1e-12)
