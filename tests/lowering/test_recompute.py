"""Recomputation: what runs again and when, and what is held meanwhile, by hand."""

import math
from dataclasses import replace

import pytest
from cases import chained, layer, tensor, timetable

from mpsim import Plan, simulate
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Draw
from mpsim.lowering.instructions import Drop, Hold
from mpsim.lowering.launch import launch_of
from mpsim.lowering.lower import lower
from mpsim.lowering.passes import instructions_of
from mpsim.lowering.recomputation import recomputed
from mpsim.lowering.times import drawn, medians
from mpsim.plan.model import load_plan, save_plan
from mpsim.plan.recompute import parse_recompute
from mpsim.plan.schedules import SCHEDULES
from mpsim.plan.sharding import Sharding
from mpsim.topology.builders import fully_connected
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire
from mpsim.workload.layers import ShardCollective
from mpsim.workload.model import Cost, Fidelity, Layer, Samples, Workload
from mpsim.workload.split import Split

FREE, KILO = Wire(math.inf), Wire(1024.0)


def work(n=4, count=64, **of):
    return chained([layer(f"h.{i}", saved_bytes=1024, **of) for i in range(n)], count)


def again(what, **plan):
    zero = plan.pop("zero", 0)
    return Plan(sharding=Sharding(recompute=what, zero=zero), **plan)


def said(plan, workload=None, rank=0):
    lowering = lower(workload or work(), fully_connected(plan.ranks, link=FREE), plan)
    return " · ".join(str(one) for one in instructions_of(lowering, rank) if not isinstance(one, Hold | Drop))


def held(result, holder, device=0):
    """Return time → bytes of one holder, changes only."""
    for one in result.devices[device].memory.by_holder:
        if one.holder == holder:
            return dict(zip(one.time_s, one.bytes, strict=True))
    return {}


def test_each_layer_runs_again_right_before_its_own_backward():
    assert said(again("full"), work(2)) == "0F0[0:2] · 0R0[1:2] · 0B0[1:2] · 0R0[0:1] · 0B0[0:1] · update[0:2]"


def test_full_by_hand():
    """Two stages of two layers, two micro-batches; a forward 1, a backward 2, messages take nothing.

    ::

        t       0 1 2 3 4 5 6 7 8 9 10  12  14  16  18
        rank 0  F0F0F1F1        RBB RBB     RBB RBB        (R1 B1 R0 B0 of micro-batch 0, then of 1)
        rank 1      F0F0RBBRBBF1F1RBBRBB
    """
    result = simulate(work(), fully_connected(2, link=FREE), again("full", pp=2, microbatches=2))
    spans = [
        (name, start, end)
        for name, kind, devices, start, end in zip(
            result.spans.name, result.spans.kind, result.spans.devices, result.spans.start_s, result.spans.end_s,
            strict=True,
        )
        if devices == (0,) and kind != "send"
    ]  # fmt: skip
    assert spans == [
        ("0F0", 0.0, 2.0), ("0F1", 2.0, 4.0),
        ("0R0", 10.0, 11.0), ("0B0", 11.0, 13.0), ("0R0", 13.0, 14.0), ("0B0", 14.0, 16.0),
        ("0R1", 18.0, 19.0), ("0B1", 19.0, 21.0), ("0R1", 21.0, 22.0), ("0B1", 22.0, 24.0),
    ]  # fmt: skip
    assert result.step_s == 24.0
    assert [device.compute_s for device in result.devices] == [16.0, 16.0]


