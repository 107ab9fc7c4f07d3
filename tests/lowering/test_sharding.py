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
from mpsim.plan.schedule_file import rows_schedule
from mpsim.plan.schedules import Operation
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


def test_each_unit_is_gathered_one_ahead_and_scattered_behind_its_backward():
    assert said(FSDP) == (
        "all_gather unit layer0 · wait · all_gather unit layer1 · 0F0[0:1] · wait · all_gather unit layer2 · 0F0[1:2] ·"
        " wait · 0F0[2:3] · all_gather unit layer2 · wait · all_gather unit layer1 · 0B0[2:3] ·"
        " reduce_scatter unit layer2 · wait · all_gather unit layer0 · 0B0[1:2] · reduce_scatter unit layer1 · wait ·"
        " 0B0[0:1] · reduce_scatter unit layer0 · wait · update[0:3]"
    )


def test_the_step_by_hand():
    """Each gather and scatter moves 512 bytes each way, half a second alone.

    gathers   0-.5 g0 | .5-1 g1 | 1.5-2 g2 | 3.5-4 g2 | 4-4.5 g1 | 6-7 g0, beside s2
    compute   .5 F0 1.5 F1 2.5 F2 3.5 . 4 B2 6 B1 8 B0 10
    scatters                                 6-7 s2 | 8-8.5 s1 | 10-10.5 s0
    """
    assert simulate(work(), fully_connected(2, link=KILO), FSDP).step_s == 10.5
    late = replace(FSDP, sharding=Sharding(zero=3, gather_ahead=0))
    # No gather hides any more: six halves, two of them beside a scatter, which takes as long again.
    assert simulate(work(), fully_connected(2, link=KILO), late).step_s == 9.0 + 6 * 0.5 + 2 * 0.5 + 0.5


def rooted():
    """Return two blocks between an embedding and a head."""
    names = ("embed", "blocks.0", "blocks.1", "head")
    return chained([layer(name, parameters={f"{name}.w": 1024}) for name in names], 0)


def test_a_root_unit_is_kept_from_forward_to_backward():
    """Embedding and head are one unit of 2,048 bytes, a second alone; 0 and 1 are the blocks'.

    gathers   0-1 gr | 1-1.5 g0 | 2-2.5 g1 | 5-5.5 g1 | 7-7.5 g0
    compute   1 F 2 F0 3 F1 4 F 5 B 7 B1 9 B0 11 B 13
    scatters                               9-9.5 s1 | 11-11.5 s0 | 13-14 sr
    """
    assert simulate(rooted(), fully_connected(2, link=KILO), FSDP).step_s == 14.0
    # Gathered again for the backward: 5-6 gr, of which nothing hides.
    again = replace(FSDP, sharding=Sharding(zero=3, reshard_after_forward="all"))
    assert simulate(rooted(), fully_connected(2, link=KILO), again).step_s == 15.0
    # Each layer by itself: its gather hides behind the layer before, and the embedding's scatter is half as long.
    apart = replace(FSDP, sharding=Sharding(zero=3, units="layers"))
    assert simulate(rooted(), fully_connected(2, link=KILO), apart).step_s == 0.5 + 4 + 0.5 + 8 + 0.5


def test_gradients_of_two_microbatches_are_reduced_once_where_they_accumulate():
    """One layer of 1,024 bytes: g 0-.5, F 1.5, g 2, B 4, s 4.5; or, accumulated, the first without its s."""
    plan = replace(FSDP, microbatches=2)
    topology = fully_connected(2, link=KILO)
    assert simulate(work(1), topology, plan).step_s == 9.0
    once = replace(plan, sharding=Sharding(zero=3, accumulate=True))
    assert simulate(work(1), topology, once).step_s == 8.5
    kept = replace(plan, sharding=Sharding(zero=3, accumulate=True, keep_gathered=True))
    assert simulate(work(1), topology, kept).step_s == 0.5 + 3 + 3 + 0.5


def test_narrow_types_halve_what_is_sent():
    """As before, with parameters and gradients of one byte a number sent as two, and reduced as four."""
    topology = fully_connected(2, link=KILO)
    traffic = {
        (count.kind, count.payload_bytes)
        for count in simulate(
            work(1), topology, replace(FSDP, sharding=Sharding(zero=3, gather_dtype="bfloat16", reduce_dtype="float32"))
        ).traffic
    }
    assert traffic == {("all_gather", 2 * 2048), ("reduce_scatter", 4096)}


