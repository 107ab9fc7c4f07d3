"""Pipelines worked by hand: every start and end, on durations that floats hold exactly."""

import pytest
from cases import chained, layer, tensor, timetable

from mpsim.plan.model import Plan
from mpsim.plan.schedules import parse_rows
from mpsim.simulation import simulate
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.model import Device, Link, Topology
from mpsim.topology.wire import Wire
from mpsim.workload.model import Workload

FREE = Wire(float("inf"))
# 512 bytes take 1/2 s of latency and 1/2 s of bandwidth.
ONE_SECOND = Wire(1024.0, 0.5)


def test_gpipe_with_messages():
    """
    t        0   1   2   3   4   5   6   7   8   9   10  11
    stage 0  F0  F1  .   .   .   .   .   B0  B0  B1  B1
    link 0>1     F0  F1
    stage 1          F0  F1  B0  B0  B1  B1
    link 1>0                         B0      B1
    """
    work = chained([layer("a"), layer("b")], 512)
    result = simulate(work, chain(2, link=ONE_SECOND), Plan(pp=2, microbatches=2, schedule="gpipe"))
    assert timetable(result) == {
        "0F0": (0.0, 1.0),
        "0F1": (1.0, 2.0),
        "0F0>1": (1.0, 2.0),
        "0F1>1": (2.0, 3.0),
        "1F0": (2.0, 3.0),
        "1F1": (3.0, 4.0),
        "1B0": (4.0, 6.0),
        "1B1": (6.0, 8.0),
        "1B0>0": (6.0, 7.0),
        "1B1>0": (8.0, 9.0),
        "0B0": (7.0, 9.0),
        "0B1": (9.0, 11.0),
    }
    first, second = result.devices
    # Stage 0 computes for 6 s. It sends from 1 to 3, of which 1 to 2 is covered, and receives from 6 to 7 and 8 to 9,
    # of which the latter is covered.
    assert (first.compute_s, first.exposed_communication_s, first.idle_s) == (6.0, 2.0, 3.0)
    # Stage 1 is reached from 1 to 2, and idles before that and after its last message.
    assert (second.compute_s, second.exposed_communication_s, second.idle_s) == (6.0, 2.0, 3.0)
    assert (first.bubble_s, second.bubble_s) == (3.0, 3.0)
    assert (result.step_s, result.free_step_s, result.communication_overhead_s) == (11.0, 9.0, 2.0)
    assert result.speedup == 12.0 / 11.0


def test_1f1b_on_free_links():
    """
    t        0  1  2  3  4  5  6  7  8  9  10 11 12 13 14 15 16 17 18
    stage 0  F0 F1 F2 .  .  .  .  B0 B0 F3 B1 B1 .  B2 B2 .  B3 B3
    stage 1  .  F0 F1 .  .  B0 B0 F2 B1 B1 F3 B2 B2 .  B3 B3 .  .
    stage 2  .  .  F0 B0 B0 F1 B1 B1 F2 B2 B2 F3 B3 B3 .  .  .  .
    """
    work = chained([layer("a"), layer("b"), layer("c")], 8)
    result = simulate(work, chain(3, link=FREE), Plan(pp=3, microbatches=4))
    computed = {name: span for name, span in timetable(result).items() if ">" not in name}
    starts = {
        0: {"F0": 0, "F1": 1, "F2": 2, "B0": 7, "F3": 9, "B1": 10, "B2": 13, "B3": 16},
        1: {"F0": 1, "F1": 2, "B0": 5, "F2": 7, "B1": 8, "F3": 10, "B2": 11, "B3": 14},
        2: {"F0": 2, "B0": 3, "F1": 5, "B1": 6, "F2": 8, "B2": 9, "F3": 11, "B3": 12},
    }
    assert computed == {
        f"{stage}{name}": (float(at), float(at + (1 if name[0] == "F" else 2)))
        for stage, row in starts.items()
        for name, at in row.items()
    }
    assert result.step_s == 18.0
    assert [device.idle_s for device in result.devices] == [6.0, 6.0, 6.0]
    assert [device.bubble_s for device in result.devices] == [6.0, 6.0, 6.0]


def test_naive_model_parallel_never_overlaps():
    """
    t        0  1  2  3  4  5  6  7  8  9  10 11 12 13 14 15
    stage 0  F0 .  .  .  .  .  B0 B0 F1 .  .  .  .  .  B1 B1
    stage 1  .  .  F0 B0 B0 .  .  .  .  .  F1 B1 B1 .  .  .
    """
    work = chained([layer("a"), layer("b")], 512)
    result = simulate(work, chain(2, link=ONE_SECOND), Plan(pp=2, microbatches=2, schedule="naive"))
    found = timetable(result)
    assert {name: found[name] for name in ("1F0", "0B0", "0F1", "1F1", "0B1")} == {
        "1F0": (2.0, 3.0),
        "0B0": (6.0, 8.0),
        "0F1": (8.0, 9.0),
        "1F1": (10.0, 11.0),
        "0B1": (14.0, 16.0),
    }
    assert result.step_s == 16.0
    assert simulate(work, chain(2, link=ONE_SECOND), Plan(pp=2)).step_s == 8.0


