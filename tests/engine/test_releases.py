"""Who let each task start."""

from hypothesis import given, settings
from random_cases import cases

from mpsim.engine.replay import replay
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.program.model import Program, Stream, Task
from mpsim.topology.model import Device, Topology

ONE = Topology(name="one", devices=(Device(name="d0"),))


def test_it_is_nobody_unless_asked_for():
    program = Program(
        streams=(Stream(device=0, name="s"),), tasks=(Task("a", "forward", (0,)), Task("b", "forward", (0,)))
    )
    assert replay(program, ONE).released_by == ()
    assert replay(program, ONE, releases=True).released_by == (-1, 0)


def test_it_is_the_last_to_end_of_those_waited_for():
    streams = tuple(Stream(device=0, name=name) for name in "ab")
    tasks = (
        Task("long", "forward", (0,), (), 2.0), Task("short", "forward", (1,), (), 1.0),
        Task("both", "forward", (0, 1), (), 1.0), Task("after", "forward", (1,), (0,), 1.0),
    )  # fmt: skip
    assert replay(Program(streams=streams, tasks=tasks), ONE, releases=True).released_by == (-1, -1, 0, 2)


@settings(max_examples=40)
@given(cases())
def test_it_is_waited_for_and_ends_as_the_task_starts(case):
    lowering = lower(*case)
    program = program_of(lowering)
    plain, timing = (replay(program, lowering.topology, releases=releases) for releases in (False, True))
    assert (plain.start_s, plain.end_s) == (timing.start_s, timing.end_s)
    for i, by in enumerate(timing.released_by):
        if by < 0:
            assert timing.start_s[i] == 0.0
            continue
        one, other = program.tasks[i], program.tasks[by]
        assert by in one.after or by in one.after_buffered or set(one.streams) & set(other.streams)
        assert timing.start_s[by] <= timing.start_s[i] <= timing.end_s[by]
        assert timing.start_s[i] == timing.end_s[by] or by in one.after_buffered
