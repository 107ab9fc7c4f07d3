"""Sequences shared by ranks, by hand: exchanges along tp and cp, gradients of parts, what crosses stages."""

import pytest

from mpsim.lowering.bind import scripts
from mpsim.lowering.instructions import Collective, Compute, Wait
from mpsim.lowering.lower import lower
from mpsim.lowering.passes import instructions_of
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.simulation.run import simulate
from mpsim.topology.builders import fully_connected
from mpsim.topology.wire import Wire
from mpsim.workload.layers import Cost, Gradient, Layer, Parameter, Samples, Shard, ShardCollective
from mpsim.workload.model import Workload
from mpsim.workload.split import Split, axes_of

SLOW = Wire(64.0)  # 64 bytes a second, no latency: of two ranks, 128 gathered or scattered bytes take 1 s
SHARED = Split(tp=2, sequence=True)
TOGETHER = Split(tp=2, cp=2, sequence=True)


def call(kind, size, phase, when, axis="tp"):
    return ShardCollective(kind=kind, bytes=size, phase=phase, axis=axis, when=when)


def block(name="a", split=SHARED, more=()):
    """Make a layer of 1 s forward and 2 s backward that gathers before and scatters behind, and in backward too."""
    calls = [
        call(kind, 128, phase, when)
        for phase in ("forward", "backward")
        for kind, when in (("all_gather", "before"), ("reduce_scatter", "behind"))
    ]
    return Layer.given(name, forward_s=1.0, backward_s=2.0, collectives=[*calls, *more], split=split)


def chain(*layers, count=0):
    return Workload.chain("w", list(layers), activation_bytes=count, sends="part")


def plan(**given):
    return Plan(**given, sharding=Sharding(sequence=True))


def timetable(work, plan, device=0, **given):
    """Return (kind, start, end) of what a device does, in order of time."""
    spans = simulate(work, fully_connected(plan.ranks, link=SLOW), plan).spans
    rows = zip(spans.kind, spans.devices, spans.start_s, spans.end_s, strict=True)
    return sorted(
        ((kind, start, end) for kind, where, start, end in rows if device in where), key=lambda row: (*row[1:], row[0])
    )


def test_a_sequence_is_gathered_before_and_scattered_behind():
    """Of two ranks each exchange of 128 bytes takes 1 s.

    ::

        0   1   2   3   4   5   6   7
        g   F   s   g   B   B   s
    """
    assert timetable(chain(block()), plan(tp=2)) == [
        ("all_gather", 0.0, 1.0),
        ("forward", 1.0, 2.0),
        ("reduce_scatter", 2.0, 3.0),
        ("all_gather", 3.0, 4.0),
        ("backward", 4.0, 6.0),
        ("reduce_scatter", 6.0, 7.0),
    ]


def test_a_ring_goes_on_beside_what_is_gathered_before():
    """Along cp keys go round beside the layer (64 bytes to the next in 1 s), along tp what it reads is gathered before.

    ::

        0    1    2    3    4    5    6    7    8
        tp   F    s    tp   B    B    s    r
             r              r                         the last move of the keys' gradients is behind the backward
    """
    ring = [
        call("send_receive", 64, "forward", "beside", "cp"),
        call("send_receive", 64, "backward", "beside", "cp"),
        call("send_receive", 64, "backward", "behind", "cp"),
    ]
    found = timetable(chain(block(split=TOGETHER, more=ring)), plan(tp=2, cp=2))
    assert found == [
        ("all_gather", 0.0, 1.0),
        ("forward", 1.0, 2.0),
        ("send_receive", 1.0, 2.0),
        ("reduce_scatter", 2.0, 3.0),
        ("all_gather", 3.0, 4.0),
        ("send_receive", 4.0, 5.0),
        ("backward", 4.0, 6.0),
        ("reduce_scatter", 6.0, 7.0),
        ("send_receive", 7.0, 8.0),
    ]


def test_tokens_for_heads_are_exchanged_before_and_behind():
    """All-to-all of 128 bytes of two ranks sends half of them: 1 s.

    ::

        0   1   2   3   4   5   6   7
        x   F   x   x   B   B   x
    """
    calls = [
        call("all_to_all", 128, phase, when, "cp") for phase in ("forward", "backward") for when in ("before", "behind")
    ]
    layer = Layer.given("a", forward_s=1.0, backward_s=2.0, collectives=calls, split="cp=2")
    assert timetable(chain(layer), Plan(cp=2)) == [
        ("all_to_all", 0.0, 1.0),
        ("forward", 1.0, 2.0),
        ("all_to_all", 2.0, 3.0),
        ("all_to_all", 3.0, 4.0),
        ("backward", 4.0, 6.0),
        ("all_to_all", 6.0, 7.0),
    ]


