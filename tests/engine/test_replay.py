"""Programs worked by hand: streams, rendezvous, shared links, deadlocks."""

import math

import pytest

from mpsim.engine.replay import replay
from mpsim.errors import MpsimError
from mpsim.program.model import Program, Stream, Task, Traffic
from mpsim.topology.model import Device, Link, Topology


def topology(*bandwidths: float, devices: int = 2) -> Topology:
    """Return devices and a switch in which link i is what carries the test's traffic, of that bandwidth."""
    names = [f"d{i}" for i in range(max(devices, len(bandwidths)))]
    ways = [Link(source=name, target="sw", bandwidth_bytes_per_s=1.0) for name in names[len(bandwidths) :]]
    shared = [
        Link(source=name, target="sw", bandwidth_bytes_per_s=speed)
        for name, speed in zip(names, bandwidths, strict=False)
    ]
    back = [Link(source="sw", target=name, bandwidth_bytes_per_s=1.0) for name in names]
    return Topology(
        name="test", devices=tuple(Device(name=name) for name in names), switches=("sw",), links=(*shared, *ways, *back)
    )


def streams(n: int) -> tuple[Stream, ...]:
    return tuple(Stream(device=0, name=f"s{i}") for i in range(n))


def play(tasks, links=(1.0,), n_streams=None, **keywords):
    n = n_streams or 1 + max(s for task in tasks for s in task.streams)
    return replay(Program(streams=streams(n), tasks=tuple(tasks)), topology(*links), **keywords)


def compute(name, stream, seconds, *after):
    return Task(name, "compute", (stream,), after, seconds)


def move(name, stream, *, links, count=None, counts=None, after=(), latency_s=0.0):
    """A transfer on one stream, of `count` bytes on each link."""
    counts = counts or (float(count),) * len(links)
    return Task(name, "send", (stream,), tuple(after), 0.0, Traffic(latency_s=latency_s, links=links, bytes=counts))


def test_a_stream_runs_in_order_and_streams_side_by_side():
    timing = play([compute("a", 0, 1.0), compute("b", 1, 3.0), compute("c", 0, 0.5)])
    assert timing.start_s == (0.0, 0.0, 1.0)
    assert timing.end_s == (1.0, 3.0, 1.5)
    assert timing.step_s == 3.0


def test_the_order_of_tasks_is_the_order_of_each_stream_whatever_waits():
    """b heads stream 0 only after a, though it could run at once; c waits for b."""
    timing = play([compute("a", 0, 1.0, 2), compute("b", 0, 1.0), compute("c", 1, 4.0)])
    assert timing.start_s == (4.0, 5.0, 0.0)


def test_a_rendezvous_waits_for_all_its_streams_and_holds_them():
    tasks = [
        compute("a", 0, 1.0),
        compute("b", 1, 2.0),
        Task("both", "all_reduce", (0, 1), (), 0.0, Traffic(latency_s=0.5)),
        compute("c", 0, 1.0),
        compute("d", 1, 0.25),
    ]
    timing = play(tasks)
    assert (timing.start_s[2], timing.end_s[2]) == (2.0, 2.5)
    assert timing.start_s[3:] == (2.5, 2.5)


def test_what_takes_no_time_ends_at_once_in_a_row():
    tasks = [compute("a", 0, 1.0)]
    tasks += [compute(f"z{i}", i % 3, 0.0, i) for i in range(5000)]
    timing = play(tasks)
    assert set(timing.start_s[1:]) == set(timing.end_s[1:]) == {1.0}


def test_nothing_to_do():
    assert replay(Program(streams=(), tasks=()), topology(1.0)).step_s == 0.0


def test_latency_then_bytes():
    timing = play([move("m", 0, links=(0,), count=3, latency_s=0.25)], links=(2.0,))
    assert timing.end_s == (1.75,)


def test_a_message_over_two_links_moves_at_the_pace_of_the_slower():
    timing = play([move("m", 0, links=(0, 1), count=3)], links=(2.0, 0.5))
    assert timing.end_s == (6.0,)