@pytest.mark.parametrize("runtime", ["ideal", "torch-gloo", "torch-nccl"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_on_free_links_they_are_plain_replicas(zero, runtime):
    plain = Plan(dp=2, pp=2, microbatches=4, runtime=runtime)
    topology = fully_connected(4, link=FREE)
    sharded = replace(plain, sharding=Sharding(zero=zero))
    assert simulate(work(4), topology, sharded).step_s == simulate(work(4), topology, plain).step_s


@pytest.mark.parametrize("runtime", ["ideal", "torch-gloo"])
@pytest.mark.parametrize(
    "of",
    [
        {"gather_ahead": 0},
        {"gather_ahead": 3, "reshard_after_forward": "all"},
        {"reshard_after_forward": "none", "accumulate": True},
        {"keep_gathered": True, "units": "layers"},
        {"units": "model", "gather_dtype": "bfloat16"},
        {"units": "blocks.1,embed", "reduce_dtype": "float64"},
    ],
)
def test_on_free_links_every_setting_of_fsdp_is_plain_replicas(of, runtime):
    """To the bit, for one micro-batch and for three, and where hosts' posts take no time."""
    topology = fully_connected(4, link=FREE)
    for plain in (Plan(dp=4, runtime=runtime), Plan(dp=2, pp=2, microbatches=3, runtime=runtime)):
        sharded = replace(plain, sharding=Sharding(zero=3, **of))
        assert simulate(rooted(), topology, sharded).step_s == simulate(rooted(), topology, plain).step_s


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_hybrid_sharding_over_all_replicas_is_plain_sharding(zero):
    topology = fully_connected(4, link=KILO)
    plain = Plan(dp=4, microbatches=2, sharding=Sharding(zero=zero))
    hybrid = replace(plain, sharding=Sharding(zero=zero, shards=4))
    a, b = (simulate(rooted(), topology, plan) for plan in (plain, hybrid))
    assert (a.step_s, a.traffic, a.devices) == (b.step_s, b.traffic, b.devices)


def test_hybrid_sharding_by_hand():
    """One layer of 1,024 bytes on two pairs: gather 512 each way, scatter 512, then 512 reduced between the pairs.

    0-.5 g | .5 F 1.5 | 1.5-2 g | 2 B 4 | 4-4.5 s | 4.5-5 r: a ring of two sends half of 512 twice
    """
    topology = fully_connected(4, link=KILO)
    plan = Plan(dp=4, sharding=Sharding(zero=3, shards=2))
    result = simulate(work(1), topology, plan)
    assert result.step_s == 5.0
    counts = {count.kind: (count.transfers, count.payload_bytes) for count in result.traffic}
    assert counts == {"all_gather": (4, 4096), "reduce_scatter": (2, 2048), "all_reduce": (2, 1024)}
    # ZeRO's second stage: the same reductions, and what the update changed gathered by each pair.
    again = simulate(work(1), topology, replace(plan, sharding=Sharding(zero=2, shards=2)))
    assert again.step_s == 3.0 + 0.5 + 0.5 + 0.5
    with pytest.raises(MpsimError, match=r"^shards is 1 at zero=3: one rank shards nothing"):
        Sharding(zero=3, shards=1)


def test_a_distributed_optimizer_in_narrow_types():
    """1,024 numbers of one byte: gradients reduced as two bytes each, parameters gathered as two."""
    plan = Plan(dp=2, microbatches=2, sharding=Sharding(zero=1, gather_dtype="bfloat16", reduce_dtype="float16"))
    traffic = {(one.kind, one.payload_bytes) for one in simulate(work(1), fully_connected(2, link=KILO), plan).traffic}
    assert traffic == {("reduce_scatter", 2048), ("all_gather", 2048)}


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
    assert traffic(zero=2, accumulate=True) == {"reduce_scatter": whole, "all_gather": whole}
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
    # In the second layer's backward: its gradient, the third's that is being scattered, shares of two; the first's
    # parameters are there already. With none ahead, in the first's.
    assert held(zero=3) == (1024, 2048, 1024 + 1024 + 2 * 256, 2048)
    assert held(zero=3, gather_ahead=0) == (1024, 2048, 1024 + 1024 + 3 * 256, 1024)
    # Accumulated: in the third layer's second backward, whole gradients of three, one more until it is added, and the
    # fourth's that is being scattered, with a share of it.
    plan = Plan(dp=4, microbatches=2, sharding=Sharding(zero=3, accumulate=True))
    memory = simulate(workload, topology, plan).devices[0].memory
    assert (memory.gradients_bytes, memory.gathered_bytes) == (3 * 1024 + 1024 + 1024 + 256, 2048)


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


@pytest.mark.parametrize("runtime", ["ideal", "torch-nccl"])
def test_a_split_backward_waits_behind_a_first_layer_without_parameters(runtime):
    """0F0 at 0 to 2, 0I0 to 4, 0W0 to 6: nothing stood behind the last computation, and what waits there was lost."""
    rows = rows_schedule([[Operation(0, kind, 0) for kind in "FIW"]])
    workload = chained([layer("a"), layer("b", parameters={"w": 64})], 0)
    found = simulate(workload, fully_connected(2, link=FREE), replace(FSDP, schedule=rows, runtime=runtime))
    assert found.step_s == 6.0
    assert "reduce_scatter" in found.spans.kind


def test_what_cannot_be():
    with pytest.raises(MpsimError, match="pipedream updates amid the step: use another schedule, or whole replicas"):
        simulate(work(), fully_connected(4, link=FREE), replace(FSDP, pp=2, microbatches=2, schedule="pipedream"))
    with pytest.raises(MpsimError, match=r"^plan: zero=3 shards over replicas, dp is 1: give it 2 or more$"):
        Plan(sharding=Sharding(zero=3))
    with pytest.raises(MpsimError, match=r"^zero is 4: 0 shards nothing"):
        Sharding(zero=4)
    with pytest.raises(MpsimError, match=r"^zero is 1: nothing is gathered"):
        Sharding(zero=1, gather_ahead=2)
    for units in ("block.*", "blocks.*,nothing", "Blocks"):
        with pytest.raises(MpsimError, match=r"^units names '.*', no module's path; "):
            simulate(rooted(), fully_connected(2, link=FREE), replace(FSDP, sharding=Sharding(zero=3, units=units)))
    for zero in (0, 1):
        with pytest.raises(MpsimError, match=rf"^zero is {zero}: .*, accumulate needs zero=2 or 3$"):
            Sharding(zero=zero, accumulate=True)


def test_a_file_keeps_it(tmp_path):
    save_plan(tmp_path / "plan.json", FSDP)
    assert load_plan(tmp_path / "plan.json") == FSDP
    assert FSDP.text == "dp=2 zero=3"
