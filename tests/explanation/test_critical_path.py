"""Critical paths worked out by hand: who waits for whom, from the start of the step to its end."""

from dataclasses import replace

from cases import chained
from cases import layer as sharded
from hand_explained import FREE, SLOW, found, launched, path, path_of, work

from mpsim import Plan, parse_topology
from mpsim.program.model import Stream, Task, Traffic
from mpsim.topology.edit import replace_device

PAIR = parse_topology("chain:2,link=4B/s@0")


def test_one_device_does_one_thing_after_another():
    one = found(work((1.0, 2.0), optimizer_s=0.5), parse_topology(SLOW), Plan())
    assert path(one) == [
        ("0F0", "forward", "d0", 0.0, 1.0),
        ("0B0", "backward", "d0", 1.0, 3.0),
        ("update", "optimizer", "d0", 3.0, 3.5),
    ]
    assert [step.because for step in one.path] == ["the step begins", "0F0 on d0 was done", "0B0 on d0 was done"]


def test_a_pipeline_of_two_fills_and_empties():
    """
    d0  [F][F]               [B]   [B]    its second backward waits for the last stage, which runs without a break
    d1     [F   ][F   ][B   ][B   ]
    """
    one = found(work((1.0, 1.0), (2.0, 2.0)), parse_topology(FREE), Plan(pp=2, microbatches=2, schedule="gpipe"))
    assert path(one) == [
        ("0F0", "forward", "d0", 0.0, 1.0),
        ("1F0", "forward", "d1", 1.0, 3.0),
        ("1F1", "forward", "d1", 3.0, 5.0),
        ("1B0", "backward", "d1", 5.0, 7.0),
        ("1B1", "backward", "d1", 7.0, 9.0),
        ("0B1", "backward", "d0", 9.0, 10.0),
    ]


def test_messages_stand_between_stages():
    one = found(work((1.0, 2.0), (1.0, 2.0)), parse_topology(SLOW), Plan(pp=2, microbatches=2))
    assert path(one) == [
        ("0F0", "forward", "d0", 0.0, 1.0),
        ("0F0>1", "pp send", "d0 d1", 1.0, 1.5),
        ("1F0", "forward", "d1", 1.5, 2.5),
        ("1B0", "backward", "d1", 2.5, 4.5),
        ("1F1", "forward", "d1", 4.5, 5.5),
        ("1B1", "backward", "d1", 5.5, 7.5),
        ("1B1>0", "pp send", "d1 d0", 7.5, 8.0),
        ("0B1", "backward", "d0", 8.0, 10.0),
    ]
    assert [step.because for step in one.path][1:4] == [
        "0F0 on d0 was done",
        "pp send 0F0>1 was there",
        "1F0 on d1 was done",
    ]


def test_the_slow_stage_has_all_of_it_but_filling_and_emptying():
    """
    d0  [F0][F1]          [B0  ]                [B1  ]
    d1      [F0   ][B0      ][F1   ][B1      ]
    """
    one = found(work((1.0, 2.0), (2.0, 4.0)), parse_topology(FREE), Plan(pp=2, microbatches=2))
    assert [(step.name, step.devices) for step in one.path] == [
        ("0F0", ("d0",)), ("1F0", ("d1",)), ("1B0", ("d1",)), ("1F1", ("d1",)), ("1B1", ("d1",)), ("0B1", ("d0",)),
    ]  # fmt: skip


def test_the_slow_replica_holds_the_other_up():
    pair = replace_device(parse_topology(SLOW), "d1", speed=0.5)
    one = found(work((1.0, 2.0), parameter_bytes=1000), pair, Plan(dp=2))
    assert path(one) == [
        ("0F0", "forward", "d1", 0.0, 2.0),
        ("0B0", "backward", "d1", 2.0, 6.0),
        ("bucket 0", "dp all_reduce", "d0 d1", 6.0, 7.0),
    ]


def test_a_bucket_waits_for_the_one_before_it():
    """
    d0, d1  [F a, b][B b][B a]
    wire            .....[bucket 0][bucket 1]
    """
    plan = Plan(dp=2, first_bucket_bytes=1, bucket_bytes=1)
    one = found(work((1.0, 0.5), (1.0, 0.5), parameter_bytes=1000), parse_topology(SLOW), plan)
    assert [(name, start, end) for name, _, _, start, end in path(one)] == [
        ("0F0", 0.0, 2.0),
        ("0B0", 2.0, 2.5),
        ("bucket 0", 2.5, 3.5),
        ("bucket 1", 3.5, 4.5),
    ]
    assert one.path[-1].because == "dp all_reduce bucket 0 was out of its way"
    assert one.path[-1].link == "1 kB/s links"


