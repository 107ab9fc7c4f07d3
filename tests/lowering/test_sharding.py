"""ZeRO and FSDP: who gathers and scatters what, when, and what each rank holds meanwhile."""

import math
from dataclasses import replace

import pytest
from cases import chained, layer

from mpsim.errors import MpsimError
from mpsim.lowering.instructions import Drop, Hold
from mpsim.lowering.lower import lower
from mpsim.lowering.passes import instructions_of
from mpsim.plan.model import Plan, load_plan, save_plan
from mpsim.plan.sharding import Sharding
from mpsim.simulation import simulate
from mpsim.topology.builders import fully_connected
from mpsim.topology.wire import Wire

FREE, KILO = Wire(math.inf), Wire(1024.0)
FSDP = Plan(dp=2, sharding=Sharding(zero=3))


def work(n=3, bytes_=1024, **of):
    return chained([layer(f"layer{i}", parameters={f"w{i}": bytes_}, **of) for i in range(n)], 0)


def said(plan, workload=None):
    lowering = lower(workload or work(), fully_connected(plan.ranks, link=FREE), plan)
    return " · ".join(str(one) for one in instructions_of(lowering, 0) if not isinstance(one, Hold | Drop))


def test_each_layer_is_gathered_one_ahead_and_scattered_behind_its_backward():
    assert said(FSDP) == (
        "all_gather unit 0 · all_gather unit 1 · wait · 0F0[0:1] · all_gather unit 2 · wait · 0F0[1:2] ·"
        " all_gather unit 2 · wait · 0F0[2:3] · all_gather unit 1 · wait · 0B0[2:3] · reduce_scatter unit 2 ·"
        " all_gather unit 0 · wait · 0B0[1:2] · reduce_scatter unit 1 · wait · 0B0[0:1] · reduce_scatter unit 0 ·"
        " wait · update[0:3]"
    )


def test_the_step_by_hand():
    """Each gather and scatter moves 512 bytes each way, half a second alone.

    gathers   0-.5 g0 | .5-1 g1 | 1.5-2 g2 | 2.5-3 g2 | 3.5-4 g1 | 5.5-6.5 g0, beside s2
    compute   .5 F0 1.5 F1 2.5 F2 3.5 B2 5.5 B1 7.5 B0 9.5
    scatters                                          5.5-6.5 s2 | 7.5-8 s1 | 9.5-10 s0
    """
    assert simulate(work(), fully_connected(2, link=KILO), FSDP).step_s == 10.0
    late = replace(FSDP, sharding=Sharding(zero=3, gather_ahead=0))
    # No gather hides any more: six halves, two of them beside a scatter, which takes as long again.
    assert simulate(work(), fully_connected(2, link=KILO), late).step_s == 9.0 + 6 * 0.5 + 2 * 0.5 + 0.5