def test_a_whole_stage_runs_again_while_its_gradient_is_on_its_way():
    """As above, a whole stage at once, but of the last micro-batch, and a message takes 1.

    ::

        t       0 2 3 4 5 6 8 10  12  14  16  18  20  24
        rank 0  F0  F1R0......................B0  ..  B1
        rank 1      ..F0R0B0...
    """
    topology = fully_connected(2, link=Wire(64.0))
    plain = simulate(work(), topology, Plan(pp=2, microbatches=2, boundaries=(2,)))
    found = simulate(work(), topology, again("except-last", pp=2, microbatches=2, boundaries=(2,)))
    table = timetable(found)
    # Rank 0: F0 0-2, F1 2-4, R0 right behind, as nothing else is to be done; B0 once rank 1 has sent its gradient.
    assert table["0R0"] == (4.0, 6.0)
    assert table["1F0"] == (3.0, 5.0)
    assert table["1R0"] == (5.0, 7.0)
    assert table["1B0"] == (7.0, 11.0)
    assert table["0B0"] == (12.0, 16.0)
    assert table["1F1"] == (11.0, 13.0)
    assert table["1B1"] == (13.0, 17.0)
    assert table["0B1"] == (18.0, 22.0)
    assert not {"0R1", "1R1"} & table.keys()
    # Only rank 1's counts: rank 0 had nothing else to do.
    assert found.step_s == plain.step_s + 2.0 == 22.0


def test_a_second_forward_takes_and_launches_what_the_first_did():
    """Whatever backward takes; in a trial, at the quantile that the first was drawn at."""
    layers = [layer("a", (1.0, 2.0, 4.0)), layer("b", (8.0, 16.0, 32.0))]
    one = fully_connected(1, link=FREE)
    plain, found = (simulate(chained(layers, 0), one, again(what)).step_s for what in ("", "full"))
    assert found - plain == 1.0 + 8.0
    samples = [
        Samples(forward_s=(a, b), backward_input_s=(64.0,), backward_weight_s=(64.0,)) for a, b in ((1, 2), (4, 8))
    ]
    hosts = [Samples(forward_s=(a,), backward_input_s=(64.0,), backward_weight_s=(64.0,)) for a in (2.0, 16.0)]
    costs = [Cost(microbatch=1, samples=a, host=b) for a, b in zip(samples, hosts, strict=True)]
    draw = Draw(seed=0, trial=0)
    place = {"first_layer": 0, "tp_rank": 0, "replica": 0, "microbatches": 8}
    for times in (medians(costs, 1.0, 1.0), drawn(costs, 1.0, draw, host_speed=1.0, **place)):
        for k in range(8):
            assert times.seconds("R", k, 0, 2) == times.seconds("F", k, 0, 2)
            assert times.launch("R", k, 0, 2) == times.launch("F", k, 0, 2)
    half = medians(costs, 1.0, 1.0, again=(0.5, 0.25))
    assert half.seconds("R", 0, 0, 2) == 0.5 * 1.5 + 0.25 * 6.0
    assert half.launch("R", 0, 0, 2) == launch_of([(1.0, 0.75), (4.0, 1.5)])


def test_the_last_is_the_last_to_go_forward():
    """Whose backward may be the next, or the last of all."""
    for rows, again_ in (("0F0 0F1 0B1 0B0", "0R0"), ("0F1 0F0 0B0 0B1", "0R1")):
        plan = again("except-last", microbatches=2, schedule=rows)
        result = simulate(work(1), fully_connected(1, link=FREE), plan)
        assert [name for name in result.spans.name if "R" in name] == [again_]


def test_where_the_gradient_is_awaited():
    plan = again("stages", pp=2, microbatches=1)
    assert said(plan, work(2)) == "0F0[0:1] · send 0F0>1 · 0R0[0:1] · wait · 0B0[0:1] · update[0:1]"
    assert said(again("full", pp=2, microbatches=1), work(2)) == (
        "0F0[0:1] · send 0F0>1 · wait · 0R0[0:1] · 0B0[0:1] · update[0:1]"
    )


def test_layers_by_name_pattern_and_number():
    assert said(again("h.1")) == "0F0[0:4] · 0B0[2:4] · 0R0[1:2] · 0B0[1:2] · 0B0[0:1] · update[0:4]"
    assert said(again("h.[12]")) == said(again("1,2")) == said(again("2,h.1"))
    assert said(again("h.*")) == said(again("full"))


