"""Computations beside transfers, worked by hand."""

from dataclasses import replace

import pytest

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.program.model import Program, Stream, Task, Traffic
from mpsim.topology.builders import chain
from mpsim.topology.model import Device
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire

STREAMS = (
    Stream(device=0, name="compute"),
    Stream(device=1, name="compute"),
    Stream(device=0, name="send"),
    Stream(device=1, name="receive"),
)
SECOND = Traffic(links=(0,), bytes=(1024.0,))


def play(tasks, slowdown=2.0, free=False):
    devices = (Device(name="d0", overlap_slowdown=slowdown), Device(name="d1"))
    topology = replace(chain(2, link=Wire(1024.0)), devices=devices)
    timing = replay(Program(streams=STREAMS, tasks=tuple(tasks)), topology, free=free)
    return list(zip(timing.start_s, timing.end_s, strict=True))


BESIDE = (Task("a", "compute", (0,), duration_s=4.0), Task("s", "send", (2, 3), traffic=SECOND))


def test_half_as_fast_while_bytes_move():
    # One second of moving passes half a second of the four.
    assert play(BESIDE) == [(0.0, 4.5), (0.0, 1.0)]


def test_one_that_ends_within():
    assert play((Task("a", "compute", (0,), duration_s=0.25), BESIDE[1])) == [(0.0, 0.5), (0.0, 1.0)]


def test_one_that_begins_within_and_two_transfers_slow_no_more_than_one():
    tasks = (
        Task("p", "compute", (1,), duration_s=0.5),
        Task("a", "compute", (0,), (0,), duration_s=2.0),
        Task("s", "send", (2, 3), traffic=Traffic(links=(0,), bytes=(512.0,))),
        Task("t", "all_reduce", (2, 3), traffic=Traffic(links=(0, 1), bytes=(512.0, 512.0))),
    )
    # The second transfer moves from 0.5 to 1: a runs from 0.5, half as fast until 1.
    assert play(tasks)[1] == (0.5, 2.75)


def test_the_other_device_and_latency_do_not_mind():
    tasks = (
        Task("b", "compute", (1,), duration_s=4.0),
        Task("a", "compute", (0,), duration_s=4.0),
        Task("s", "send", (2, 3), traffic=Traffic(latency_s=2.0)),
    )
    assert play((tasks[0], BESIDE[1]))[0] == (0.0, 4.0)
    assert play(tasks)[1] == (0.0, 4.0)


def test_off_unless_given_and_on_free_links():
    assert play(BESIDE, slowdown=1.0)[0] == play(BESIDE, free=True)[0] == (0.0, 4.0)


def test_stated_in_a_builder():
    assert parse_topology("ring:2,link=1GB/s@1us,overlap=1.5").devices[1].overlap_slowdown == 1.5
    with pytest.raises(MpsimError, match=r"overlap_slowdown is 0\.5, expected a finite number from 1 on"):
        Device(name="d0", overlap_slowdown=0.5)
