"""Experts shared by ranks, by hand: who exchanges tokens with whom, who reduces which gradients, who holds what."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from cases import layer, on_axis, tensor
from folded_cases import clusters, compared
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cases import graphs

from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Drop, Hold
from mpsim.lowering.lower import lower
from mpsim.lowering.passes import instructions_of
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.simulation import simulate
from mpsim.topology.builders import fully_connected
from mpsim.topology.wire import Wire
from mpsim.workload.model import Cost, Gradient, Layer, Parameter, Samples, Shard, ShardCollective, Workload
from mpsim.workload.split import WHOLE, Split

FREE, SLOW = Wire(math.inf), Wire(512.0, 0.25)
EP = Split(ep=2)


def mixture(name, experts, *, router=0, splits=(EP,), exchanged=1024, optimizer_s=0.0, optimizer_bytes=0):
    """A layer of 1 s forward and 2 s backward, whose ranks send tokens before their experts and back behind them."""

    def held(split):
        return {f"{name}.experts": experts // split.ep} | ({f"{name}.router": router} if router else {})

    def shard(split):
        return Shard(
            context_parallel=split.cp,
            expert_parallel=split.ep,
            parameters=tuple(Parameter(name=of, shape=(n,), dtype="uint8") for of, n in held(split).items()),
            gradients=tuple(
                Gradient(parameter=of, bytes=n, expert=split.ep > 1 and of.endswith("experts"))
                for of, n in held(split).items()
            ),
            optimizer_bytes=optimizer_bytes // split.ep,
        )

    def cost(split):
        phases = ("forward", "forward", "backward", "backward") if split.ep > 1 and exchanged else ()
        return Cost(
            microbatch=1,
            context_parallel=split.cp,
            expert_parallel=split.ep,
            samples=Samples(
                forward_s=(1.0,), backward_input_s=(1.0,), backward_weight_s=(1.0,), optimizer_s=(optimizer_s,)
            ),
            collectives=tuple(
                ShardCollective(kind="all_to_all", bytes=exchanged, phase=phase, axis="ep") for phase in phases
            ),
        )

    every = (WHOLE, *splits)
    return Layer(name=name, shards=tuple(map(shard, every)), costs=tuple(map(cost, every)))


def dense(name, count, splits=(EP,), **of):
    """A layer that every rank has as it is."""
    (one,) = [layer(name, parameters={f"{name}.weight": count} if count else {}, **of)]
    fields = [{"context_parallel": split.cp, "expert_parallel": split.ep} for split in splits]
    return replace(
        one,
        shards=(*one.shards, *(replace(one.shards[0], **each) for each in fields)),
        costs=(*one.costs, *(replace(one.costs[0], **each) for each in fields)),
    )


def chained(*layers):
    tensors = [tensor(a.name, [b.name], 8) for a, b in pairwise(layers)]
    return Workload(name="mixture", layers=layers, tensors=tuple(tensors))


TWO = chained(dense("a", 1024), mixture("m", 2048))
EACH = {"bucket_bytes": 1, "first_bucket_bytes": 1}


def said(workload, plan):
    lowering = lower(workload, fully_connected(plan.ranks, link=FREE), plan)
    return " · ".join(str(one) for one in instructions_of(lowering, 0) if not isinstance(one, Hold | Drop))


def payload(workload, plan):
    result = simulate(workload, fully_connected(plan.ranks, link=SLOW), plan)
    return {(count.axis, count.kind): (count.transfers, count.payload_bytes) for count in result.traffic}


def test_tokens_go_to_their_experts_and_back_each_way():
    assert said(TWO, Plan(dp=2, ep=2)) == (
        "0F0[0:2] · all_to_all 0F0 · wait · all_to_all 0F0 · wait · 0B0[1:2] · all_to_all 0B0 · wait ·"
        " all_to_all 0B0 · wait · 0B0[0:1] · all_reduce bucket 0 · wait · update[0:2]"
    )


def test_the_step_by_hand():
    """Four replicas, of which two and two share experts; each link carries 512 bytes/s and takes 1/4 s.

    An all-to-all of 1,024 bytes over two: 1/4 + 512/512. Experts' 1,024 bytes between 0 and 2, which have the same:
    2/4 + 1024/512. Of a's 1,024 bytes over all four: 6/4 + 2 x 3/4 x 1024/512.

    t        0   1   2    3.25  4.5     6.5   7.75    9      11       15.5
    compute  Fa  Fm  .    .     Bm--Bm  .     .       Ba--Ba  |
    0-1, 2-3         a2a  a2a           a2a   a2a             |
    0-2, 1-3                            m's experts---|       |
    all                                                       a-------|
    """
    result = simulate(TWO, fully_connected(4, link=SLOW), Plan(dp=4, ep=2, **EACH))
    steps = [(2.0, 3.25), (3.25, 4.5), (6.5, 7.75), (7.75, 9.0)]
    found = on_axis(result, "ep")
    assert {where for _, where, *_ in found} == {(0, 1), (2, 3)}
    assert [tuple(row[2:]) for row in found if row[1] == (0, 1)] == steps
    assert on_axis(result, "dp") == [
        ("bucket 0", (0, 2), 6.5, 9.0),
        ("bucket 0", (1, 3), 6.5, 9.0),
        ("bucket 1", (0, 1, 2, 3), 11.0, 15.5),
    ]
    assert result.step_s == 15.5
    for device in result.devices:
        assert (device.compute_s, device.exposed_communication_s, device.idle_s) == (6.0, 9.5, 0.0)


def test_experts_of_which_there_is_one_each_are_not_reduced():
    assert payload(TWO, Plan(dp=2, ep=2)) == {
        ("dp", "all_reduce"): (1, 1024),
        ("ep", "all_to_all"): (4, 4 * 1024),
    }


def test_experts_alone_are_not_reduced_at_all():
    found = payload(chained(dense("a", 0), mixture("m", 2048)), Plan(dp=2, ep=2))
    assert found == {("ep", "all_to_all"): (4, 4 * 1024)}


def test_each_micro_batch_is_exchanged_and_the_last_reduced():
    found = payload(TWO, Plan(dp=4, ep=2, microbatches=4))
    # Two groups of experts, and the two of each that hold the same.
    assert found == {
        ("dp", "all_reduce"): (1 + 2, 1024 + 2 * 1024),
        ("ep", "all_to_all"): (2 * 4 * 4, 2 * 4 * 4 * 1024),
    }


def test_routers_are_reduced_by_all_and_fill_buckets_of_their_own():
    """A bucket takes no experts beside others, however large it may grow."""
    workload = chained(dense("a", 1024), mixture("m", 2048, router=512))
    result = simulate(workload, fully_connected(4, link=FREE), Plan(dp=4, ep=2))
    sizes = {(where, count) for axis, where, count in zip(
        result.spans.axis, result.spans.devices, result.spans.bytes, strict=True) if axis == "dp"}  # fmt: skip
    assert sizes == {((0, 2), 1024), ((1, 3), 1024), ((0, 1, 2, 3), 1024 + 512)}


@pytest.mark.parametrize("zero", [1, 2])
def test_what_is_sharded_among_those_that_hold_the_same(zero):
    workload = chained(dense("a", 1024), mixture("m", 4096))
    found = payload(workload, Plan(dp=4, ep=2, sharding=Sharding(zero=zero)))
    each = (1 + 2, 1024 + 2 * 2048)
    assert found == {
        ("dp", "reduce_scatter"): each,
        ("dp", "all_gather"): each,
        ("ep", "all_to_all"): (8, 8 * 1024),
    }


def test_what_a_rank_holds():
    """a has 1,024 bytes and m 4,096 of experts, of which a rank has half; the optimizer keeps twice as much."""
    workload = chained(dense("a", 1024, optimizer_bytes=2048), mixture("m", 4096, optimizer_bytes=8192))
    topology = fully_connected(4, link=FREE)

    def held(ep, **of):
        memory = simulate(workload, topology, Plan(dp=4, ep=ep, sharding=Sharding(**of))).devices[0].memory
        return memory.parameters_bytes, memory.optimizer_bytes, memory.gradients_bytes

    assert held(1) == (1024 + 4096, 2048 + 8192, 1024 + 4096)
    assert held(2) == (1024 + 2048, 2048 + 4096, 1024 + 2048)
    # By four what all have, by two what two have.
    assert held(2, zero=1) == (1024 + 2048, 2048 / 4 + 4096 / 2, 1024 + 2048)
    # One layer's are whole until they are scattered.
    assert held(2, zero=2) == (1024 + 2048, 2048 / 4 + 4096 / 2, 1024 / 4 + 2048 / 2 + 2048)


@pytest.mark.parametrize("zero", [2, 3])
def test_experts_of_one_rank_alone_stay_whole_whatever_is_sharded(zero):
    workload = chained(dense("a", 1024, optimizer_bytes=2048), mixture("m", 2048, optimizer_bytes=4096))
    plan = Plan(dp=2, ep=2, sharding=Sharding(zero=zero))
    memory = simulate(workload, fully_connected(2, link=FREE), plan).devices[0].memory
    assert memory.parameters_bytes == {2: 1024, 3: 512}[zero] + 1024
    assert memory.optimizer_bytes == 1024 + 2048
    # m's are made and kept; a's 1,024 are whole once, of which half is kept: in stage 3 once they are scattered.
    assert memory.gradients_bytes == 1024 + {2: 512, 3: 0}[zero] + 1024


def test_units_of_experts_by_hand():
    """What m's router and a have is gathered by all four, m's experts by the two that hold the same.

    Of 1,024 bytes by four 3/4 + 3/4 x 1024/512, of 512 3/4 + 3/4; of 2,048 by two 1/4 + 1024/512.

    t        0    2.25     3.75     6   7     9.5  11        13.25   15.25    17.5   20.25   22.5
    gathers  a---| m------|                   | m--|          a------|
    experts               | m------|               | m-------|
    compute      | Fa                 | Fm                    | Bm----|              | Ba--|
    0-1, 2-3                              | 2 a2a|                    | 2 a2a-------|
    """
    workload = chained(dense("a", 1024), mixture("m", 4096, router=512))
    plan = Plan(dp=4, ep=2, sharding=Sharding(zero=3))
    assert said(workload, plan) == (
        "all_gather unit a · wait · all_gather unit m · 0F0[0:1] · wait · all_gather unit m.experts · wait · 0F0[1:2] ·"
        " all_to_all 0F0 · wait · all_to_all 0F0 · wait · all_gather unit m · wait · all_gather unit m.experts · wait ·"
        " all_gather unit a · 0B0[1:2] · reduce_scatter unit m · reduce_scatter unit m.experts · all_to_all 0B0 ·"
        " wait · all_to_all 0B0 · wait · wait · 0B0[0:1] · reduce_scatter unit a · wait · update[0:2]"
    )
    result = simulate(workload, fully_connected(4, link=SLOW), plan)
    found = [(name, *times) for name, where, *times in on_axis(result, "dp") if 0 in where]
    assert found[:6] == [
        ("unit a", 0.0, 2.25), ("unit m", 2.25, 3.75), ("unit m.experts", 3.75, 6.0),
        ("unit m", 9.5, 11.0), ("unit m.experts", 11.0, 13.25), ("unit a", 13.25, 15.5),
    ]  # fmt: skip
    assert {where for name, where, *_ in on_axis(result, "dp") if "experts" in name} == {(0, 2), (1, 3)}


@pytest.mark.parametrize("runtime", ["ideal", "torch-gloo", "torch-nccl"])
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize(("dp", "ep"), [(2, 2), (4, 2), (4, 4), (8, 2), (8, 4)])
def test_groups_that_overlap_never_lock_each_other(dp, ep, zero, runtime):
    """Who reduces experts waits for fewer than who reduces all else, in whichever order links let them."""
    split = Split(ep=ep)
    layers = [mixture(name, 4096, router=512, splits=(split,)) for name in "mn"]
    workload = chained(dense("a", 1024, splits=(split,)), *layers, dense("z", 700, splits=(split,)))
    plan = Plan(dp=dp, pp=2, ep=ep, microbatches=3, runtime=runtime, sharding=Sharding(zero=zero), **EACH)
    devices = [replace(one, speed=1 + i % 3) for i, one in enumerate(fully_connected(2 * dp, link=SLOW).devices)]
    topology = replace(fully_connected(2 * dp, link=SLOW), devices=tuple(devices))
    assert simulate(workload, topology, plan).step_s > 0


def test_an_update_of_experts_is_shared_by_fewer():
    """8 s for 1,024 bytes of a's and 1,024 of m's experts: 4 s by four, 4 s by two."""
    workload = chained(dense("a", 1024, optimizer_s=4.0), mixture("m", 2048, optimizer_s=4.0))
    topology = fully_connected(4, link=FREE)
    assert simulate(workload, topology, Plan(dp=4, ep=2)).step_s == 6.0 + 8.0
    shared = simulate(workload, topology, Plan(dp=4, ep=2, sharding=Sharding(zero=1)))
    assert shared.step_s == 6.0 + 4.0 / 4 + 4.0 / 2
    assert shared.caveats[0] == "scaled: a replica's share of the update is taken as 1/2.667 of the whole one"


def test_ranks_that_share_a_sequence_may_share_experts():
    """Ranks of dp x cp that follow one another: with cp innermost those of one sequence come first."""
    split = Split(cp=2, ep=2)
    workload = chained(dense("a", 1024, splits=(split,)), mixture("m", 2048, splits=(split,)))
    result = simulate(workload, fully_connected(4, link=SLOW), Plan(dp=2, cp=2, ep=2, **EACH))
    assert {where for _, where, *_ in on_axis(result, "ep")} == {(0, 1), (2, 3)}
    assert on_axis(result, "dp") == [
        ("bucket 0", (0, 2), 6.5, 9.0),
        ("bucket 0", (1, 3), 6.5, 9.0),
        ("bucket 1", (0, 1, 2, 3), 11.0, 15.5),
    ]


def test_stages_have_experts_each():
    """Groups lie within a stage: ranks are numbered dp, pp, so that 0 and 2 share the experts of the first."""
    workload = chained(mixture("m", 2048), mixture("n", 2048))
    result = simulate(workload, fully_connected(4, link=SLOW), Plan(dp=2, pp=2, ep=2, microbatches=2))
    assert {where for _, where, *_ in on_axis(result, "ep")} == {(0, 2), (1, 3)}
    assert on_axis(result, "dp") == []


@pytest.mark.parametrize("runtime", ["ideal", "torch-gloo", "torch-nccl"])
@pytest.mark.parametrize("zero", [0, 1, 2])
def test_on_free_links_sharing_costs_what_one_rank_computes(runtime, zero):
    """Where a rank's shard takes as long as the whole, a step with experts shared is one without, to the bit."""
    workload = chained(dense("a", 1024, optimizer_s=0.5), mixture("m", 4096))
    plan = Plan(dp=4, pp=2, microbatches=4, runtime=runtime)
    topology = fully_connected(8, link=FREE)
    shared = replace(plan, ep=2, sharding=Sharding(zero=zero))
    plain = replace(plan, sharding=Sharding(zero=zero))
    assert simulate(workload, topology, shared).step_s == simulate(workload, topology, plain).step_s