def test_uneven_stages_wait_for_the_slowest():
    """Stage 1 takes 2 + 4: it computes without a pause from 1 to 13, then stage 0 ends the last backward.

    t        0  1  2  3  4  5  6  7  8  9  10 11 12 13 14 15
    stage 0  F0 F1 .  .  .  .  .  .  .  B0 B0 .  .  B1 B1
    stage 1  .  F0 F0 F1 F1 B0 B0 B0 B0 B1 B1 B1 B1
    """
    work = chained([layer("a"), layer("b"), layer("c")], 8)
    plan = Plan(pp=2, microbatches=2, schedule="gpipe", boundaries=(1,))
    found = timetable(simulate(work, chain(2, link=FREE), plan))
    assert found["1F1"] == (3.0, 5.0)
    assert found["1B0"] == (5.0, 9.0)
    assert found["0B0"] == (9.0, 11.0)
    assert found["0B1"] == (13.0, 15.0)


def test_unlike_speeds_and_unlike_links():
    """Stage 1 works at double speed; forward messages take 1 s, backward ones (32 B/s) 2 s.

    t        0  1  2  3  4  5  6  7
    stage 0  F0 .  .  .  .  .  B0 B0       forward 1 s, backward 2 s
    stage 1  .  .  F  B  .  .  .  .        half a second, one second
    """
    topology = Topology(
        name="unlike",
        devices=(Device(name="slow"), Device(name="fast", speed=2.0)),
        links=(
            Link(source="slow", target="fast", bandwidth_bytes_per_s=64.0),
            Link(source="fast", target="slow", bandwidth_bytes_per_s=32.0),
        ),
    )
    result = simulate(chained([layer("a"), layer("b")], 64), topology, Plan(pp=2))
    assert timetable(result) == {
        "0F0": (0.0, 1.0),
        "0F0>1": (1.0, 2.0),
        "1F0": (2.0, 2.5),
        "1B0": (2.5, 3.5),
        "1B0>0": (3.5, 5.5),
        "0B0": (5.5, 7.5),
    }
    assert result.fidelity == "given"
    # On the fast device alone: (3 + 3) / 2.
    assert result.baseline_step_s == 3.0


def test_slow_messages_queue_for_their_link():
    """A message takes 2 s, a forward 1 s: micro-batch k arrives at 1 + 2 (k + 1)."""
    work = chained([layer("a"), layer("b")], 1024)
    result = simulate(work, chain(2, link=Wire(512.0)), Plan(pp=2, microbatches=3, schedule="gpipe"))
    found = timetable(result)
    assert [found[f"0F{k}>1"] for k in range(3)] == [(1.0, 3.0), (3.0, 5.0), (5.0, 7.0)]
    assert [found[f"1F{k}"] for k in range(3)] == [(3.0, 4.0), (5.0, 6.0), (7.0, 8.0)]


SKIPS = Workload(
    name="skips",
    layers=tuple(layer(name) for name in "abcd"),
    tensors=(
        tensor("", ["a", "d"], 4096, name="input", role="input"),
        tensor("a", ["b", "d"], 256),
        tensor("b", ["c", "d"], 128),
        tensor("c", ["d"], 64, needs_gradient=False),
        tensor("d", [], 32, role="output"),
    ),
)


def test_a_skip_crosses_every_cut_on_its_way_and_once():
    result = simulate(SKIPS, chain(4, link=Wire(1024.0)), Plan(pp=4, microbatches=2))
    spans = result.spans
    sent = {
        name: count
        for name, count in zip(spans.name, spans.bytes, strict=True)
        if name.endswith(("0>1", "0>2", "0>3", "0>0"))
    }
    assert sent == {
        "0F0>1": 256,
        "1F0>2": 256 + 128,
        "2F0>3": 256 + 128 + 64,
        "3B0>2": 256 + 128,
        "2B0>1": 256 + 128,
        "1B0>0": 256,
    }
    (count,) = result.traffic
    total = 2 * (256 + 384 + 448 + 384 + 384 + 256)
    assert (count.kind, count.axis, count.transfers, count.payload_bytes, count.link_bytes) == (
        "send",
        "pp",
        12,
        total,
        total,
    )


