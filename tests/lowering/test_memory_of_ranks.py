"""What a rank of several stages holds, and one that updates while micro-batches are under way, by hand."""

from dataclasses import replace

import pytest
from cases import chained, layer

from mpsim import Plan, simulate
from mpsim.plan.schedules import SCHEDULES
from mpsim.topology.builders import fully_connected
from mpsim.topology.wire import Wire
from mpsim.workload.model import Precision

FREE = Wire(float("inf"))
MIB = 2**20


def of(name, own, *, shares=0, saved=0, state=0):
    """Return a layer with a weight of its own and, of `shares` bytes, one that others have too."""
    parameters = {"shared": shares} if shares else {}
    return layer(
        name,
        parameters=parameters | {f"{name}.own": own},
        saved_bytes=saved,
        optimizer_s=0.5,
        optimizer_bytes=state,
    )


def held(memory, holder):
    """Return time → bytes of one holder, changes only."""
    for one in memory.by_holder:
        if one.holder == holder:
            return dict(zip(one.time_s, one.bytes, strict=True))
    return {}


def memories(layers, ranks, **plan):
    result = simulate(chained(layers, 0), fully_connected(ranks, link=FREE), Plan(pp=ranks, **plan))
    return [device.memory for device in result.devices]


def test_what_two_stages_of_a_rank_share_is_there_once():
    """Interleaved: rank 0 has a and c, and the weight that they share.

    ::

        t       0  1  2  3  4  6  8  10 12
        rank 0  F0 .. F2 .. .. B2 .. B0 U0 U2
        rank 1  .. F1 .. F3 B3 .. B1 .. U1 U3

    B2 makes the shared gradient (64) and c's own (4); B0 makes a's own (8) and holds another 64 until they are added;
    what is shared is there until the second update ends.
    """
    layers = [of("a", 8, shares=64, state=144), of("b", 16, state=32), of("c", 4, shares=64, state=8), of("d", 32)]
    first, second = memories(layers, 2, schedule="interleaved-1f1b", chunks=2)
    assert held(first, "parameters") == {0.0: 64 + 8 + 4}
    assert held(first, "optimizer") == {0.0: 144 + 8}
    once = 64 + 4
    assert held(first, "gradients") == {
        0.0: 0, 6.0: once, 10.0: once + 8 + 64, 12.0: once + 8, 12.5: once, 13.0: 0
    }  # fmt: skip
    assert held(second, "gradients") == {0.0: 0, 4.0: 32, 8.0: 48, 10.5: 32, 11.0: 0}
    assert held(second, "parameters") == {0.0: 48}


@pytest.mark.parametrize("schedule", ["zb-v", "v-half", "v-min", "dualpipe-v"])
def test_a_v_shape_has_the_first_and_the_last_stage_on_one_rank(schedule):
    """Input and output embedding are one weight on rank 0, and nothing is reduced between ranks."""
    layers = [of("a", 8, shares=64, state=144), of("b", 16), of("c", 32), of("d", 4, shares=64, state=8)]
    work = chained(layers, 0)
    result = simulate(work, fully_connected(2, link=FREE), Plan(pp=2, microbatches=4, schedule=schedule))
    first, second = (device.memory for device in result.devices)
    assert held(first, "parameters") == {0.0: 64 + 8 + 4}
    assert held(first, "optimizer") == {0.0: 144 + 8}
    # Once every gradient is made, and before the first update ends.
    assert first.by_holder[1].holder == "gradients"
    assert 64 + 8 + 4 in held(first, "gradients").values()
    assert held(second, "parameters") == {0.0: 48}
    assert {count.kind for count in result.traffic} <= {"send"}


def test_on_a_chain_each_end_has_the_tied_weight_its_state_and_its_gradient():
    layers = [of("a", 8, shares=64, state=144), of("b", 16), of("c", 32), of("d", 4, shares=64, state=8)]
    found = memories(layers, 4)
    assert [held(one, "parameters") for one in found] == [{0.0: 72}, {0.0: 16}, {0.0: 32}, {0.0: 68}]
    # The trace counts the tied weight's state, 2 x 64, with a alone.
    assert [held(one, "optimizer").get(0.0, 0) for one in found] == [144, 0, 0, 8 + 128]


def test_two_directions_hold_a_stage_of_each():
    """Rank 0 has the first stage of one direction and the last of the other: a and a copy of b, which share one."""
    layers = [of("a", 8, shares=64, state=144), of("b", 4, shares=64, state=8)]
    for memory in memories(layers, 2, microbatches=2, schedule="chimera"):
        assert held(memory, "parameters") == {0.0: 64 + 8 + 4}
        assert held(memory, "optimizer") == {0.0: 144 + 8}
        assert held(memory, "gradients")[max(held(memory, "gradients"))] == 0
        assert memory.gradients_bytes <= 2 * 64 + 8 + 4