def test_two_messages_share_a_link():
    """4 and 2 bytes at 2 bytes/s: 1 each until 2, then the first alone."""
    timing = play([move("a", 0, links=(0,), count=4), move("b", 1, links=(0,), count=2)], links=(2.0,))
    assert timing.end_s == (3.0, 2.0)


def test_a_message_that_comes_later_slows_the_first_from_then_on():
    """a: 2 bytes by 1, then 1 byte/s, b ends at 3 with a at 4 of 6, and a at 4."""
    timing = play(
        [move("a", 0, links=(0,), count=6), move("b", 1, links=(0,), count=2, latency_s=1.0)],
        links=(2.0,),
    )
    assert timing.end_s == (4.0, 3.0)


def test_latency_uses_no_bandwidth():
    timing = play([move("a", 0, links=(0,), count=2), move("b", 1, links=(0,), count=2, latency_s=1.0)], links=(2.0,))
    assert timing.end_s == (1.0, 2.0)


def test_rates_are_max_min_fair():
    """
    Link 0 carries 1 byte/s, link 1 carries 2. a uses both, b link 0, c link 1: a and b get 1/2 each, c what a leaves,
    3/2 (were c given 1 as its equal share of link 1, half a byte a second would go unused).
    """
    tasks = [move("a", 0, links=(0, 1), count=1), move("b", 1, links=(0,), count=1), move("c", 2, links=(1,), count=3)]
    last: dict[int, float] = {}
    timing = play(
        tasks, links=(1.0, 2.0), observer=lambda time_s, task, rate: time_s == 0.0 and last.update({task: rate})
    )
    assert timing.end_s == (2.0, 2.0, 2.0)
    assert last == {0: 0.5, 1: 0.5, 2: 1.5}


def test_a_collective_moves_all_its_links_at_one_pace():
    """a puts 4 bytes on link 0 and 2 on link 1: at link 0's 1 byte/s it takes 1/2 of link 1's 3, and b 5/2."""
    last: dict[int, float] = {}
    timing = play(
        [move("a", 0, links=(0, 1), counts=(4.0, 2.0)), move("b", 1, links=(1,), count=10)],
        links=(1.0, 3.0),
        observer=lambda time_s, task, rate: time_s == 0.0 and last.update({task: rate}),
    )
    assert last == {0: 1.0, 1: 2.5}
    assert timing.end_s == (4.0, 4.0)


def test_only_those_that_share_are_touched():
    """c is alone on its link: its rate is set once, and to 0 at its end."""
    seen: list[tuple[float, int, float]] = []
    tasks = [move("a", 0, links=(0,), count=2), move("b", 1, links=(0,), count=4), move("c", 2, links=(1,), count=9)]
    play(tasks, links=(1.0, 1.0), observer=lambda *row: seen.append(row))
    assert [row for row in seen if row[1] == 2] == [(0.0, 2, 1.0), (9.0, 2, 0.0)]


def test_links_of_infinite_bandwidth_take_no_time_and_no_part():
    tasks = [move("a", 0, links=(0,), count=10**9), move("b", 1, links=(0, 1), count=4)]
    assert play(tasks, links=(math.inf, 2.0)).end_s == (0.0, 2.0)


def test_no_bytes_take_the_latency():
    assert play([Task("m", "send", (0,), traffic=Traffic(latency_s=0.5))]).end_s == (0.5,)


def test_free_links_take_no_time():
    tasks = [compute("a", 0, 1.0), move("m", 1, links=(0,), count=7, latency_s=3.0, after=[0]), compute("b", 0, 1.0, 1)]
    assert play(tasks).end_s == (1.0, 11.0, 12.0)
    assert play(tasks, free=True).end_s == (1.0, 1.0, 2.0)


def test_shares_that_differ_by_more_than_a_float_holds():
    """Five transfers use up link 0 but for 1e-17 of it, which rounds to nothing: the sixth, which needs that, ends."""
    tiny = move("tiny", 5, links=(0, 6), counts=(1e-17, 1.0))
    tasks = [move(f"m{i}", i, links=(0, 1 + i), counts=(1.0, size)) for i, size in enumerate((1.0, 1.0, 3.0, 7.0, 3.0))]
    timing = play([tiny, *tasks], links=(1.0, *[0.3559322033898305] * 5, 1.0))
    assert timing.end_s[0] == pytest.approx(1.0 / 0.3559322033898305)