@pytest.mark.parametrize("schedule", ["chimera", "dualpipe"])
def test_copies_of_stages_reduce_their_experts_too(schedule):
    workload = chained(*(mixture(name, 4096, router=512, exchanged=0) for name in "abcd"))
    for zero, common, own in ((0, 1, 1), (1, 4, 2)):
        plan = Plan(dp=4, pp=2, ep=2, microbatches=4, schedule=schedule, sharding=Sharding(zero=zero))
        found = payload(workload, plan)
        # Of each of two stages two layers, among the two ranks of each of four replicas.
        assert found["pp", "all_reduce"] == (8, 8 * (2 * 512 // common + 2 * 2048 // own))


def test_an_all_to_all_goes_straight_even_where_the_rest_goes_round():
    """Over four: 1/4 + 256/512 with each other at once; around a ring pieces would wait for one another six times."""
    split = Split(ep=4)
    workload = chained(mixture("m", 4096, splits=(split,)))
    result = simulate(workload, fully_connected(4, link=SLOW), Plan(dp=4, ep=4))
    assert [row[2:] for row in on_axis(result, "ep")][:2] == [(1.0, 1.75), (1.75, 2.5)]


def test_what_was_never_traced_is_refused():
    with pytest.raises(MpsimError, match=r"the plan needs tp=1 ep=4"):
        simulate(TWO, fully_connected(4, link=FREE), Plan(dp=4, ep=4))
    with pytest.raises(
        MpsimError, match=r"^plan: ep=3 does not divide dp\(4\) × cp\(1\) = 4: the nearest that does is"
    ):
        Plan(dp=4, ep=3)


@st.composite
def mixtures(draw):
    """A pipeline of mixtures and other layers, split in any way, on any graph of devices that are unlike."""
    ep, shares, cp, pp = (draw(st.sampled_from(of)) for of in ((2, 2, 4), (1, 2), (1, 2), (1, 2)))
    if ep * shares % cp or ep * shares * pp > 8:
        cp, shares, pp = 1, 1, 1
    split = Split(ep=ep, cp=cp)
    sizes = st.integers(1, 3000)
    layers = [
        mixture(f"m{i}", ep * draw(sizes), router=draw(sizes), splits=(split,), exchanged=draw(sizes))
        if draw(st.booleans())
        else dense(f"d{i}", draw(sizes), splits=(split,), optimizer_s=0.5)
        for i in range(draw(st.integers(pp, 4)))
    ]
    plan = Plan(
        dp=ep * shares // cp, cp=cp, ep=ep, pp=pp, microbatches=draw(st.integers(1, 3)),
        first_bucket_bytes=draw(st.sampled_from([1, 600, 2**20])), bucket_bytes=draw(st.sampled_from([1, 1000, 2**20])),
        sharding=Sharding(zero=draw(st.integers(0, 3))),
        runtime=draw(st.sampled_from(["ideal", "torch-gloo", "torch-nccl"])),
    )  # fmt: skip
    return chained(*layers), draw(graphs(plan.ranks)), plan


@settings(max_examples=60)
@given(mixtures())
def test_of_any_split_all_is_exchanged_and_nothing_locks(case):
    workload, topology, plan = case
    result = simulate(workload, topology, plan)
    sent = {(count.axis, count.kind): count.payload_bytes for count in result.traffic if count.payload_bytes}
    calls = [call for layer in workload.layers for cost in layer.costs for call in cost.collectives]
    groups = plan.replicas // plan.ep
    assert sent.get(("ep", "all_to_all"), 0) == groups * plan.microbatches * sum(call.bytes for call in calls)
    gradients = [one for layer in workload.layers for one in layer.shard(plan.split).gradients]
    reduced = sum(one.bytes * (plan.ep if one.expert else 1) for one in gradients if not one.expert or groups > 1)
    if plan.sharding.zero == 0:
        assert sent.get(("dp", "all_reduce"), 0) == reduced
    elif plan.sharding.zero == 1:
        assert sent.get(("dp", "reduce_scatter"), 0) == reduced
    for device in result.devices:
        assert device.compute_s + device.exposed_communication_s + device.idle_s == result.step_s
        # At some moment, which need not be that of the peak: what is gathered for a while may be more.
        assert max(max(one.bytes) for one in device.memory.by_holder if one.holder == "gradients") > 0
    assert 0 < result.free_step_s <= result.step_s


@settings(max_examples=15)
@given(st.data(), mixtures(), st.sampled_from(["ideal", "torch-nccl", "deepspeed"]))
def test_of_any_split_ranks_that_do_the_same_are_one(data, case, runtime):
    workload, _, plan = case
    compared(workload, data.draw(clusters(plan.ranks)), replace(plan, runtime=runtime))


@pytest.mark.parametrize(
    ("zero", "copied"), [(0, 256 + 64 + 32), (1, 256 + 32 + 16), (2, 256 + 32 + 16), (3, 256 + 32 + 16)]
)
def test_on_cuda_an_update_works_on_a_copy_of_what_it_updates(zero, copied):
    """Of two ranks each has 256 bytes of experts to itself, and half of what replicas share: a router and a layer."""
    work = chained(mixture("m", 512, router=64, optimizer_s=0.5), dense("d", 32, optimizer_s=0.5))
    work = replace(work, optimizer="adamw", clock="cuda-kernel", device="NVIDIA H200")
    plan = Plan(dp=2, ep=2, sharding=Sharding(zero=zero))
    found = simulate(work, fully_connected(2, link=FREE), plan).devices[0].memory
    of = {line.holder: max(line.bytes) for line in found.by_holder}
    assert of["transients"] == copied