def test_what_has_no_backward_does_not_run_again():
    workload = chained([layer("embed", (1.0, 0.0, 0.0)), layer("head")], 64)
    assert said(again("full"), workload) == "0F0[0:2] · 0R0[1:2] · 0B0[1:2] · 0B0[0:1] · update[0:2]"


def test_memory_of_layers_by_hand():
    """Four layers that keep 1,024 bytes each, of which 64 is what they read; outputs of 64 bytes.

    Two micro-batches forward and back in turn: 4 boundaries of 64, less the first, which is fed; in backward one
    layer's 960 more.
    """
    layers = [layer(f"h.{i}", saved_bytes=1024) for i in range(4)]
    tensors = [tensor(f"h.{i}", [f"h.{i + 1}"], 64, saved_by=f"h.{i + 1}") for i in range(3)]
    workload = replace(chained(layers, 0), tensors=tuple(tensors))
    one = fully_connected(1, link=FREE)
    plan = again("full", microbatches=2, schedule="gpipe")
    result = simulate(workload, one, plan)
    # h.0 has nothing that others read: all it keeps is made again.
    assert held(result, "activations")[0.0] == 3 * 64
    assert max(held(result, "activations").values()) == 2 * 3 * 64
    assert max(held(result, "recomputation").values()) == 960
    last = simulate(workload, one, replace(plan, sharding=Sharding(recompute="full,except-last")))
    assert max(held(last, "activations").values()) == 3 * 64 + 4 * 1024
    whole = simulate(workload, one, again("stages", microbatches=2, schedule="gpipe"))
    assert "activations" not in [one.holder for one in whole.devices[0].memory.by_holder]
    assert max(held(whole, "recomputation").values()) == 4 * 1024
    some = simulate(workload, one, again("h.2", microbatches=2, schedule="gpipe"))
    assert max(held(some, "activations").values()) == 2 * (3 * 1024 + 64)


def test_a_tensor_that_its_maker_keeps_stays_for_whoever_reads_it():
    """a keeps its output (a ReLU), which b reads: where both run again it stays for b, and a makes it anew."""
    layers = [layer("a", saved_bytes=100), layer("b", saved_bytes=0)]
    workload = replace(chained(layers, 0), tensors=(tensor("a", ["b"], 60, saved_by="a"),))
    one = fully_connected(1, link=FREE)
    for what in ("full", "a"):
        found = simulate(workload, one, again(what, microbatches=2, schedule="gpipe"))
        assert max(held(found, "activations").values()) == 60
        assert max(held(found, "recomputation").values()) == 100


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES)))
@pytest.mark.parametrize("what", ["full", "stages", "except-last", "h.[0-3]"])
def test_every_schedule_holds_and_computes_it(schedule, what):
    """Compute grows by exactly the forwards that run again; holders add up; nothing is held when a step ends."""
    topology = fully_connected(2, link=KILO)
    base = Plan(pp=2, microbatches=4, schedule=schedule)
    plain = simulate(work(8), topology, base)
    found = simulate(work(8), topology, replace(base, sharding=Sharding(recompute=what)))
    forward = sum(
        end - start
        for kind, start, end in zip(plain.spans.kind, plain.spans.start_s, plain.spans.end_s, strict=True)
        if kind == "forward"
    )
    # Of two directions each has a last micro-batch.
    kept = 0.5 if schedule in ("chimera", "dualpipe") else 0.25
    counts = {"full": 1.0, "stages": 1.0, "except-last": 1.0 - kept, "h.[0-3]": 0.5}
    more = sum(one.compute_s for one in found.devices) - sum(one.compute_s for one in plain.devices)
    assert more == counts[what] * forward
    for device in found.devices:
        memory = device.memory
        assert memory.by_holder
        assert all(one.bytes[-1] in (0, one.bytes[0]) for one in memory.by_holder if one.holder != "gradients")
        assert all(count >= 0 for one in memory.by_holder if one.holder == "recomputation" for count in one.bytes)


