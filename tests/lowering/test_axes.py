"""Axes beyond dp, pp and tp by hand: who stands where, what is exchanged when and with whom, what is held."""

import pytest

from mpsim.errors import MpsimError
from mpsim.lowering.bind import scripts
from mpsim.lowering.instructions import Collective
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.simulation.run import simulate
from mpsim.topology.builders import fully_connected
from mpsim.topology.wire import Wire
from mpsim.workload.layers import Cost, Gradient, Layer, Parameter, Samples, Shard, ShardCollective
from mpsim.workload.model import Workload

FREE = Wire(float("inf"))
SLOW = Wire(64.0)  # 64 bytes a second, no latency


def call(kind, size, phase, when="behind", axis="cp"):
    return ShardCollective(kind=kind, bytes=size, phase=phase, axis=axis, when=when)


def shared(*calls, name="a", **given):
    """Make a layer of 1 s forward and 2 s backward, split as given, with these collectives."""
    return Layer.given(name, forward_s=1.0, backward_s=2.0, collectives=calls, **given)


def one_chain(*layers, count=0):
    return Workload.chain("w", list(layers), activation_bytes=count, sends="whole")


def collectives(work, plan, n=None):
    """Return rank → (kind, axis, group, bytes) of its collectives, in order."""
    lowering = lower(work, fully_connected(n or plan.ranks, link=FREE), plan)
    return [
        [(one.kind, one.axis, one.group, one.bytes) for one in script.steps if isinstance(one, Collective)]
        for script in scripts(lowering)
    ]


@pytest.mark.parametrize(
    ("when", "phase", "step_s"),
    [
        ("before", "forward", 4.0),
        ("beside", "forward", 3.0),
        ("behind", "forward", 4.0),
        ("before", "backward", 4.0),
        ("beside", "backward", 3.0),
        ("behind", "backward", 4.0),
    ],
)
def test_what_goes_on_beside_a_layer_is_hidden_by_it(when, phase, step_s):
    """Gathering 128 bytes of two ranks takes 1 s on 64 B/s: half of them go to each.

    ::

        before  g F B B     F waits for g
        beside  F B B       g while F computes
        behind  F g B B     B waits for g
    """
    work = one_chain(shared(call("all_gather", 128, phase, when), split="cp=2"))
    assert simulate(work, fully_connected(2, link=SLOW), Plan(cp=2)).step_s == step_s


def test_layers_are_cut_only_where_they_exchange():
    quiet = [Layer.given(name, forward_s=1.0, backward_s=2.0, split="cp=2") for name in "ab"]
    loud = shared(call("all_gather", 128, "forward", "before"), name="c", split="cp=2")
    work = one_chain(*quiet, loud)
    spans = simulate(work, fully_connected(2, link=SLOW), Plan(cp=2)).spans
    rows = zip(spans.kind, spans.devices, spans.start_s, spans.end_s, strict=True)
    assert [(kind, start, end) for kind, where, start, end in rows if 0 in where] == [
        ("forward", 0.0, 2.0),
        ("all_gather", 2.0, 3.0),
        ("forward", 3.0, 4.0),
        ("backward", 4.0, 10.0),
    ]


def test_ranks_of_a_grid_with_context():
    grid = Plan(dp=2, pp=2, cp=2, tp=2).grid
    assert grid.at(6) == {"dp": 0, "pp": 1, "cp": 1, "tp": 0}
    assert grid.group(6, "cp") == (4, 6)
    assert grid.group(6, "dp", "cp") == (4, 6, 12, 14)


