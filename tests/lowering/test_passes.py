"""What a rank does, pass by pass, as text; and what follows for virtual stages, copies, cells that are shared."""

import math
from dataclasses import replace

import pytest
from cases import chained, layer

from mpsim.errors import MpsimError
from mpsim.lowering.bind import scripts
from mpsim.lowering.instructions import Collective, Compute, Drop, Hold, Receive, Send, Wait
from mpsim.lowering.lower import lower
from mpsim.lowering.passes import instructions_of
from mpsim.plan.model import Plan
from mpsim.plan.schedules import SCHEDULES
from mpsim.simulation import simulate
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.wire import Wire

FREE = Wire(math.inf)


def work(n, **of):
    return chained([layer(f"layer{i}", **of) for i in range(n)], 64)


def text(plan, workload, rank=0, *, keeping=False):
    lowering = lower(workload, fully_connected(plan.ranks, link=FREE), plan)
    found = instructions_of(lowering, rank)
    return " · ".join(str(one) for one in found if keeping or not isinstance(one, Hold | Drop))


def test_a_rank_awaits_before_and_sends_after():
    two = Plan(pp=2, microbatches=2, schedule="gpipe")
    assert text(two, work(2)) == (
        "0F0[0:1] · send 0F0>1 · 0F1[0:1] · send 0F1>1 · wait · 0B0[0:1] · wait · 0B1[0:1] · update[0:1]"
    )
    assert text(two, work(2), 1).startswith("wait · 1F0[1:2] · wait · 1F1[1:2] · 1B0[1:2] · send 1B0>0")


def test_where_messages_have_two_ends_receives_are_posted():
    plan = Plan(pp=2, microbatches=2, schedule="gpipe", runtime="torch-nccl")
    assert text(plan, work(2), 1).startswith("receive 0F0>1 · wait · 1F0[1:2] · receive 0F1>1 · wait")


def test_shards_exchange_behind_each_layer_and_buckets_leave_inside_backward():
    shared = layer("a", parameters={"w": 64}, exchanged=[("forward", "all_reduce", 8)], tensor_parallel=(1, 2))
    other = layer("b", parameters={"v": 64}, tensor_parallel=(1, 2))
    plan = Plan(dp=2, tp=2, bucket_bytes=1, first_bucket_bytes=1)
    assert text(plan, chained([shared, other], 64)) == (
        "0F0[0:1] · all_reduce 0F0 · wait · 0F0[1:2] · 0B0[1:2] · all_reduce bucket 0 · 0B0[0:1] ·"
        " all_reduce bucket 1 · wait · update[0:2]"
    )


def test_what_is_kept_stands_between():
    kept = work(1, parameters={"w": 64}, saved_bytes=8)
    assert text(Plan(), kept, keeping=True) == (
        "hold activations · 0F0[0:1] · hold gradients · 0B0[0:1] · drop · update[0:1] · drop"
    )


def test_between_stages_of_one_rank_nothing_is_sent():
    """Rank 0 has the stages 0 and 3, rank 1 the stages 1 and 2: at the tip of the V nothing crosses."""
    plan = Plan(pp=2, microbatches=1, schedule="zb-v")
    lowering = lower(work(4), chain(2, link=FREE), plan)
    sends = [one.name for rank in (0, 1) for one in instructions_of(lowering, rank) if isinstance(one, Send)]
    assert lowering.shape.home == (0, 1, 1, 0)
    assert sorted(sends) == ["0F0>1", "1B0>0", "2F0>3", "3B0>2"]


@pytest.mark.parametrize(("ranks", "chunks"), [(2, 2), (3, 2), (4, 3), (8, 4), (16, 2)])
def test_interleaved_steps_are_the_formula_exactly(ranks, chunks):
    """(m·v + p - 1)(t_F + t_B), where p divides m: https://arxiv.org/abs/2104.04473."""
    workload = chained([layer(f"layer{i}", (1.0, 1.0, 1.0)) for i in range(ranks * chunks)], 0)
    topology = fully_connected(ranks, link=FREE)
    for microbatches in (ranks, 2 * ranks, 4 * ranks):
        plan = Plan(pp=ranks, microbatches=microbatches, schedule="interleaved-1f1b", chunks=chunks)
        assert simulate(workload, topology, plan, spans=False).step_s == 3.0 * (microbatches * chunks + ranks - 1)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4, 6, 8, 12, 16])
def test_interleaved_steps_up_to_64_micro_batches(ranks):
    for chunks in (1, 2, 3, 4):
        workload = chained([layer(f"layer{i}", (1.0, 1.0, 1.0)) for i in range(ranks * chunks)], 0)
        topology = fully_connected(ranks, link=FREE)
        for microbatches in range(ranks, 65, ranks):
            plan = Plan(pp=ranks, microbatches=microbatches, schedule="interleaved-1f1b", chunks=chunks)
            step_s = simulate(workload, topology, plan, spans=False).step_s
            assert step_s == 3.0 * (microbatches * chunks + ranks - 1)


def test_copies_of_a_stage_reduce_their_gradients_between_them():
    """Chimera on 2 ranks: stage 0 is on rank 0 and its copy on rank 1, stage 1 the other way around."""
    workload = chained([layer(name, parameters={name: 64}) for name in "ab"], 64)
    result = simulate(workload, chain(2, link=Wire(64.0)), Plan(pp=2, microbatches=2, schedule="chimera"))
    (reduced,) = [count for count in result.traffic if count.kind == "all_reduce"]
    assert (reduced.axis, reduced.transfers, reduced.payload_bytes) == ("pp", 2, 128)
    assert sorted(name for name in result.spans.name if name.startswith("copies")) == [
        "copies of stage 0", "copies of stage 1",
    ]  # fmt: skip