@pytest.mark.parametrize("runtime", ["ideal", "blocking", "torch-gloo", "torch-nccl"])
@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1", "dualpipe", "interleaved-1f1b"])
def test_every_runtime_runs_it(schedule, runtime):
    plan = again("full", pp=2, microbatches=4, schedule=schedule, runtime=runtime)
    assert simulate(work(8), fully_connected(2, link=KILO), plan).step_s > 0


def test_collectives_of_a_forward_are_made_again():
    exchanged = [("forward", "all_reduce", 8), ("backward", "all_reduce", 16)]
    layers = [layer(f"h.{i}", exchanged=exchanged, tensor_parallel=(1, 2), saved_bytes=8) for i in range(3)]
    topology = fully_connected(2, link=KILO)

    def reduced(what):
        (count,) = simulate(chained(layers, 0), topology, again(what, tp=2)).traffic
        return count.transfers, count.payload_bytes

    assert reduced("") == (6, 3 * 8 + 3 * 16)
    assert reduced("full") == reduced("stages") == (9, 2 * 3 * 8 + 3 * 16)
    assert reduced("h.1") == (7, 4 * 8 + 3 * 16)


def test_what_is_gathered_for_a_second_forward_serves_its_backward():
    layers = [layer(f"h.{i}", parameters={f"w{i}": 1024}, saved_bytes=8) for i in range(3)]
    topology = fully_connected(2, link=KILO)

    def gathered(what, **sharding):
        plan = Plan(dp=2, sharding=Sharding(zero=3, recompute=what, **sharding))
        result = simulate(chained(layers, 0), topology, plan)
        return next(count.transfers for count in result.traffic if count.kind == "all_gather")

    assert gathered("full") == gathered("") == 6
    assert gathered("full", keep_gathered=True) == gathered("", keep_gathered=True) == 3
    plan = Plan(dp=2, sharding=Sharding(zero=3, recompute="full", gather_ahead=0))
    assert said(plan, chained(layers[:2], 0)) == (
        "all_gather unit h.0 · wait · 0F0[0:1] · all_gather unit h.1 · wait · 0F0[1:2] ·"
        " all_gather unit h.1 · wait · 0R0[1:2] · 0B0[1:2] · reduce_scatter unit h.1 ·"
        " all_gather unit h.0 · wait · 0R0[0:1] · 0B0[0:1] · reduce_scatter unit h.0 · wait · update[0:2]"
    )


def test_a_split_backward_keeps_what_was_made_again_to_its_end():
    """Of one layer on one rank, I 1 and W 1 apart: from R on, 4, to the end of W, 7."""
    rows = "0F0 0F1 0I0 0I1 0W0 0W1"
    plan = again("full", microbatches=2, schedule=rows)
    result = simulate(work(1), fully_connected(1, link=FREE), plan)
    #  0F0 0-1, 0F1 1-2, 0R0 2-3, 0I0 3-4, 0R1 4-5, 0I1 5-6, 0W0 6-7, 0W1 7-8
    assert held(result, "recomputation") == {0.0: 0, 2.0: 1024, 4.0: 2048, 7.0: 1024, 8.0: 0}


def test_in_the_first_part_of_a_backward_layers_come_one_by_one():
    """b, the last, takes 1,000 in its I, when a has not yet run again: 100 are there then, and 200 from there on."""
    first, last = layer("a", saved_bytes=100), layer("b", saved_bytes=100)
    last = replace(last, costs=(replace(last.costs[0], backward_transient_bytes=1000),))
    found = simulate(chained([first, last], 0), fully_connected(1, link=FREE), again("full", schedule="0F0 0I0 0W0"))
    # F 0-2, R and I of b, then of a, to 6; W of b and a to 8.
    assert held(found, "recomputation") == {0.0: 0, 2.0: 100, 6.0: 200, 8.0: 0}
    assert found.devices[0].memory.peak_bytes == 1000 + 100


def test_a_whole_stage_has_all_but_its_last_layers_own_when_that_runs_again():
    """b takes 1,000 for a while in each forward: the second time beside 100 of a and of itself."""
    first, last = layer("a", saved_bytes=100), layer("b", saved_bytes=100)
    last = replace(last, costs=(replace(last.costs[0], forward_transient_bytes=1000),))
    found = simulate(chained([first, last], 0), fully_connected(1, link=FREE), again("stages"))
    assert found.devices[0].memory.peak_bytes == 1000 + 2 * 100