@pytest.mark.parametrize("runtime", ["ideal", "torch-gloo", "torch-nccl"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_on_free_links_they_are_plain_replicas(zero, runtime):
    plain = Plan(dp=2, pp=2, microbatches=4, runtime=runtime)
    topology = fully_connected(4, link=FREE)
    sharded = replace(plain, sharding=Sharding(zero=zero))
    assert simulate(work(4), topology, sharded).step_s == simulate(work(4), topology, plain).step_s


def test_traffic_is_that_of_each():
    topology = fully_connected(4, link=KILO)

    def traffic(**of):
        result = simulate(work(4), topology, Plan(dp=4, microbatches=2, sharding=Sharding(**of)))
        return {count.kind: count.payload_bytes for count in result.traffic}

    whole = 4 * 1024
    assert traffic() == {"all_reduce": whole}
    assert traffic(zero=1) == {"reduce_scatter": whole, "all_gather": whole}
    # What is sharded cannot be added to whole: each micro-batch's gradients are scattered.
    assert traffic(zero=2) == {"reduce_scatter": 2 * whole, "all_gather": whole}
    assert traffic(zero=3) == {"all_gather": 2 * 2 * whole, "reduce_scatter": 2 * whole}
    assert traffic(zero=3, keep_gathered=True) == {"all_gather": whole, "reduce_scatter": 2 * whole}


def test_what_a_rank_holds_of_each():
    """Four layers of 1,024 bytes, and twice as much of the optimizer's, on four replicas."""
    workload = work(4, optimizer_bytes=2048)
    topology = fully_connected(4, link=FREE)

    def held(**of):
        memory = simulate(workload, topology, Plan(dp=4, sharding=Sharding(**of))).devices[0].memory
        return memory.parameters_bytes, memory.optimizer_bytes, memory.gradients_bytes, memory.gathered_bytes

    assert held() == (4096, 8192, 4096, 0)
    assert held(zero=1) == (4096, 2048, 4096, 0)
    # A layer's gradient is whole until it is scattered.
    assert held(zero=2) == (4096, 2048, 1024 + 1024, 0)
    assert held(zero=3) == (1024, 2048, 1024 + 1024, 2048)
    assert held(zero=3, gather_ahead=0) == (1024, 2048, 1024 + 1024, 1024)


def test_an_update_takes_its_share_and_the_result_says_so():
    workload = work(1, optimizer_s=4.0)
    topology = fully_connected(4, link=FREE)
    assert simulate(workload, topology, Plan(dp=4)).step_s == 3.0 + 4.0
    shared = simulate(workload, topology, Plan(dp=4, sharding=Sharding(zero=1)))
    assert shared.step_s == 3.0 + 1.0
    assert shared.caveats[0] == "scaled: a replica's share of the update is taken as 1/4 of the whole one"


@pytest.mark.parametrize("schedule", ["chimera", "dualpipe"])
def test_copies_of_stages_are_reduced_once_whatever_is_sharded(schedule):
    """Two copies of each of two stages, on two replicas: four reductions, of halves where replicas hold halves."""
    for zero, payload in ((0, 4 * 2048), (1, 4 * 1024), (2, 4 * 1024), (3, 4 * 1024)):
        plan = Plan(dp=2, pp=2, microbatches=4, schedule=schedule, sharding=Sharding(zero=zero))
        counts = simulate(work(4), fully_connected(4, link=KILO), plan).traffic
        (reduced,) = [count for count in counts if count.axis == "pp" and count.kind == "all_reduce"]
        assert (reduced.transfers, reduced.payload_bytes) == (4, payload)


def test_a_layer_that_uses_anothers_parameters_gathers_them_too():
    layers = [layer(name, parameters={"tied": 1024} if name in "ac" else {name: 8}) for name in "abc"]
    result = simulate(chained(layers, 0), fully_connected(2, link=FREE), FSDP)
    (gathered,) = [count for count in result.traffic if count.kind == "all_gather"]
    (scattered,) = [count for count in result.traffic if count.kind == "reduce_scatter"]
    assert (gathered.payload_bytes, scattered.payload_bytes) == (2 * (1024 + 8 + 1024), 1024 + 8)


def test_what_is_gathered_behind_an_update_is_parameters():
    """Parameters of two bytes a number, gradients of four."""
    one = layer("a", parameters={"w": 512})
    (shard,) = one.shards
    wide = replace(one, shards=(replace(shard, gradients=(replace(shard.gradients[0], bytes=1024),)),))
    result = simulate(chained([wide], 0), fully_connected(2, link=FREE), Plan(dp=2, sharding=Sharding(zero=1)))
    assert {count.kind: count.payload_bytes for count in result.traffic} == {"reduce_scatter": 1024, "all_gather": 512}


def test_the_cut_knows_that_the_update_is_shared():
    seconds = (0.5, 0.25, 0.25)
    layers = [layer(f"l{i}", seconds, parameters={f"w{i}": 1}, optimizer_s=8.0 * (i == 0)) for i in range(4)]
    workload = chained(layers, [60, 100, 60, 0])
    plan = Plan(dp=2, pp=2, sharding=Sharding(zero=1))
    topology = fully_connected(4, link=Wire(100.0))
    steps = [simulate(workload, topology, replace(plan, boundaries=(at,))).step_s for at in (1, 2, 3)]
    assert simulate(workload, topology, plan).step_s == min(steps)


def test_what_cannot_be():
    with pytest.raises(MpsimError, match="pipedream updates amid the step: use another schedule, or whole replicas"):
        simulate(work(), fully_connected(4, link=FREE), replace(FSDP, pp=2, microbatches=2, schedule="pipedream"))
    with pytest.raises(MpsimError, match=r"^plan: zero=3 shards over replicas, dp is 1: give it 2 or more$"):
        Plan(sharding=Sharding(zero=3))
    with pytest.raises(MpsimError, match=r"^zero is 4: 0 shards nothing"):
        Sharding(zero=4)
    with pytest.raises(MpsimError, match=r"^zero is 1: nothing is gathered"):
        Sharding(zero=1, gather_ahead=2)


def test_a_file_keeps_it(tmp_path):
    save_plan(tmp_path / "plan.json", FSDP)
    assert load_plan(tmp_path / "plan.json") == FSDP
    assert FSDP.text == "dp=2 pp=1 tp=1 micro-batches=1 zero=3"
