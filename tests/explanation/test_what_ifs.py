"""Each what-if is what simulating the changed input gives; what cannot be run says why."""

from dataclasses import replace

import pytest
from hand_explained import SLOW, launched, work

from mpsim import Plan, explain, parse_topology, simulate
from mpsim.plan.schedules import parse_rows
from mpsim.topology.edit import replace_device
from mpsim.topology.model import Topology

NODES = "nodes:2,per_node=2,nics=2,inside=4kB/s@1ms,between=1kB/s@10ms"
ROWS = parse_rows("0F0 0B0\n1F0 1B0")
ALIKE = "stages that take equally long"


def asked(workload, topology, plan, **given):
    """Return the what-ifs by name."""
    topology = topology if isinstance(topology, Topology) else parse_topology(topology)
    return {one.name: one for one in explain(workload, topology, plan, **given).what_ifs}


def sized(seconds):
    """Return what a micro-batch of 1 takes, and one of 2, in which half the time is not lost."""
    return {1: 0.625 * seconds, 2: seconds}


@pytest.fixture(scope="module")
def hybrid():
    """A pipeline of two unlike stages in two replicas, one on each node, its explanation's what-ifs by name."""
    times = [(1.0, 2.0), (1.5, 2.0), (2.0, 4.0), (0.5, 1.0)]
    layers = work(*[(sized(f), sized(b)) for f, b in times], parameter_bytes=1000)
    plan = Plan(dp=2, pp=2, microbatches=4, batch=16, boundaries=(1,))
    return layers, plan, asked(layers, NODES, plan)


def test_each_is_what_simulating_the_changed_input_gives(hybrid):
    layers, plan, found = hybrid
    now = simulate(layers, parse_topology(NODES), plan)
    run = [one for one in found.values() if one.plan is not None]
    assert len(run) == 8
    for one in run:
        then = simulate(layers, one.topology, one.plan)
        assert (one.step_s, one.global_batch, one.fits) == (then.step_s, then.global_batch, then.fits)
        assert one.gain_fraction == pytest.approx(1 - then.step_s / then.global_batch * 16 / now.step_s, abs=1e-12)


def test_what_each_changes(hybrid):
    _, plan, found = hybrid
    old = parse_topology(NODES)
    (best,) = [name for name in found if name.startswith("next-best schedule: ")]
    changed = {name: one.plan for name, one in found.items() if one.plan not in (None, plan)}
    assert changed == {
        "one more node": replace(plan, dp=3, batch=24),
        "stages cut anew": replace(plan, boundaries=None),
        "twice the micro-batches": replace(plan, microbatches=8),
        "twice the batch": replace(plan, microbatches=8, batch=32),
        best: changed[best],
    }
    assert changed[best].schedule == best.removeprefix("next-best schedule: ")
    assert found["one more node"].topology == parse_topology(NODES.replace("nodes:2", "nodes:3"))
    assert {link.latency_s for link in found["no latency"].topology.links} == {0.0}
    for kind, wide in (("4 kB/s links", 4000.0), ("1 kB/s links", 1000.0)):
        new = found[f"{kind} twice as fast"].topology
        for before, after in zip(old.links, new.links, strict=True):
            times = 2 if before.bandwidth_bytes_per_s == wide else 1
            assert after == replace(before, bandwidth_bytes_per_s=times * before.bandwidth_bytes_per_s)


def test_the_most_gained_comes_first_and_reasons_last(hybrid):
    *_, found = hybrid
    gains = [one.gain_fraction for one in found.values()]
    assert gains[-1] is None
    assert found["CUDA graphs"].reason.startswith("the trace has one clock")
    assert gains[:-1] == sorted(gains[:-1], reverse=True)


def test_no_other_schedule_is_faster_than_the_next_best_one(hybrid):
    layers, plan, found = hybrid
    (best,) = [one for name, one in found.items() if name.startswith("next-best")]
    for name in ("gpipe", "zb-h1", "interleaved-1f1b", "dualpipe", "zb-auto"):
        other = replace(plan, schedule=name, boundaries=plan.boundaries if name in ("gpipe", "zb-h1") else None)
        assert best.step_s <= simulate(layers, parse_topology(NODES), other).step_s


def test_stages_that_take_equally_long_are_layers_that_do():
    plan = Plan(pp=2, microbatches=3, boundaries=(1,))
    unlike, alike = work((1.0, 2.0), (2.0, 4.0)), work((1.5, 3.0), (1.5, 3.0))
    found = asked(unlike, SLOW, plan)[ALIKE]
    assert (
        found.step_s
        == simulate(alike, parse_topology(SLOW), plan).step_s
        < simulate(unlike, parse_topology(SLOW), plan).step_s
    )
    # To launch them too takes equally long.
    plan = replace(plan, microbatches=1)
    found = asked(launched((1.0, 0.5), (3.0, 0.5)), SLOW, plan)[ALIKE]
    assert found.step_s == simulate(launched((2.0, 0.5), (2.0, 0.5)), parse_topology(SLOW), plan).step_s