def test_what_several_layers_read_stays_for_the_first_of_them():
    """a makes what b and c read: it is there until b's backward, the later of the two, is over."""
    layers = [layer(name, saved_bytes=100) for name in "abc"]
    workload = replace(chained(layers, 0), tensors=(tensor("a", "bc", 60),))
    costs = [one.costs[0] for one in layers]
    found = recomputed(workload, range(3), costs, 1, Split(), parse_recompute("b,c"))
    assert found.kept == (100, 60, 0)
    assert found.again == (0, 100, 100)


def test_a_plan_says_it_and_a_file_keeps_it(tmp_path):
    plan = again("h.*,except-last", pp=2, microbatches=2)
    assert plan.text == "pp=2 micro-batches=2 1f1b recompute=h.*,except-last"
    save_plan(tmp_path / "plan.json", plan)
    assert load_plan(tmp_path / "plan.json") == plan
    assert again("none") == Plan()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("g.*", "recompute names layer 'g.*', which 'chain' has not; known: except-last, full, h.0, h.1"),
        ("h.9", "recompute names layer 'h.9', which 'chain' has not; did you mean 'h."),
        ("selectiv", "recompute names layer 'selectiv', which 'chain' has not; did you mean 'selective'?"),
        ("9", "recompute names layer 9, 'chain' has layers 0 to 3"),
        ("full,selective", "recompute is 'full,selective': full and selective are two different things, leave one out"),
        ("full,h.1", "recompute is 'full,h.1': full and h.1 are two different things, leave one out"),
        ("h.1,,h.2", "recompute is 'h.1,,h.2', with an empty name in it: give names, patterns or numbers of layers"),
        (
            "selective",
            "recompute=selective computes attention again, no layer of 'chain' says what its attention takes",
        ),
    ],
)
def test_what_cannot_be(what, message):
    with pytest.raises(MpsimError) as error:
        simulate(work(), fully_connected(1, link=FREE), again(what))
    assert str(error.value).startswith(message)


def attentive(*, attention=(0.25, 512), n=2):
    """Return embedding, `n` blocks with attention, and head; a block takes 1 and 2, and keeps 1,024."""
    blocks = [
        Layer.given(
            f"h.{i}", forward_s=1.0, backward_s=2.0, saved_bytes=1024, attention_s=attention[0],
            attention_bytes=attention[1],
        )
        for i in range(n)
    ]  # fmt: skip
    ends = [Layer.given(name, forward_s=0.5, backward_s=1.0, saved_bytes=64) for name in ("embed", "head")]
    return Workload.chain("attentive", [ends[0], *blocks, ends[1]])


def test_selective_by_hand():
    """The attention core of a block takes a quarter of its forward and keeps half of its bytes.

    ::

        t   0     .5  1.5  2.5  3   4     4.25 6.25  6.5  8.5  9.5
        F0  embed h.0 h.1 head |B head|R h.1|B h.1|R h.0|B h.0|B embed
    """
    one = fully_connected(1, link=FREE)
    result = simulate(attentive(), one, again("selective"))
    spans = list(zip(result.spans.kind, result.spans.start_s, result.spans.end_s, strict=True))
    assert spans == [
        ("forward", 0.0, 3.0),
        ("backward", 3.0, 4.0),
        ("recompute", 4.0, 4.25), ("backward", 4.25, 6.25),
        ("recompute", 6.25, 6.5), ("backward", 6.5, 8.5),
        ("backward", 8.5, 9.5),
    ]  # fmt: skip
    two = simulate(attentive(), one, again("selective", microbatches=2, schedule="gpipe"))
    # Of a micro-batch 64 + 512 + 512 + 64 stay, less the head's in backward, and one block's 512 come again.
    assert max(held(two, "activations").values()) == 2 * (64 + 512 + 512 + 64) - 64
    assert max(held(two, "recomputation").values()) == 512


