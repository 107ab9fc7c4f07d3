"""Plans under torch-gloo, worked by hand: who waits for which notice, and what that costs."""

from dataclasses import replace

import pytest
from cases import chained, layer

from mpsim.lowering.bind import scripts
from mpsim.lowering.instructions import Collective, Receive, Send
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.model import Device
from mpsim.topology.wire import Wire

TWO = chained([layer("a"), layer("b")], 1024)


def step_s(schedule, latency_s=0.0, runtime="torch-gloo"):
    topology = chain(2, link=Wire(1024.0, latency_s))
    return simulate(TWO, topology, Plan(pp=2, microbatches=2, schedule=schedule, runtime=runtime)).step_s


def test_gpipe_receives_only_when_it_is_ready():
    # stage 0  F0 F1 .. wait for F1 | B0 at 8  B1 at 11
    # stage 1  .. .. F0 <F1 3-4> F1 B0 B0 B1 B1
    assert step_s("gpipe", runtime="ideal") == 11.0
    assert step_s("gpipe") == 13.0


def test_every_notice_takes_a_latency():
    assert step_s("gpipe", 0.5) == 16.0


def test_1f1b_notice_waits_behind_the_gradient_in_its_stream():
    # The gradient of B0 goes at 5-6; the notice for F1 stands behind it, so that F1 goes at 6-7 and not at 5-6.
    assert step_s("1f1b") == 13.0
    assert step_s("1f1b", runtime="ideal") == 11.0


def test_a_send_buffer_lets_the_sender_go_on():
    # 0F1 moves from 6 to 7: the sender waits for its end, or until half of it or all of it is buffered.
    plan = Plan(pp=2, microbatches=2, schedule="1f1b", runtime="torch-gloo")
    for held, begins in ((0, 7.0), (512, 6.5), (4096, 6.0)):
        devices = tuple(Device(name=f"d{i}", send_buffer_bytes=held) for i in range(2))
        result = simulate(TWO, replace(chain(2, link=Wire(1024.0)), devices=devices), plan)
        start = dict(zip(result.spans.name, result.spans.start_s, strict=True))
        assert (start["0B0"], result.step_s) == (begins, 13.0)


def test_two_collectives_of_a_group_move_at_once():
    # Three ranks: 768 bytes put 1,024 on each link.
    layers = [layer(name, (0.0, 1.0, 0.0), parameters={name: 768}) for name in "abc"]
    topology = fully_connected(3, link=Wire(1024.0))
    plan = Plan(dp=3, bucket_bytes=1, first_bucket_bytes=1)
    # Buckets are ready at 1, 2 and 3, each takes 1 s alone: no two meet.
    assert simulate(chained(layers, 0), topology, plan).step_s == 4.0
    slow = fully_connected(3, link=Wire(256.0))
    one = simulate(chained(layers, 0), slow, plan)
    two = simulate(chained(layers, 0), slow, Plan(dp=3, bucket_bytes=1, first_bucket_bytes=1, runtime="torch-gloo"))
    assert one.step_s == two.step_s == 13.0
    # Each takes 4 s alone: the first two share from 2 on, the third begins when the first ends.
    ends = [end for kind, end in zip(two.spans.kind, two.spans.end_s, strict=True) if kind == "all_reduce"]
    assert sorted(ends) == [8.0, 10.0, 13.0]


@pytest.mark.parametrize("schedule", ["naive", "gpipe", "1f1b"])
@pytest.mark.parametrize(("dp", "pp", "tp"), [(1, 3, 1), (2, 2, 1), (1, 2, 2), (2, 2, 2), (2, 1, 2)])
def test_every_message_has_two_ends_and_every_collective_its_group(schedule, dp, pp, tp):
    layers = [
        layer(
            name, parameters={name: 64, "shared": 32}, exchanged=[("forward", "all_reduce", 8)], tensor_parallel=(1, 2)
        )
        for name in "abc"
    ]
    topology = fully_connected(dp * pp * tp, link=Wire(1024.0))
    plan = Plan(dp=dp, pp=pp, tp=tp, microbatches=4, schedule=schedule, runtime="torch-gloo")
    lowering = lower(chained(layers, 16), topology, plan)
    sent, received, joined = {}, {}, {}
    for script in scripts(lowering):
        for step in script.steps:
            match step:
                case Send():
                    assert step.key not in sent
                    sent[step.key] = (script.device, step.peer, step.bytes)
                case Receive():
                    assert step.key not in received
                    received[step.key] = (step.peer, script.device, step.bytes)
                case Collective():
                    assert script.device in step.group
                    joined.setdefault(step.key, []).append((script.device, step.group, step.bytes))
    assert sent == received
    for members in joined.values():
        assert sorted(device for device, _, _ in members) == sorted(members[0][1])
        assert len({(group, count) for _, group, count in members}) == 1
    # The same bytes as the ideal runtime sends, of each kind on each axis.
    found, ideal = (simulate(chained(layers, 16), topology, p).traffic for p in (plan, Plan(**_ideal(plan))))
    payload = [[(c.kind, c.axis, c.transfers, c.payload_bytes) for c in counts] for counts in (found, ideal)]
    assert payload[0] == payload[1]


def _ideal(plan):
    return {name: getattr(plan, name) for name in ("dp", "pp", "tp", "microbatches", "schedule")}