def test_a_parameter_tied_between_stages_of_one_rank_is_not_exchanged():
    layers = [layer(name, parameters={"tied": 64} if name in "ad" else {}) for name in "abcd"]
    looped = Plan(pp=2, microbatches=2, schedule="interleaved-1f1b")
    v_shaped = replace(looped, schedule="zb-v")
    for plan, kinds in ((looped, {"send", "all_reduce"}), (v_shaped, {"send"})):
        result = simulate(chained(layers, 8), chain(2, link=FREE), plan)
        assert {count.kind for count in result.traffic} == kinds


def test_one_of_a_cell_computes_while_the_other_communicates():
    """Two ranks of two stages: a cell's forward all-reduces for 1 s beside its backward, and the other way around.

    One after the other:  F 1, all-reduce 1, B 2, all-reduce 1: 5 s.  In one cell: F 1, B 2 (beside 1), all-reduce 1.
    """
    calls = [("forward", "all_reduce", 512), ("backward", "all_reduce", 512)]
    workload = chained([layer("a", exchanged=calls, tensor_parallel=(1, 2))], 0)
    topology = fully_connected(2, link=Wire(512.0))

    def step_s(rows):
        return simulate(workload, topology, Plan(tp=2, microbatches=2, schedule=rows)).step_s

    assert step_s("0F0 0F1 0B0 0B1") == 10.0
    assert step_s("0F0 0F1+0B0 0B1") == 9.0


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
@pytest.mark.parametrize("runtime", ["ideal", "blocking", "torch-gloo", "torch-nccl"])
def test_every_schedule_runs_under_every_runtime(schedule, runtime):
    """Each computes everything once, and every message that a rank posts has another end."""
    workload = work(8, parameters={"w": 8})
    topology = fully_connected(4, link=Wire(1024.0, 0.25))
    plan = Plan(dp=2, pp=2, microbatches=4, schedule=schedule, runtime=runtime)
    result = simulate(workload, topology, plan)
    ran = [name for name, kind in zip(result.spans.name, result.spans.kind, strict=True) if kind == "forward"]
    assert len(ran) == 2 * 4 * (len(lower(workload, topology, plan).stages) if schedule not in _TWO_WAYS else 2)
    posted = {}
    for script in scripts(lower(workload, topology, replace(plan, runtime="torch-gloo"))):
        waited = {key for step in script.steps if isinstance(step, Wait) for key in step.keys}
        for step in script.steps:
            if isinstance(step, Send | Receive):
                posted.setdefault(step.key, []).append((type(step), step.bytes))
            if isinstance(step, Send | Receive | Collective):
                assert step.key in waited
    assert all({kind for kind, _ in ends} == {Send, Receive} and len(ends) == 2 for ends in posted.values())
    assert all(len({count for _, count in ends}) == 1 for ends in posted.values())


_TWO_WAYS = ("chimera", "dualpipe")


def test_updates_amid_the_step_are_the_rows():
    plan = Plan(pp=2, microbatches=3, schedule="pipedream")
    lowering = lower(work(2, parameters={"w": 8}, optimizer_s=1.0), chain(2, link=FREE), plan)
    done = [one.name for one in instructions_of(lowering, 1) if isinstance(one, Compute)]
    assert done == ["1F0", "1B0", "1U0", "1F1", "1B1", "1U1", "1F2", "1B2", "1U2"]
    result = simulate(work(2, optimizer_s=1.0), chain(2, link=FREE), plan)
    # F 1, B 2 and U 1, three times a step, and no end of a step to wait for.
    assert result.steady_s == 12.0
    assert result.caveats[0].startswith("asynchronous: ")


@pytest.mark.parametrize("microbatches", [1, 2, 4, 5])
def test_a_full_asynchronous_pipeline_takes_what_its_slowest_rank_computes(microbatches):
    layers = [layer(f"layer{i}", (seconds, seconds, seconds)) for i, seconds in enumerate((4.0, 1.0, 1.0, 1.0))]
    plan = Plan(pp=4, microbatches=microbatches, schedule="pipedream", boundaries=(1, 2, 3))
    assert simulate(chained(layers, 0), chain(4, link=FREE), plan).steady_s == 12.0 * microbatches


def test_stages_that_never_update_where_others_do_are_refused():
    rows = "0F0 0F1 0B0 0B1\n1F0 1B0 1U0 1F1 1B1 1U1"
    with pytest.raises(MpsimError, match="stage 0 never updates, others do: add 0U1"):
        simulate(work(2), chain(2, link=FREE), Plan(pp=2, microbatches=2, schedule=rows))


def test_one_micro_batch_makes_only_flat_schedules_naive():
    assert Plan(pp=2, schedule="gpipe").strategy == Plan(pp=2).strategy == "naive"
    assert Plan(pp=2, schedule="zb-v").text == "pp=2 zb-v"


def test_more_stages_than_layers_and_chunks_that_a_schedule_cannot_have():
    with pytest.raises(MpsimError, match=r"^3 layers cannot make 4 stages"):
        simulate(work(3), chain(2, link=FREE), Plan(pp=2, microbatches=2, schedule="interleaved-1f1b"))
    with pytest.raises(MpsimError, match=r"^schedule 'gpipe' has one stage a rank: leave the 2 chunks out"):
        simulate(work(4), chain(2, link=FREE), Plan(pp=2, microbatches=2, schedule="gpipe", chunks=2))
    with pytest.raises(MpsimError, match=r"plan has 1 stage boundaries, its 4 stages need 3"):
        simulate(work(4), chain(2, link=FREE), Plan(pp=2, microbatches=2, schedule="zb-v", boundaries=(2,)))