def test_selective_of_a_split_backward_keeps_cores_for_its_first_part_alone():
    rows = "0F0 0F1 0I0 0I1 0W0 0W1"
    result = simulate(attentive(n=1), fully_connected(1, link=FREE), again("selective", microbatches=2, schedule=rows))
    # F 0-2 and 2-4; head's I 4-4.5; R 4.5-4.75, I to 5.75; embed's I to 6.25; again to 8.5; then W.
    assert held(result, "recomputation") == {0.0: 0, 4.0: 512, 8.5: 0}


@pytest.mark.parametrize("schedule", ["1f1b", "gpipe", "zb-h1", "dualpipe", "interleaved-1f1b"])
def test_selective_of_a_core_that_takes_and_keeps_nothing_is_none(schedule):
    """To the bit, in every schedule; and so is that of layers all of whose attention is free."""
    workload = attentive(attention=(0.0, 512), n=6)
    topology = fully_connected(2, link=KILO)
    plan = Plan(pp=2, microbatches=4, schedule=schedule)
    plain = simulate(workload, topology, plan)
    found = simulate(workload, topology, replace(plan, sharding=Sharding(recompute="selective")))
    assert found.step_s == plain.step_s
    assert [one.compute_s for one in found.devices] == [one.compute_s for one in plain.devices]


def test_a_core_makes_the_collectives_of_its_sequence_again_and_no_others():
    calls = [
        ShardCollective(kind="all_reduce", bytes=8, phase="forward"),
        ShardCollective(kind="all_gather", bytes=16, phase="forward", axis="cp", when="before"),
    ]
    split = Split(tp=2, cp=2)
    layers = [
        Layer.given(
            f"h.{i}", forward_s=1.0, backward_s=2.0, attention_s=0.25, attention_bytes=8, saved_bytes=64,
            split=split, collectives=calls,
        )
        for i in range(2)
    ]  # fmt: skip
    topology = fully_connected(4, link=KILO)

    def counts(what):
        plan = Plan(tp=2, cp=2, sharding=Sharding(recompute=what))
        result = simulate(Workload.chain("both", layers), topology, plan, unchecked=True)
        return {(count.axis, count.kind): count.transfers for count in result.traffic}

    # Two groups along each axis.
    assert counts("") == {("tp", "all_reduce"): 4, ("cp", "all_gather"): 4}
    assert counts("selective") == {("tp", "all_reduce"): 4, ("cp", "all_gather"): 8}
    assert counts("full") == {("tp", "all_reduce"): 8, ("cp", "all_gather"): 8}


def test_a_core_is_part_of_its_layer():
    with pytest.raises(MpsimError, match=r"^attention_s is 2\.0, expected 0 to forward_s, 1\.0$"):
        Layer.given("a", forward_s=1.0, backward_s=2.0, attention_s=2.0)
    with pytest.raises(MpsimError, match=r"^attention keeps 8 bytes, its layer 4: give no more$"):
        Layer.given("a", forward_s=1.0, backward_s=2.0, saved_bytes=4, attention_s=0.5, attention_bytes=8)


def test_selective_on_unlike_devices_takes_what_each_ones_trace_says():
    """A trace that does not know its attention stood for a whole forward again, and another's caution was left out."""
    topology = parse_topology("fully_connected:1,link=1GB/s@0,device=T4")

    def on(**changes):
        made = (replace(one, costs=tuple(replace(cost, **changes) for cost in one.costs)) for one in attentive().layers)
        return {"T4": replace(attentive(), layers=tuple(made))}

    with pytest.raises(MpsimError, match=r"^recompute=selective .* layer 'h\.0' on T4 do not say what it takes"):
        simulate(attentive(), topology, again("selective"), by_type=on(attention=None))
    result = simulate(attentive(), topology, again("selective"), by_type=on(fidelity=Fidelity.MEASURED))
    assert result.fidelity == "scaled"
    assert any(text.startswith("scaled: attention is taken as") for text in result.caveats)
