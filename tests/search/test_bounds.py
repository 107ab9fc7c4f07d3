"""No step is shorter, and no device holds less, than the bounds say; hand-worked ones are exact."""

import math
from dataclasses import replace

import numpy as np
import pytest
from cases import chained, layer
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cases import topologies, workloads

from mpsim.errors import MpsimError
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.schedules import SCHEDULES
from mpsim.plan.sharding import Sharding
from mpsim.search.facts import facts_of
from mpsim.search.space import Axes, families, variants
from mpsim.search.study import Study
from mpsim.topology.builders import chain, ring, switch
from mpsim.topology.model import Device
from mpsim.topology.wire import Wire

SYNCHRONOUS = tuple(name for name in SCHEDULES if name not in ("pipedream", "zb-auto"))


def study_of(times, n=4, wire=None, **fields):
    layers = [layer(f"l{i}", each, **fields) for i, each in enumerate(times)]
    return Study(chained(layers, 0), chain(n, link=wire or Wire(math.inf)))


# By hand.


def test_a_pipeline_of_alike_layers_fills_and_drains() -> None:
    """Four stages of 3 s, 8 micro-batches: the last begins after 3 forwards of 1 s, and three backwards follow."""
    bounds = study_of([(1.0, 1.0, 1.0)] * 4).bounds
    assert bounds.close(Plan(pp=4, microbatches=8)).step_s == 3 + 8 * 3 + 6 == 33


def test_the_best_cut_of_unlike_layers_counts() -> None:
    """Of 6, 3 and 3 s on two stages: 4 micro-batches of 6 s, behind two forwards and before four seconds back."""
    times = [(2.0, 2.0, 2.0), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)]
    least = study_of(times).bounds.close(Plan(pp=2, microbatches=4))
    assert least.step_s == 2 + 4 * 6 + 4 == 30


def test_gradients_that_outlast_their_backward_count() -> None:
    """One layer of 1 + 2 s: 2 micro-batches, then 8 s of all-reduce from the last backward on: 4 + 8."""
    layers = [layer("a", (1.0, 1.0, 1.0), parameters={"a": 1024})]
    bounds = Study(chained(layers, 0), ring(2, link=Wire(128.0))).bounds
    assert bounds.close(Plan(dp=2, microbatches=2)).step_s == 1 + 2 + 1 + 1024 / 128


def test_what_is_held_at_least() -> None:
    """Stages of a 1F1B: state 6 and gradients 2 throughout its end, activations of 5 for each micro-batch ahead."""
    study = study_of([(1.0, 1.0, 1.0)] * 2, 2, parameters={"w": 2}, optimizer_bytes=4, saved_bytes=5)
    for index, one in enumerate(study.workload.layers):
        assert one.shards[0].parameter_bytes == 2, index
    assert study.bounds.close(Plan(pp=2, microbatches=8)).memory_bytes >= 6 + 5


# At random.


@st.composite
def plans(draw):
    tp = draw(st.sampled_from([1, 1, 2]))
    workload = draw(workloads(tp))
    topology = draw(topologies(draw(st.integers(1, 6))))
    unlike = draw(st.booleans())
    if unlike:
        speeds = draw(st.lists(st.sampled_from([1.0, 1.0, 2.0, 0.5]), min_size=8, max_size=8))
        devices = [
            replace(one, speed=speed, memory_bytes=draw(st.sampled_from([0, 4000, 9000])))
            for one, speed in zip(topology.devices, speeds * 2, strict=False)
        ]
        topology = replace(topology, devices=tuple(devices))
    batch = draw(st.sampled_from([1, 2, 4, 8, 12]))
    axes = Axes(
        schedules=(draw(st.sampled_from(SYNCHRONOUS)),), recompute=(draw(st.sampled_from(["", "full", "stages"])),),
        shards=draw(st.sampled_from([(), (0, 2)])),
    )  # fmt: skip
    base = Plan(
        batch=batch, first_bucket_bytes=draw(st.sampled_from([1, 600, 2**20])),
        bucket_bytes=draw(st.sampled_from([1, 1000, 2**20])), runtime=draw(st.sampled_from(["ideal", "blocking"])),
        algorithm=draw(st.sampled_from(["ring", "direct"])),
    )  # fmt: skip
    try:
        made, _ = families(workload, len(topology.devices), batch, axes)
    except MpsimError:
        made = []
    found = [plan for family in made for plan in variants(workload, family, base, axes)]
    chosen = draw(st.sampled_from(found)) if found else base
    return Study(workload, topology), chosen


@settings(max_examples=150)
@given(plans())
def test_nothing_is_less_than_its_bound(case) -> None:
    study, plan = case
    row = study.row(plan)
    try:
        found = [study.bounds.rough(plan), study.bounds.close(plan), study.timed(plan)[1]]
        lower(study.workload, study.topology, plan)
    except MpsimError:
        assert row["reason"]
        return
    cut, least = study.cut(plan)
    found.append(least)
    assert least == study.cut(cut)[1]
    assert least.memory_bytes >= max(study.bounds.of(plan).memory.lowered(lower(study.workload, study.topology, cut)))
    if row["reason"]:  # such as a deadlock, which only a replay tells
        return
    for least in found:
        assert least.step_s <= row["step_s"] * (1 + 1e-9)
        assert least.memory_bytes <= row["highest_peak_memory_bytes"]
        assert not least.overflows or row["fits"] is False
    assert study.bounds.work_s(plan) <= row["step_s"] * (1 + 1e-9)


