"""Transfers that are alike stay alike, to the last bit; and one may stand for all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.program.model import Program, Stream, Task, Traffic
from mpsim.sums import addends
from mpsim.topology.model import Device, Link, Topology

SIZES = st.floats(1e-3, 1e9)


def cluster(devices, capacities):
    """Devices on one switch, each with a link to it and, in common, links from the switch to nowhere in particular."""
    ends = [f"end{i}" for i in range(len(capacities))]
    links = [Link(source=f"d{i}", target="switch", bandwidth_bytes_per_s=7.0) for i in range(devices)]
    back = [Link(source="switch", target=f"d{i}", bandwidth_bytes_per_s=7.0) for i in range(devices)]
    shared = [
        Link(source="switch", target=end, bandwidth_bytes_per_s=capacity)
        for end, capacity in zip(ends, capacities, strict=True)
    ]
    return Topology(
        name="shared",
        devices=tuple(Device(name=f"d{i}") for i in range(devices)),
        switches=("switch", *ends),
        links=(*links, *back, *shared),
    )


def work(device, device_count, sizes, pauses, alike):
    """Return a device's row of transfers over its own link and a shared one, each behind a computation."""
    shared = 2 * device_count
    for i, (own, common, pause) in enumerate(zip(*sizes, pauses, strict=True)):
        link = shared + i % 2
        traffic = Traffic(links=(0 if alike else device, link), bytes=(own, common), alike=(1, alike) if alike else ())
        yield Task(f"c{i}", "compute", (device,), duration_s=pause)
        yield Task(f"m{i}", "send", (device,), traffic=traffic)


@given(st.integers(1, 9), st.lists(st.tuples(SIZES, SIZES, st.floats(0, 10)), min_size=1, max_size=5), SIZES, SIZES)
def test_one_stands_for_all(n, rows, a, b):
    own, common, pauses = zip(*rows, strict=True)
    topology = cluster(n, (a, b))
    streams = tuple(Stream(device=i, name="compute") for i in range(n))
    each = [task for i in range(n) for task in work(i, n, (own, common), pauses, 0)]
    all_of_them = replay(Program(streams=streams, tasks=tuple(each)), topology)
    one = replay(Program(streams=streams, tasks=tuple(work(0, n, (own, common), pauses, n))), topology)
    for i in range(n):
        assert all_of_them.end_s[i * len(one.end_s) : (i + 1) * len(one.end_s)] == one.end_s


@given(SIZES, st.integers(1, 10**9))
def test_addends_are_exact(value, times):
    from fractions import Fraction

    assert sum(map(Fraction, addends(value, times))) == times * Fraction(value)


def test_a_wrong_count_is_refused():
    with pytest.raises(MpsimError, match="traffic names 1 links, and says of how many alike"):
        Traffic(links=(0,), bytes=(1.0,), alike=(0,))