def test_shards_wait_for_one_another_within_a_pass():
    shared = chained([sharded("a", exchanged=[("forward", "all_reduce", 1000)], tensor_parallel=[1, 2])], 8)
    one = found(shared, parse_topology("chain:2,link=1kB/s@250ms"), Plan(tp=2))
    assert [(name, what, start, end) for name, what, _, start, end in path(one)] == [
        ("0F0", "forward", 0.0, 1.0),
        ("0F0", "tp all_reduce", 1.0, 2.5),
        ("0B0", "backward", 2.5, 4.5),
    ]
    assert one.path[1].latency_s == 0.5


def test_a_host_that_is_slower_than_its_device_is_the_path():
    """
    host    [F   ][B           ]
    device        [.]          [..]
    """
    one = found(launched((2.0, 0.5)), parse_topology(SLOW), Plan())
    assert path(one) == [
        ("0F0", "launch", "d0", 0.0, 2.0),
        ("0B0", "launch", "d0", 2.0, 6.0),
        ("0B0", "backward", "d0", 6.0, 7.0),
    ]
    assert [step.because for step in one.path] == ["the step begins", "its host was busy", "it was launched"]


def test_a_device_that_is_slower_than_its_host_waits_for_the_first_launch():
    one = found(launched((0.5, 2.0)), parse_topology(SLOW), Plan())
    assert path(one) == [
        ("0F0", "launch", "d0", 0.0, 0.5),
        ("0F0", "forward", "d0", 0.5, 2.5),
        ("0B0", "backward", "d0", 2.5, 6.5),
    ]


def test_two_transfers_on_one_link_hold_each_other_up():
    """8 and 4 bytes over 4 B/s: both at half of it until the lesser one has gone at 2 s, the rest alone until 3 s."""
    streams = [Stream(device=0, name=name) for name in ("a", "b", "compute")]
    tasks = [
        Task("a", "send", (0,), traffic=Traffic(links=(0,), bytes=(8.0,)), axis="pp"),
        Task("b", "send", (1,), traffic=Traffic(links=(0,), bytes=(4.0,)), axis="pp"),
        Task("c", "forward", (2,), (0,), 1.0),
    ]
    sent, computed = path_of(streams, tasks, PAIR)
    assert (sent.name, sent.start_s, sent.end_s, sent.shared_s) == ("a", 0.0, 3.0, 1.0)
    assert (computed.name, computed.start_s, computed.end_s) == ("c", 3.0, 4.0)


def test_a_send_lets_its_sender_go_on_before_it_has_arrived():
    """Of 8 bytes over 4 B/s the sender is rid at 1 s, when 4 are left; what it computes then is the path."""
    streams = [Stream(device=0, name="to 1"), Stream(device=0, name="compute")]
    tasks = [
        Task("a", "send", (0,), traffic=Traffic(links=(0,), bytes=(8.0,), buffered_bytes=4.0), axis="pp"),
        Task("b", "forward", (1,), (), 3.0, after_buffered=(0,)),
    ]
    sent, computed = path_of(streams, tasks, PAIR)
    assert (sent.name, sent.start_s, sent.end_s) == ("a", 0.0, 1.0)
    assert (computed.start_s, computed.end_s, computed.because) == (1.0, 4.0, "pp send a had left its sender")


def test_whoever_stands_before_it_in_a_queue_lets_it_go():
    streams = [Stream(device=0, name="wire", slots=1), Stream(device=0, name="compute")]
    tasks = [
        Task("late", "send", (0,), (2,), traffic=Traffic(latency_s=1.0)),
        Task("early", "send", (0,), traffic=Traffic(latency_s=4.0)),
        Task("first", "forward", (1,), (), 2.0),
    ]
    assert [(one.name, one.start_s, one.end_s) for one in path_of(streams, tasks, PAIR)] == [
        ("early", 0.0, 4.0),
        ("late", 4.0, 5.0),
    ]


def test_a_rank_that_stands_for_all_has_the_path_of_each():
    many = parse_topology("switch:20,link=1kB/s@0")
    layers = work((1.0, 2.0), parameter_bytes=1000)
    folded, whole = (found(layers, many, Plan(dp=20), fold=fold) for fold in (True, False))
    assert [step.devices for step in folded.path] == [("d0 × 20",)] * 3
    assert [replace(step, devices=(), because="") for step in folded.path] == [
        replace(step, devices=(), because="") for step in whole.path
    ]
    assert folded.parts == whole.parts