def test_devices_that_take_equally_long_are_alike():
    pair = parse_topology(SLOW)
    unlike = replace_device(replace_device(pair, "d0", speed=0.5), "d1", speed=0.25)
    found = asked(work((1.0, 2.0), parameter_bytes=1000), unlike, Plan(dp=2))["devices that take equally long"]
    # 6 and 12 s of computing, 9 in the mean; 1 s of reduction.
    assert found.step_s == 10.0


def test_graphs_launch_for_nothing():
    found = asked(launched((2.0, 0.5)), SLOW, Plan())["CUDA graphs"]
    assert (found.step_s, found.plan.launch) == (1.5, "graphs")
    graphs = asked(launched((2.0, 0.5)), SLOW, Plan(launch="graphs"))["CUDA graphs"]
    assert graphs.reason == "the plan launches by graphs already"


@pytest.mark.parametrize("fold", [True, False])
def test_of_ranks_that_stand_for_others_too(fold):
    layers = work((1.0, 2.0), (1.0, 2.0), parameter_bytes=1000)
    plan, many = (
        Plan(dp=10, pp=2, microbatches=2),
        parse_topology("nodes:10,per_node=2,nics=2,inside=4kB/s@1ms,between=1kB/s@2ms"),
    )
    found = asked(layers, many, plan, fold=fold)
    for name in ("1 kB/s links twice as fast", "no latency", "one more node"):
        one = found[name]
        assert one.step_s == simulate(layers, one.topology, one.plan, fold=not fold).step_s


def test_measured_costs_of_faster_links_move_bytes_as_much_faster():
    layers = work((1.0, 2.0), parameter_bytes=10**9)
    found = asked(layers, "dgx_h100:1", Plan(dp=8))
    for name in ("nvlink4 twice as fast", "no latency"):
        one = found[name]
        assert one.step_s == simulate(layers, one.topology, one.plan).step_s
        assert one.gain_fraction > 0
    costs = [regime for cost in found["no latency"].topology.costs for regime in cost.regimes]
    assert {(regime.launch_s, regime.step_s) for regime in costs} == {(0.0, 0.0)}


@pytest.mark.parametrize(
    ("topology", "plan", "name", "reason"),
    [
        (NODES, Plan(dp=2), "one more node", "the plan stands on 2 of 4 devices: give it those first"),
        (NODES, Plan(dp=4, devices=(3, 2, 1, 0)), "one more node", "the plan stands on 4 of 4 devices, each named"),
        ("torus:2x2,link=1kB/s@0", Plan(dp=4), "one more node", "torus:2x2 has several sizes"),
        ("switch:3,link=1kB/s@0", Plan(dp=1, pp=3), "one more node", "3 layers cannot make 4 stages"),
        (SLOW, Plan(pp=2), "stages cut anew", "the plan leaves its stages open"),
        (SLOW, Plan(pp=2, schedule=ROWS), "next-best schedule", "is no registered one"),
        (SLOW, Plan(pp=2, schedule=ROWS), "twice the batch", "is no registered one"),
        (SLOW, Plan(pp=2, schedule="pipedream", microbatches=2), "next-best schedule", "updates amid the step"),
        (SLOW, Plan(dp=2), "next-best schedule", "the plan has one pipeline rank"),
        (SLOW, Plan(dp=2), "twice the micro-batches", "a micro-batch of 1 samples has no halves"),
        (SLOW, Plan(dp=2), "devices that take equally long", "the plan has one stage, on devices that are alike"),
    ],
)  # fmt: skip
def test_what_cannot_be_run_says_why(topology, plan, name, reason):
    one = asked(work((1.0, 2.0), (1.0, 2.0), (1.0, 2.0), parameter_bytes=8), topology, plan)[name]
    assert (one.step_s, one.gain_fraction, one.plan) == (None, None, None)
    assert reason in one.reason


def test_a_topology_that_was_changed_grows_in_no_known_way():
    pair = parse_topology(SLOW)
    other = replace(pair, devices=tuple(replace(one, speed=2.0) for one in pair.devices))
    for changed in (other, replace(pair, name="mine")):
        one = asked(work((1.0, 2.0)), changed, Plan(dp=2))["one more node"]
        assert one.reason.endswith("is not as a builder makes it: nobody knows how it grows")