@pytest.mark.parametrize("recompute", ["", "full", "stages", "1"])
@pytest.mark.parametrize("schedule", ["dualpipe", "dualpipe-v"])
def test_two_in_a_cell_compute_once_their_own_exchanges_are_there(schedule, recompute):
    ring = [call("send_receive", 64, phase, "beside", "cp") for phase in ("forward", "backward")]
    work = chain(*(block(f"h.{i}", split=TOGETHER, more=ring) for i in range(4)))
    sharding = Sharding(sequence=True, recompute=recompute)
    both = Plan(pp=2, tp=2, cp=2, microbatches=4, schedule=schedule, sharding=sharding)
    for rank in range(2):
        posted, awaited = set(), set()
        for one in instructions_of(lower(work, fully_connected(8, link=SLOW), both), rank):
            if isinstance(one, Collective):
                posted.add(one.key)
            elif isinstance(one, Wait):
                assert {key for key in one.keys if isinstance(key, tuple)} <= posted
                awaited |= set(one.keys)
            elif isinstance(one, Compute) and one.pass_kind in "FRBI":
                layer = one.first if one.pass_kind in "FR" else one.last - 1
                of = ("shard", one.stage, one.pass_kind, one.microbatch, layer)
                assert (*of, "before", 0) in awaited
                assert (*of, "beside", 1) in posted


@pytest.mark.parametrize(
    ("split", "given", "sent"),
    [(SHARED, {"tp": 2}, 64), (Split(cp=2), {"cp": 2}, 64), (TOGETHER, {"tp": 2, "cp": 2}, 32)],
)
def test_what_crosses_stages_is_a_part_of_the_sequence(split, given, sent):
    """The activation has 128 bytes: each rank sends its part of them to the same rank of the next stage.

    ::

        stage 0   F · · · B B      a part of 64 bytes takes 1 s there and 1 s back, of 32 half of it
        stage 1   · · F B B ·
    """
    layers = [Layer.given(name, forward_s=1.0, backward_s=2.0, split=split) for name in "ab"]
    the_plan = Plan(pp=2, **given, sharding=Sharding(sequence=split.sequence))
    result = simulate(chain(*layers, count=128), fully_connected(the_plan.ranks, link=SLOW), the_plan)
    assert result.step_s == 6.0 + 2 * sent / 64
    lowering = lower(chain(*layers, count=128), fully_connected(the_plan.ranks, link=SLOW), the_plan)
    assert lowering.crossing_bytes(0, 1) == sent


def trained(name, norm, weight, split=SHARED):
    """Make a layer with a norm, of whose gradient each rank has a part, and weights that they share."""
    samples = Samples(forward_s=(1.0,), backward_input_s=(1.0,), backward_weight_s=(1.0,), optimizer_s=(1.0,))
    sizes = {f"{name}.norm": norm, f"{name}.weight": weight}
    shard = Shard(
        **axes_of(split),
        parameters=tuple(Parameter(name=of, shape=(count // 4,)) for of, count in sizes.items()),
        gradients=tuple(Gradient(parameter=of, bytes=n, partial=of.endswith("norm")) for of, n in sizes.items()),
    )
    return Layer(name=name, shards=(shard,), costs=(Cost(microbatch=1, **axes_of(split), samples=samples),))


def test_gradients_of_parts_are_summed_at_once_before_the_update():
    """The norms of both layers have 64 bytes together, whose all-reduce of two ranks takes 1 s; once a step.

    ::

        0   1   2   3   4   5   6   7   8   9   10   11  12  13  14  15
        F   F   B   B   B   B   F   F   B   B   B    B   n   U   U
    """
    work = chain(trained("a", 32, 64), trained("b", 32, 64))
    found = timetable(work, plan(tp=2, microbatches=2, batch=2))
    assert found[-2:] == [("all_reduce", 12.0, 13.0), ("optimizer", 13.0, 15.0)]
    assert [kind for kind, *_ in found].count("all_reduce") == 1


def test_replicas_reduce_gradients_of_parts_first():
    work = chain(trained("a", 32, 64))
    lowering = lower(work, fully_connected(4, link=SLOW), plan(dp=2, tp=2))
    first = [
        (one.axis, one.group, one.bytes, one.of.name)
        for one in scripts(lowering)[0].steps
        if isinstance(one, Collective)
    ]
    assert first == [("dp", (0, 2), 96, "bucket 0"), ("tp", (0, 1), 32, "parts of stage 0")]


def test_nothing_is_summed_where_no_sequence_is_shared():
    layer = trained("a", 32, 64, split=Split(tp=2))
    lowering = lower(chain(layer), fully_connected(2, link=SLOW), Plan(tp=2))
    assert not any(isinstance(one, Collective) for script in scripts(lowering) for one in script.steps)


def test_one_rank_of_a_context_is_none_to_the_bit():
    topology = fully_connected(4, link=SLOW)
    work = chain(block("a"), block("b"), count=128)
    without = simulate(work, topology, plan(tp=2, pp=2, microbatches=2, batch=2))
    same = simulate(work, topology, plan(tp=2, pp=2, cp=1, ep=1, microbatches=2, batch=2))
    assert without == same