def trained(size, *, expert=0, split=1):
    """Make a layer with one common parameter of `size` bytes and one of experts."""
    names = {"w": size, "e": expert}
    samples = Samples(forward_s=(1.0,), backward_input_s=(1.0,), backward_weight_s=(1.0,))
    axes = {"expert_parallel": split}
    shard = Shard(
        **axes,
        parameters=tuple(Parameter(name=n, shape=(c // 4,)) for n, c in names.items() if c),
        gradients=tuple(Gradient(parameter=n, bytes=c, expert=n == "e") for n, c in names.items() if c),
        optimizer_bytes=2 * (size + expert),
    )
    return Layer(name="a", shards=(shard,), costs=(Cost(microbatch=1, **axes, samples=samples),))


def test_gradients_are_reduced_among_replicas_and_ranks_of_a_sequence():
    layer = Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=64, split="cp=2")
    found = collectives(one_chain(layer), Plan(dp=2, cp=2))
    assert found == [[("all_reduce", "dp", (0, 1, 2, 3), 64)]] * 4


def test_experts_are_reduced_among_those_that_hold_the_same():
    found = collectives(one_chain(trained(64, expert=32, split=2)), Plan(dp=4, ep=2))
    common = ("all_reduce", "dp", (0, 1, 2, 3), 64)
    assert found == [[common, ("all_reduce", "dp", group, 32)] for group in ((0, 2), (1, 3), (0, 2), (1, 3))]


def test_experts_that_one_rank_holds_alone_are_not_reduced():
    found = collectives(one_chain(trained(64, expert=32, split=4)), Plan(dp=4, ep=4))
    assert found == [[("all_reduce", "dp", (0, 1, 2, 3), 64)]] * 4


def test_experts_share_tokens_with_those_who_follow_them():
    calls = [call("all_to_all", 128, "forward", "before", "ep"), call("all_to_all", 128, "forward", "behind", "ep")]
    found = collectives(one_chain(shared(*calls, split="ep=2")), Plan(dp=4, ep=2))
    groups = ((0, 1), (0, 1), (2, 3), (2, 3))
    assert found == [[("all_to_all", "ep", group, 128)] * 2 for group in groups]


@pytest.mark.parametrize(("zero", "optimizer"), [(0, 192), (1, 2 * 64 // 4 + 2 * 32 // 2)])
def test_what_experts_keep_is_sharded_among_those_that_hold_the_same(zero, optimizer):
    work = one_chain(trained(64, expert=32, split=2))
    lowering = lower(work, fully_connected(4, link=FREE), Plan(dp=4, ep=2, sharding=Sharding(zero=zero)))
    assert sum(lowering.stages[0].held["optimizer"].values()) == optimizer


def test_hybrid_sharding_scatters_within_and_reduces_across():
    layer = Layer.given("a", forward_s=1.0, backward_s=2.0, parameter_bytes=64)
    found = collectives(one_chain(layer), Plan(dp=4, sharding=Sharding(zero=1, shards=2)))
    for rank, (within, across) in enumerate([((0, 1), (0, 2)), ((0, 1), (1, 3)), ((2, 3), (0, 2)), ((2, 3), (1, 3))]):
        assert found[rank] == [
            ("reduce_scatter", "dp", within, 64),
            ("all_reduce", "dp", across, 32),
            ("all_gather", "dp", within, 64),
        ]


def test_one_rank_along_an_axis_is_none():
    layers = [Layer.given(n, forward_s=1.0, backward_s=2.0, parameter_bytes=64) for n in "ab"]
    topology = fully_connected(4, link=SLOW)
    plain = simulate(one_chain(*layers, count=64), topology, Plan(dp=2, pp=2, microbatches=2))
    same = simulate(one_chain(*layers, count=64), topology, Plan(dp=2, pp=2, cp=1, ep=1, microbatches=2))
    assert plain == same


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"dp": 4, "ep": 3}, r"ep=3 does not divide dp\(4\) × cp\(1\) = 4: the nearest that does is 2"),
        ({"dp": 4, "sharding": Sharding(zero=3, shards=3)}, "shards=3 does not divide"),
        ({"dp": 4, "ep": 2, "sharding": Sharding(zero=3, shards=2)}, "drop one"),
        ({"sharding": Sharding(sequence=True)}, "tp is 1: give it 2 or more"),
        ({"sharding": Sharding(zero=1)}, "dp is 1: give it 2 or more"),
        ({"cp": 0}, "cp is 0, expected 1 or more"),
    ],
)
def test_groups_that_cannot_be_are_refused(plan, says):
    with pytest.raises(MpsimError, match=says):
        Plan(**plan)


def test_a_split_that_was_never_traced_is_refused_with_the_way_to_trace_it():
    with pytest.raises(
        MpsimError, match=r"measured at tp=1, the plan needs tp=1 cp=2: trace again with --split tp=1,cp=2"
    ):
        collectives(one_chain(Layer.given("a", forward_s=1.0, backward_s=2.0)), Plan(cp=2))


def test_a_layer_that_nobody_shares_makes_no_collectives():
    with pytest.raises(MpsimError, match=r"no ranks share along cp \(tp=2\)"):
        shared(call("all_gather", 8, "forward"), split=2)