def test_one_device_has_one_workspace_and_one_copy_of_master_weights():
    layers = [of("a", 8, shares=64), of("b", 16), of("c", 4, shares=64), of("d", 32)]
    work = replace(chained(layers, 0), clock="cuda-kernel", device="NVIDIA H200", precision=Precision(master="float32"))
    plan = Plan(pp=2, schedule="interleaved-1f1b", chunks=2)
    first, second = (one.memory for one in simulate(work, fully_connected(2, link=FREE), plan).devices)
    assert (first.workspace_bytes, second.workspace_bytes) == (64 * MIB, 64 * MIB)
    # Bytes are uint8 here, their copies four times as large.
    assert (first.master_bytes, second.master_bytes) == (4 * (64 + 8 + 4), 4 * 48)


def test_an_update_of_several_stages_is_one_call():
    """On CUDA AdamW works on a copy of all the rank's parameters, from its first stage's update to its last's."""
    layers = [of("a", 8, shares=64), of("b", 16), of("c", 4, shares=64), of("d", 32)]
    work = replace(chained(layers, 0), clock="cuda-kernel", optimizer="adamw")
    plan = Plan(pp=2, schedule="interleaved-1f1b", chunks=2)
    first, second = (one.memory for one in simulate(work, fully_connected(2, link=FREE), plan).devices)
    assert held(first, "transients") == {0.0: 0, 12.0: 64 + 8 + 4, 13.0: 0}
    assert held(second, "transients") == {0.0: 0, 10.0: 48, 11.0: 0}


@pytest.mark.parametrize("schedule", sorted(set(SCHEDULES) - {"pipedream"}))
def test_holders_add_up_whatever_the_schedule(schedule):
    """What is held throughout is at both ends, and gradients that are made stay until an update ends."""
    layers = [of(name, 8 + i, shares=64 * (i % 3 == 0), saved=100 + i, state=16) for i, name in enumerate("abcdefgh")]
    result = simulate(
        chained(layers, 32), fully_connected(2, link=Wire(100.0)), Plan(pp=2, schedule=schedule, microbatches=4)
    )
    for i, device in enumerate(result.devices):
        memory = device.memory
        columns = [one.held(memory.timeline_s) for one in memory.by_holder]
        assert [sum(held) for held in zip(*columns, strict=True)] == list(memory.timeline_bytes)
        assert min(map(min, columns)) >= 0
        assert all(
            one.bytes[0] == one.bytes[-1] for one in memory.by_holder if one.holder in ("parameters", "optimizer")
        )
        gradients = held(memory, "gradients")
        spans = zip(result.spans.kind, result.spans.devices, result.spans.end_s, strict=True)
        updated = min(end_s for kind, where, end_s in spans if kind == "optimizer" and where == (i,))
        assert [at for at, count in gradients.items() if not count and 0 < at < updated] == []


# Weight stashing.


def versions(memory, parameter_bytes):
    """Return time → how many versions of the parameters are there."""
    return {at: count / parameter_bytes for at, count in held(memory, "parameters").items()}


def test_weight_stashing_holds_the_parameters_that_went_forward():
    """PipeDream over two stages, a forward of 1, a backward of 2, an update of 0.5.

    ::

        t        0  1  2  4  4.5 5.5 6  6.5 7.5 8  9  9.5 10 11 11.5 12.5 13 13.5 14.5 16.5
        stage 0  F0 F1 .. B0 ..  ..  U0 F2  B1  .. .. U1  F3 B2 ..   ..   U2 ..   B3   U3
        stage 1  .. F0 B0 U0 F1  B1  .. ..  U1  F2 B2 ..  .. U2 F3   B3   .. ..   U3

    On stage 0 a micro-batch is under way at every update but the last, whose forward saw what the update replaces: the
    old parameters stay until its backward ends, when the next update stashes others. Stage 1 never has one.
    """
    layers = [of("a", 64), of("b", 8)]
    first, second = memories(layers, 2, microbatches=4, schedule="pipedream")
    assert versions(second, 8) == {0.0: 1.0}
    assert versions(first, 64) == {0.0: 1.0, 6.0: 2.0, 16.5: 1.0}


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_stage_s_of_p_holds_p_minus_s_versions(ranks):
    """As in PipeDream (Narayanan et al., https://doi.org/10.1145/3341301.3359646, section 3.3)."""
    layers = [of(name, 64) for name in "abcd"[:ranks]]
    found = memories(layers, ranks, microbatches=4 * ranks, schedule="pipedream")
    assert [max(versions(one, 64).values()) for one in found] == [float(ranks - s) for s in range(ranks)]


def test_synchronous_schedules_hold_one_version():
    for schedule in ("gpipe", "1f1b", "zb-h1"):
        found = memories([of("a", 64), of("b", 64)], 2, microbatches=4, schedule=schedule)
        assert [held(one, "parameters") for one in found] == [{0.0: 64}, {0.0: 64}]