def test_a_deadlock_names_the_heads_in_one_line():
    tasks = [compute("a", 0, 1.0, 3), compute("b", 0, 1.0), compute("c", 1, 1.0, 1), compute("d", 1, 1.0)]
    with pytest.raises(MpsimError) as error:
        play(tasks)
    assert str(error.value) == (
        "deadlock: 4 of 4 tasks never start; change the order of the schedule. "
        "Heads: d0 s0: 'a' waits for 'd'; d0 s1: 'c' waits for 'b'"
    )


def test_a_deadlock_of_rendezvous_taken_in_unlike_order():
    """Stream 0 wants x before y, and stream 1 has y's predecessor behind x."""
    tasks = [
        compute("first", 0, 1.0),
        Task("x", "all_reduce", (0, 1), (2,), 0.0, Traffic(latency_s=1.0)),
        compute("later", 1, 1.0),
    ]
    with pytest.raises(MpsimError) as error:
        play(tasks)
    text = str(error.value)
    assert "2 of 3 tasks never start" in text
    assert "'x' waits for 'later'" in text
    assert "\n" not in text


def test_a_deadlock_of_many_streams_stays_short():
    n = 40
    tasks = [compute(f"t{i}", i, 1.0, (i + 1) % n) for i in range(n)]
    with pytest.raises(MpsimError, match=r"and 34 more streams$"):
        play(tasks)


def test_a_task_that_waits_for_itself():
    with pytest.raises(MpsimError, match=r"deadlock: 1 of 1 tasks never start.*'a' waits for 'a'"):
        play([compute("a", 0, 1.0, 0)])


@pytest.mark.parametrize("link", [-1, 9])
def test_a_link_that_is_not_there(link):
    with pytest.raises(MpsimError, match=f"traffic names link {link}, the topology has"):
        play([move("m", 0, links=(link,), count=1)])


@pytest.mark.parametrize("device", [-1, 5])
def test_a_device_that_is_not_there(device):
    program = Program(streams=(Stream(device=device, name="compute"),), tasks=(compute("a", 0, 1.0),))
    with pytest.raises(MpsimError, match=f"stream 'compute' is on device {device}, topology 'test' has 2"):
        replay(program, topology(1.0))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Task("a", "compute", ()), "task 'a' is on no stream"),
        (Task("a", "compute", (1,)), "task 'a' names stream 1, the program has 1"),
        (Task("a", "compute", (-1,)), "task 'a' names stream -1, the program has 1"),
        (Task("a", "compute", (0, 0)), "task 'a' names a stream twice"),
        (Task("a", "compute", (0,), (1,)), "task 'a' waits for task 1, the program has 1"),
        (Task("a", "compute", (0,), (), math.nan), "task 'a' lasts nan s"),
        (Task("a", "compute", (0,), (), math.inf), "task 'a' lasts inf s"),
        (Task("a", "compute", (0,), (), -1.0), "task 'a' lasts -1.0 s"),
    ],
)
def test_bad_tasks_are_refused(task, message):
    with pytest.raises(MpsimError, match=message):
        Program(streams=streams(1), tasks=(task,))


@pytest.mark.parametrize(
    "fields",
    [
        {"links": (0,), "bytes": ()},
        {"links": (0, 0), "bytes": (1.0, 1.0)},
        {"links": (0,), "bytes": (0.0,)},
        {"links": (0,), "bytes": (-1.0,)},
        {"links": (0,), "bytes": (math.nan,)},
        {"links": (0,), "bytes": (math.inf,)},
        {"latency_s": -1.0},
        {"latency_s": math.nan},
    ],
)
def test_bad_traffic_is_refused(fields):
    with pytest.raises(MpsimError, match="traffic"):
        Traffic(**fields)
