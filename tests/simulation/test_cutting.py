"""Where a plan is cut that leaves its stages open: against all cuts there are, and against slower parts."""

import importlib.util
import random
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
from cases import chained, layer
from hypothesis import given, settings
from random_cases import Case, cases

from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.simulation import simulate
from mpsim.simulation.cutting import fastest_cut, least_step_s
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.model import Device
from mpsim.topology.spec import parse_topology
from mpsim.topology.wire import Wire
from mpsim.workload.file import load_workload
from mpsim.workload.layers import Layer, ShardCollective
from mpsim.workload.model import Workload


def every_step(case: Case) -> dict[tuple[int, ...], float]:
    cuts = combinations(range(1, len(case.workload.layers)), case.plan.pp - 1)
    return {cut: simulate(case.workload, case.topology, replace(case.plan, boundaries=cut)).step_s for cut in cuts}


@pytest.mark.parametrize("rate", ["55MB/s", "100MB/s", "110MB/s", "10GB/s"])
def test_lenet_is_cut_where_its_step_is_shortest(rate):
    """Balanced on one micro-batch, it would send 1.2 MB across the first cut for stages that never overlap."""
    topology = parse_topology(f"torus:2x4,link={rate}@50us")
    case = Case(load_workload("workloads/lenet5.cpu.json"), topology, Plan(pp=2))
    assert simulate(*case).step_s == min(every_step(case).values())


def test_what_one_micro_batch_sends_is_waited_for_and_what_many_send_is_hidden():
    """Four layers of 4 s; 20 s of bytes on the middle cut and 1 s on the last, each way."""
    work = chained([layer(name, (2.0, 2.0, 0.0)) for name in "abcd"], [200, 200, 10, 0])
    topology = chain(2, link=Wire(10.0))
    assert fastest_cut(lower(work, topology, Plan(pp=2))).boundaries == (3,)
    wide = chain(2, link=Wire(100.0))
    assert fastest_cut(lower(work, wide, Plan(pp=2, microbatches=16, schedule="gpipe"))).boundaries == (2,)


def test_a_cut_that_fits_comes_before_a_faster_one():
    """The first device is twice as fast and would take two layers of three, but has room for one."""
    layers = [layer(name, parameters={name: 100}) for name in "abc"]
    fast = Device(name="", speed=2.0)
    for memory_bytes, boundaries in ((0, (2,)), (300, (1,))):
        devices = [replace(fast, memory_bytes=memory_bytes), Device(name="")]
        topology = chain(2, link=Wire(1024.0), devices=devices)
        assert fastest_cut(lower(chained(layers, 0), topology, Plan(pp=2, microbatches=4))).boundaries == boundaries


@pytest.mark.parametrize("recompute", ["", "full", "selective"])
def test_no_step_is_shorter_than_is_said_where_exchanges_go_on_beside_layers(recompute):
    """Of four layers of 3 s the first three have a ring that takes 1 s, hidden in forward and in backward."""
    ring = [
        ShardCollective(kind="send_receive", bytes=64, phase=phase, axis="cp", when="beside")
        for phase in ("forward", "backward")
    ]
    layers = [
        Layer.given(
            name, forward_s=1.0, backward_s=2.0, attention_s=0.5, collectives=ring if name < "d" else (), split="cp=2"
        )
        for name in "abcd"
    ]
    work = Workload.chain("four", layers, activation_bytes=0)
    plan = Plan(pp=2, cp=2, microbatches=4, sharding=Sharding(recompute=recompute))
    lowering = lower(work, fully_connected(4, link=Wire(64.0)), plan)
    least_s = least_step_s(lowering)
    steps = every_step(Case(work, lowering.topology, plan))
    assert all(least <= step_s for least, step_s in zip(least_s([*steps]), steps.values(), strict=True))
    assert recompute or least_s([(2,)]) == [steps[2,]] == [30.0]
    assert simulate(work, lowering.topology, plan).step_s == min(steps.values())


def test_boundaries_that_are_named_stay():
    work = chained([layer(name) for name in "abcd"], 0)
    lowering = lower(work, chain(2, link=Wire(1.0)), Plan(pp=2, boundaries=(1,)))
    assert fastest_cut(lowering) is lowering


@settings(max_examples=60)
@given(cases())
def test_no_cut_of_a_small_model_is_faster(case):
    """All its cuts are weighed, and none that is left out is faster."""
    steps = every_step(case)
    ours = simulate(case.workload, case.topology, replace(case.plan, boundaries=None)).step_s
    assert ours <= min(steps.values()) * (1 + 1e-9)


def test_the_choice_is_the_same_every_time():
    rng = random.Random(1)
    layers = [layer(str(i), (rng.random(), rng.random(), rng.random())) for i in range(24)]
    work = chained(layers, [rng.randrange(1000) for _ in layers])
    plan = Plan(pp=5, microbatches=6)
    found = {fastest_cut(lower(work, chain(5, link=Wire(500.0, 0.1)), plan)).boundaries for _ in range(3)}
    assert len(found) == 1


@pytest.mark.slow
def test_faster_parts_never_slow_a_default_plan_by_its_cut():
    path = Path(__file__).parents[2] / "benchmarks" / "faster_parts.py"
    spec = importlib.util.spec_from_file_location("faster_parts", path)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    rng = random.Random(1)
    verdicts = []
    for i in range(300):
        case = bench.random_case(rng)
        verdicts.append(bench.judge(case, bench.faster(rng, case.topology, bench.CHANGES[i % 3]))[0])
    assert bench.BY_CUT not in verdicts