def test_two_readers_behind_one_cut_share_one_message():
    result = simulate(SKIPS, chain(2, link=Wire(1024.0)), Plan(pp=2, boundaries=(2,)))
    spans = result.spans
    sent = {name: count for name, count in zip(spans.name, spans.bytes, strict=True) if ">" in name}
    assert sent == {"0F0>1": 384, "1B0>0": 384}


def test_no_bytes_still_take_the_latency():
    work = chained([layer("a"), layer("b")], 0)
    found = timetable(simulate(work, chain(2, link=Wire(1024.0, 0.25)), Plan(pp=2)))
    assert found["0F0>1"] == (1.0, 1.25)
    assert found["1B0>0"] == (4.25, 4.5)


SPLIT = "0F0 0F1 0I0 0W0 0I1 0W1\n1F0 1I0 1F1 1I1 1W0 1W1"


def split_backward(stages, microbatches):
    assert (stages, microbatches) == (2, 2)
    return parse_rows(SPLIT)


def test_a_split_backward_from_a_users_function():
    """The gradient goes on after I; W fills the bubble.

    t        0  1  2  3  4  5  6  7
    stage 0  F0 F1 .  I0 W0 I1 W1          1F1B: 9
    stage 1  .  F0 I0 F1 I1 W0 W1
    """
    work = chained([layer("a", saved_bytes=100), layer("b", saved_bytes=100)], 8)
    plan = Plan(pp=2, microbatches=2, schedule=split_backward)
    result = simulate(work, chain(2, link=FREE), plan)
    found = timetable(result)
    assert {name: start for name, (start, _) in found.items() if ">" not in name} == {
        "0F0": 0.0, "0F1": 1.0, "0I0": 3.0, "0W0": 4.0, "0I1": 5.0, "0W1": 6.0,
        "1F0": 1.0, "1I0": 2.0, "1F1": 3.0, "1I1": 4.0, "1W0": 5.0, "1W1": 6.0,
    }  # fmt: skip
    # What I makes is the gradient that B would have sent.
    assert {name: span for name, span in found.items() if name.endswith(">0")} == {
        "1B0>0": (3.0, 3.0),
        "1B1>0": (5.0, 5.0),
    }
    assert result.step_s == 7.0
    assert "split_backward" in result.plan
    # Activations are held until W: on stage 1 both are, with what it received (8 bytes each).
    assert result.devices[1].memory.activations_bytes == 2 * (100 + 8)
    assert simulate(work, chain(2, link=FREE), Plan(pp=2, microbatches=2)).step_s == 9.0


def test_blocking_sends_hold_the_sender():
    """
    t        0  1  2  3  4  5  6  7  8  9  10 11 12
    stage 0  F0 >> F1 >> .  .  B0 B0 .  .  B1 B1
    stage 1  .  .  F0 B0 B0 >> F1 B1 B1 >>
    """
    work = chained([layer("a"), layer("b")], 512)
    result = simulate(work, chain(2, link=ONE_SECOND), Plan(pp=2, microbatches=2, runtime="blocking"))
    assert timetable(result) == {
        "0F0": (0.0, 1.0),
        "0F0>1": (1.0, 2.0),
        "0F1": (2.0, 3.0),
        "0F1>1": (3.0, 4.0),
        "1F0": (2.0, 3.0),
        "1B0": (3.0, 5.0),
        "1B0>0": (5.0, 6.0),
        "1F1": (6.0, 7.0),
        "1B1": (7.0, 9.0),
        "1B1>0": (9.0, 10.0),
        "0B0": (6.0, 8.0),
        "0B1": (10.0, 12.0),
    }
    assert result.runtime == "blocking"
    assert result.devices[0].compute_s == 6.0


def test_stages_may_stand_on_any_device():
    """Stages on devices 2 and 0 of a chain: every message crosses two links."""
    work = chained([layer("a"), layer("b")], 512)
    result = simulate(work, chain(3, link=ONE_SECOND), Plan(pp=2, devices=(2, 0)))
    assert timetable(result)["0F0>1"] == (1.0, 2.5)
    assert [device.name for device in result.devices] == ["d0", "d2"]
    assert result.traffic[0].link_bytes == 2 * 2 * 512
    # Device 2, the second of the result, runs stage 0.
    assert [result.spans.stage[i] for i, where in enumerate(result.spans.devices) if where == (1,)] == [0, 0]


@pytest.mark.parametrize("schedule", ["naive", "gpipe", "1f1b"])
def test_one_stage_is_just_the_sum(schedule):
    work = chained([layer("a"), layer("b")], 512)
    result = simulate(work, fully_connected(2, link=ONE_SECOND), Plan(microbatches=4, schedule=schedule))
    assert result.step_s == 24.0
    assert result.traffic == ()
    assert result.speedup == 1.0
