"""Of ranks that do the same one is simulated: all that is said of it is what the whole simulation says of each."""

from dataclasses import replace

import pytest
from cases import chained, layer
from folded_cases import clusters, compared
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cases import cases, interleaved, workloads

from mpsim.lowering.draws import Variability
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.result.frames import summary_row
from mpsim.result.text import summary
from mpsim.simulation import simulate, simulate_collectives
from mpsim.topology.builders import nodes, ring, switch

RUNTIMES = ["ideal", "ideal", "blocking", "torch-nccl", "deepspeed"]


@st.composite
def alike(draw):
    """Plans of many replicas, and clusters that are alike nearly all over."""
    tp = draw(st.sampled_from([1, 1, 2, 4]))
    workload = draw(workloads(tp))
    pp = draw(st.integers(1, min(len(workload.layers), 3)))
    dp = draw(st.integers(1, 16 // (tp * pp)))
    topology = draw(clusters(dp * pp * tp))
    schedule = draw(
        st.one_of(
            st.sampled_from(["1f1b", "gpipe", "naive"]),
            st.lists(st.integers(0, 5), min_size=1, max_size=4).map(interleaved),
        )
    )
    zero = draw(st.integers(0, 3)) if dp > 1 else 0
    plan = Plan(
        dp=dp, pp=pp, tp=tp, microbatches=draw(st.integers(1, 4)), schedule=schedule, sharding=Sharding(zero=zero),
        first_bucket_bytes=draw(st.sampled_from([1, 600, 2**20])), bucket_bytes=draw(st.sampled_from([1, 1000, 2**20])),
        algorithm=draw(st.sampled_from(["ring", "ring", "direct", "auto"])),
        runtime=draw(st.sampled_from(RUNTIMES)),
    )  # fmt: skip
    return workload, topology, plan


@settings(max_examples=30)
@given(alike())
def test_folded_is_whole_where_much_is_alike(case):
    compared(*case)


@settings(max_examples=15)
@given(cases(), st.sampled_from(RUNTIMES))
def test_folded_is_whole_where_nothing_need_be(case, runtime):
    compared(case.workload, case.topology, replace(case.plan, runtime=runtime))


LAYERS = [layer(name, parameters={f"{name}.w": 1024}, saved_bytes=64, optimizer_s=0.5) for name in "abcd"]
PLAN = Plan(dp=8, pp=2, microbatches=4)


def test_of_a_result_every_number_is_that_of_the_whole():
    topology = nodes(4, per_node=4, nics=4, inside="1000B/s@100ms", between="700B/s@300ms")
    whole, folded = (simulate(chained(LAYERS, 64), topology, PLAN, fold=fold) for fold in (False, True))
    assert (len(whole.devices), len(folded.devices), folded.n_devices) == (16, 4, 16)
    assert [device.label for device in folded.devices] == ["n0.d0 × 4", "n0.d1 × 4", "n0.d2 × 4", "n0.d3 × 4"]
    assert summary_row(whole) == summary_row(folded)
    few = [len(result.devices) for result in (simulate(chained(LAYERS, 64), topology, PLAN), whole)]
    assert few == [16, 16]  # as many as a table has rows for
    assert "DOES NOT FIT" not in summary(folded)


def test_a_slow_device_unfolds_its_own_replica_alone():
    """Replicas 0 to 7, two devices each, four a node: of two kinds, and the one with the slow device by itself."""
    topology = nodes(4, per_node=4, nics=4, inside="1000B/s@100ms", between="700B/s@300ms")
    devices = topology.devices
    slow = replace(topology, devices=(*devices[:6], replace(devices[6], speed=0.5), *devices[7:]))
    counts = [device.count for device in simulate(chained(LAYERS, 64), slow, PLAN, fold=True).devices]
    assert sum(counts) == 16
    assert counts.count(1) >= 2


@pytest.mark.parametrize("variability", [Variability(), Variability(link_jitter_s=0.5)])
def test_collectives_occupy_all_devices_alike(variability):
    of = {"trials": 3, "variability": variability}
    whole, folded = (simulate_collectives([640, 64], ring(32, link="100B/s@1s"), fold=f, **of) for f in (False, None))
    assert ([one.label for one in folded.devices], len(whole.devices)) == (["d0 × 32"], 32)
    assert summary_row(whole) == summary_row(folded)
    assert {replace(use, name="") for use in whole.devices} == {replace(folded.devices[0], name="", count=1)}


def test_trials_that_draw_are_not_folded():
    drawn = Variability(straggler_probability=0.5, straggler_factor=2.0)
    result = simulate(
        chained(LAYERS, 64), switch(16, link="1000B/s@0"), PLAN, trials=3, variability=drawn, fold=True
    )  # fmt: skip
    assert [device.count for device in result.devices] == [1] * 16


@pytest.mark.slow
@settings(max_examples=100)
@given(alike())
def test_folded_is_whole_for_more_plans(case):
    compared(*case)
