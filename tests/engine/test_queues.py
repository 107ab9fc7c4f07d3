"""Streams that serve whoever comes first."""

import pytest

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.program.model import Program, Stream, Task
from mpsim.topology.model import Device, Topology

ONE = Topology(name="one", devices=(Device(name="d0"),))


def play(slots, tasks):
    streams = tuple(Stream(device=0, name=str(i), slots=count) for i, count in enumerate(slots))
    timing = replay(Program(streams=streams, tasks=tuple(tasks)), ONE)
    return list(zip(timing.start_s, timing.end_s, strict=True))


def test_first_ready_is_first_served_whatever_the_program_says():
    # Streams 1 and 2 run in order; stream 0 takes what is ready first: the task that stands second.
    tasks = [
        Task("slow", "compute", (1,), duration_s=2.0),
        Task("late", "send", (0,), (0,), 4.0),
        Task("quick", "compute", (2,), duration_s=1.0),
        Task("early", "send", (0,), (2,), 4.0),
    ]
    assert play([1, 0, 0], tasks) == [(0.0, 2.0), (5.0, 9.0), (0.0, 1.0), (1.0, 5.0)]


def test_in_the_programs_order_the_same_would_wait():
    tasks = [
        Task("slow", "compute", (1,), duration_s=2.0),
        Task("late", "send", (0,), (0,), 4.0),
        Task("early", "send", (0,), (), 4.0),
    ]
    assert play([0, 0], tasks)[2] == (6.0, 10.0)


def test_as_many_at_once_as_there_are_slots():
    tasks = [Task(str(i), "compute", (0,), duration_s=float(i + 1)) for i in range(4)]
    assert play([2], tasks) == [(0.0, 1.0), (0.0, 2.0), (1.0, 4.0), (2.0, 6.0)]


def test_a_task_on_two_queues_waits_for_both_and_holds_up_those_behind_it():
    tasks = [
        Task("a", "send", (0,), duration_s=2.0),
        Task("b", "send", (0, 1), duration_s=1.0),
        Task("c", "send", (1,), duration_s=1.0),
    ]
    assert play([1, 1], tasks) == [(0.0, 2.0), (2.0, 3.0), (3.0, 4.0)]


def test_what_ends_at_once_frees_its_slot_at_once():
    tasks = [Task("a", "send", (0,)), Task("b", "send", (0,)), Task("c", "send", (0,), duration_s=1.0)]
    assert play([1], tasks) == [(0.0, 0.0), (0.0, 0.0), (0.0, 1.0)]


def test_slots_below_zero_are_refused():
    with pytest.raises(MpsimError, match="stream 'x' has -1 slots, expected 0 or more"):
        Stream(device=0, name="x", slots=-1)