@pytest.mark.parametrize(("dp", "zero", "shards"), [(2, 0, 0), (2, 1, 0), (2, 2, 0), (2, 3, 0), (4, 1, 2), (4, 3, 2)])
@pytest.mark.parametrize("schedule", SYNCHRONOUS)
def test_replicas_of_each_schedule_are_no_faster_than_their_bound(schedule, dp, zero, shards) -> None:
    layers = [
        layer(f"l{i}", (1.0, 1.0 + i % 2, 0.5), parameters={f"p{i}": 600 * (1 + i % 3)}, saved_bytes=100 + i)
        for i in range(8)
    ]
    topology = switch(8, link=Wire(500.0, 0.25), devices=[Device(name="", memory_bytes=3000)] * 8)
    study = Study(chained(layers, 300), topology)
    sharding = Sharding(zero=zero, shards=shards)
    plan = Plan(dp=dp, pp=2, microbatches=4, batch=4 * dp, schedule=schedule, sharding=sharding)
    row = study.row(plan)
    assert row["reason"] is None
    for least in (study.bounds.rough(plan), study.bounds.close(plan), study.cut(plan)[1]):
        assert 0 < least.step_s <= row["step_s"] * (1 + 1e-9)
        assert 0 < least.memory_bytes <= row["highest_peak_memory_bytes"]
    least = study.timed(plan)[1]
    assert least.step_s <= row["step_s"] * (1 + 1e-9)
    assert least.memory_bytes <= row["highest_peak_memory_bytes"]
    assert not least.overflows or row["fits"] is False


@pytest.mark.parametrize("recompute", ["", "full"])
@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("schedule", SYNCHRONOUS)
def test_what_is_held_in_order_is_held(schedule, zero, recompute, monkeypatch) -> None:
    """Of 20 micro-batches on four ranks the rows of 12 tell what is held, to the byte where no exchange outlasts it."""
    monkeypatch.setattr("mpsim.search.memory._NEAR", 0.0)
    layers = [
        layer(f"l.{i}", (1.0, 1.0 + i % 2, 0.5), parameters={f"p{i}": 600 * (1 + i % 3)}, saved_bytes=100 + i)
        for i in range(12)
    ]
    topology = switch(8, link=Wire(50_000.0), devices=[Device(name="", memory_bytes=10**6)] * 8)
    study = Study(chained(layers, 300), topology)
    sharding = Sharding(zero=zero, recompute=recompute)
    plan = Plan(dp=2, pp=4, microbatches=20, batch=40, schedule=schedule, sharding=sharding)
    cut, least = study.cut(plan)
    peak_bytes = study.row(cut)["highest_peak_memory_bytes"]
    assert max(study.bounds.of(plan).memory.lowered(lower(study.workload, topology, cut))) <= least.memory_bytes
    if zero:
        assert 0.97 * peak_bytes <= least.memory_bytes <= peak_bytes
    else:
        assert least.memory_bytes == peak_bytes


@pytest.mark.parametrize("microbatches", [48, 52])
@pytest.mark.parametrize("schedule", SYNCHRONOUS)
def test_what_is_said_of_many_microbatches_is_held_at_some_moment(schedule, microbatches) -> None:
    """Rows of fewer stand for many: each rank has as much of each stage under way at once, with as many gradients."""
    plan = Plan(pp=8, microbatches=microbatches, batch=microbatches, schedule=schedule)
    facts = facts_of(plan)
    for rank, row in enumerate(plan.rows()):
        own = [*facts.shape.held_by(rank)]
        moments = facts.moments[rank]
        assert moments.stages.tolist() == own
        there = [*_under_way(row, own)]
        for counts, late in ((facts.held, False), (facts.again, True)):
            asked = np.array([counts[stage] for stage in own])
            assert not asked.any() or any(
                (kept >= asked).all() for *_, kept, _, made in there if made.any() or not late
            )
        for at, kind, known, kept, again, made in zip(*moments[1:], strict=True):
            assert any(
                (stage, what, first) == (own[at], "FBI"[kind], known)
                and all((one >= other).all() for one, other in ((held, kept), (twice, again), (over, made)))
                for stage, what, first, held, twice, over in there
            ), (rank, own[at], kind)


def test_rows_of_ones_own_are_looked_at_whole() -> None:
    """This one has all micro-batches under way at once where they are few, and of many one: that alone counts."""

    def careful(ranks, microbatches):
        return SCHEDULES["gpipe" if microbatches < 16 else "naive"](ranks, microbatches)

    plan = Plan(pp=2, microbatches=16, batch=16, schedule=careful)
    assert facts_of(plan).microbatches == 16
    assert facts_of(plan).held == facts_of(replace(plan, schedule="naive")).held == (1, 1)
    assert facts_of(replace(plan, schedule="zb-auto")).microbatches == 16  # fitted to its stages


def _under_way(row, own):
    """Yield of each forward and backward what its rank then has, of each of its stages."""
    kept, again, made = np.zeros(len(own), int), np.zeros(len(own), int), np.zeros(len(own), bool)
    for stage, kind, *_ in row:
        at = own.index(stage)
        kept[at] += kind == "F"
        again[at] += kind == "I"
        if kind in "FBI":
            yield stage, kind, kind == "F" or made[at], kept.copy(), again.copy(), made.copy()
        if kind in "BW":
            made[at] = True
            kept[at] -= 1
            again[at] -= kind == "W"
