"""Trials: the same seed gives the same bits, and compared plans meet the same draws."""

import math
from collections import Counter
from functools import partial
from statistics import mean

import numpy as np
import pytest
from cases import chained, layer

from mpsim.errors import MpsimError
from mpsim.lowering.draws import Draw, Trials, Variability
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.plan.model import Plan
from mpsim.plan.schedules import Operation
from mpsim.processes import worker_pool
from mpsim.simulation import simulate, simulate_collectives
from mpsim.simulation.trials import trial_steps
from mpsim.topology.builders import chain, fully_connected
from mpsim.topology.model import Device
from mpsim.topology.wire import Wire
from mpsim.workload.model import Cost, Layer, Samples, Workload

WIRE = Wire(1024.0, 0.125)
TIMES = (1.0, 1.25, 1.5, 1.75, 3.0)


def measured(name: str, times=TIMES) -> Layer:
    samples = Samples(forward_s=times, backward_input_s=times, backward_weight_s=times, optimizer_s=(0.5, 0.75))
    return Layer(name=name, costs=(Cost(microbatch=1, samples=samples),))


WORK = chained([measured(name) for name in "abcd"], 512)
NOISY = Variability(link_jitter_s=0.5, straggler_probability=0.25, straggler_factor=2.0)
PLAN = Plan(dp=2, pp=2, microbatches=3)


def steps(plan=PLAN, **keywords):
    keywords = {"trials": 8, "rng": 1, "variability": NOISY, "spans": False} | keywords
    return simulate(WORK, fully_connected(4, link=WIRE), plan, **keywords)


def test_same_seed_same_bits_in_any_number_of_processes():
    one = steps()
    assert len(set(one.trial_step_s)) == 8
    assert steps() == one
    assert steps(processes=2) == one


@pytest.mark.slow
def test_same_seed_same_bits_in_eight_processes():
    assert steps(trials=40, processes=8) == steps(trials=40)


def test_other_seeds_other_bits():
    assert not set(steps(rng=2).trial_step_s) & set(steps().trial_step_s)


def test_a_trial_depends_on_its_number_alone():
    assert steps(trials=3).trial_step_s == steps().trial_step_s[:3]
    lowering = lower(WORK, fully_connected(4, link=WIRE), PLAN)
    shuffled = {k: program_of(lowering, Draw(seed=1, trial=k, variability=NOISY)) for k in (5, 0, 3)}
    again = {k: program_of(lowering, Draw(seed=1, trial=k, variability=NOISY)) for k in (0, 3, 5)}
    for k in (0, 3, 5):
        assert shuffled[k].tasks[0].duration_s == again[k].tasks[0].duration_s
        assert [t.duration_s for t in shuffled[k].tasks] == [t.duration_s for t in again[k].tasks]


def test_a_generator_may_be_given():
    assert steps(rng=np.random.default_rng(5)) == steps(rng=np.random.default_rng(5))
    assert steps(rng=np.random.default_rng(5)).trial_step_s != steps(rng=np.random.default_rng(6)).trial_step_s


def test_the_result_is_that_of_the_middle_trial():
    for seed in range(4):
        result = steps(spans=True, rng=seed)
        assert result.step_s == sorted(result.trial_step_s)[3]
        assert max(result.spans.end_s) == result.step_s
        assert result.trials == 8


def test_where_nothing_is_random_one_replay_stands_for_all():
    work = chained([layer("a"), layer("b")], 512)
    result = simulate(work, chain(2, link=WIRE), Plan(pp=2), trials=1000)
    assert (result.trials, len(result.trial_step_s)) == (1000, 1)
    nothing = Variability(straggler_probability=0.0, straggler_factor=5.0)
    assert simulate(work, chain(2, link=WIRE), Plan(pp=2), trials=9, variability=nothing).trial_step_s == (7.25,)


def test_one_trial_is_the_median():
    assert simulate(WORK, chain(1, link=WIRE), Plan()).step_s == 4 * 3 * 1.5 + 4 * 0.625


# The same draws for compared plans.


def durations(plan: Plan, trial: int = 0, variability: Variability | None = None) -> dict[tuple[str, int], float]:
    """Return the time of each kind of pass of each micro-batch of the global batch, over all layers."""
    draw = Draw(seed=3, trial=trial, variability=variability or Variability())
    lowering = lower(WORK, fully_connected(8, link=WIRE), plan)
    rank_of = {device: rank for rank, device in enumerate(lowering.place)}
    program = program_of(lowering, draw)
    found: dict[tuple[str, int], float] = Counter()
    for task in program.tasks:
        if task.traffic is None and task.kind != "optimizer":
            replica = rank_of[program.streams[task.streams[0]].device] // (plan.pp * plan.tp)
            found[task.kind, replica * plan.microbatches + task.microbatch] += task.duration_s
    return dict(found)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(pp=4, microbatches=8),
        Plan(pp=2, microbatches=8, schedule="gpipe", boundaries=(1,)),
        Plan(dp=2, microbatches=4),
        Plan(dp=4, pp=2, microbatches=2),
        Plan(dp=8, microbatches=1, bucket_bytes=1),
        Plan(pp=2, microbatches=8, devices=(5, 3)),
        Plan(pp=2, microbatches=8, runtime="blocking"),
    ],
)
def test_compared_plans_meet_the_same_draws(plan):
    """Micro-batch k of the batch takes as long in each layer wherever that layer stands (sums of dyadic times)."""
    for trial in (0, 7):
        assert durations(plan, trial) == durations(Plan(microbatches=8), trial)
    assert durations(plan, 0) != durations(plan, 7)


def test_link_jitter_and_stragglers_leave_the_layers_draws_alone():
    jitter = Variability(link_jitter_s=3.0)
    assert durations(PLAN, 0, jitter) == durations(PLAN, 0)
    slow = Variability(straggler_probability=1.0, straggler_factor=2.0)
    assert durations(PLAN, 0, slow) == {key: 2 * value for key, value in durations(PLAN, 0).items()}


def test_every_draw_is_a_sample_and_each_is_as_likely():
    one = Workload.chain("one", [measured("a")])
    lowering = lower(one, chain(1, link=WIRE), Plan(microbatches=500))
    counts: Counter[float] = Counter()
    for trial in range(4):
        program = program_of(lowering, Draw(seed=0, trial=trial))
        counts.update(task.duration_s for task in program.tasks if task.kind == "forward")
    assert set(counts) == set(TIMES)
    # 2000 draws of 5 samples: 400 each, with a standard deviation of 18.
    assert all(abs(count - 400) < 5 * math.sqrt(2000 * 0.2 * 0.8) for count in counts.values())


def test_jitter_is_exponential_and_in_the_latency():
    lowering = lower(WORK, chain(4, link=WIRE), Plan(pp=4, microbatches=250))
    plain, late = (
        [task.traffic.latency_s for task in program_of(lowering, draw).tasks if task.traffic]
        for draw in (None, Draw(seed=0, trial=0, variability=Variability(link_jitter_s=0.5)))
    )
    extra = [b - a for a, b in zip(plain, late, strict=True)]
    assert min(extra) >= 0
    assert mean(extra) == pytest.approx(0.5, rel=5 / math.sqrt(len(extra)))
    assert mean(value > 0.5 * math.log(2) for value in extra) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(len(extra)))


def test_stragglers_are_devices_for_a_whole_trial():
    slow = [Draw(seed=0, trial=k, variability=NOISY).slowdown(device) for k in range(200) for device in range(10)]
    assert set(slow) == {1.0, 2.0}
    # Devices of one trial are slow each for itself.
    assert mean(len(set(slow[k : k + 10])) == 2 for k in range(0, 2000, 10)) > 0.8
    assert mean(value == 2.0 for value in slow) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / 2000))


# Refusals.


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"trials": 0}, "trials is 0, expected 1 or more"),
        ({"processes": 0}, "processes is 0, expected 1 or more"),
        ({"rng": -1}, "seed is -1, expected 0 or more"),
    ],
)
def test_bad_numbers(keywords, message):
    with pytest.raises(MpsimError, match=message):
        steps(**keywords)


@pytest.mark.parametrize(
    "fields",
    [
        {"link_jitter_s": -1.0},
        {"link_jitter_s": math.nan},
        {"link_jitter_s": math.inf},
        {"straggler_probability": 1.5},
        {"straggler_probability": math.nan},
        {"straggler_factor": 0.5},
        {"straggler_factor": math.inf},
    ],
)
def test_bad_variability(fields):
    with pytest.raises(MpsimError, match="expected"):
        Variability(**fields)


def test_a_schedule_that_other_processes_cannot_have_is_refused_in_one_line():
    def rows(stages, microbatches):
        return [[Operation(s, kind, k) for k in range(microbatches) for kind in "FB"] for s in range(stages)]

    plan = Plan(pp=2, microbatches=2, schedule=rows)
    topology = chain(2, link=WIRE)
    assert len(simulate(WORK, topology, plan, trials=3, processes=1).trial_step_s) == 3
    with pytest.raises(MpsimError, match="2 processes cannot share the trials") as error:
        simulate(WORK, topology, plan, trials=3, processes=2)
    assert "\n" not in str(error.value)


def test_more_processes_than_trials():
    lowering = lower(WORK, chain(2, link=WIRE), Plan(pp=2))
    trials = Trials(count=2, processes=3)
    assert len(trial_steps(partial(program_of, lowering), chain(2, link=WIRE), trials)) == 2


def test_trials_are_one_value():
    trials = Trials(count=3, rng=5, variability=NOISY, processes=2)
    assert trials == Trials(count=3, rng=5, variability=NOISY, processes=2)
    assert trials.seeded() == trials
    assert trials.draw(2) == Draw(seed=5, trial=2, variability=NOISY)


def test_a_generator_gives_all_trials_one_seed():
    trials = Trials(count=3, rng=np.random.default_rng(5)).seeded()
    assert trials.rng == int(np.random.default_rng(5).integers(2**63))
    assert {trials.draw(i).seed for i in range(3)} == {trials.rng}


@pytest.mark.parametrize(
    ("trials", "of_random_layers", "of_fixed_layers"),
    [
        (Trials(), False, False),
        (Trials(count=2), True, False),
        (Trials(variability=NOISY), True, True),
        (Trials(count=2, variability=Variability(straggler_factor=5.0)), True, False),
    ],
)
def test_when_trials_differ(trials, of_random_layers, of_fixed_layers):
    assert trials.differ(random=True) == of_random_layers
    assert trials.differ(random=False) == of_fixed_layers


# Collectives alone.


def test_collectives_alone_vary_only_with_jitter():
    topology = fully_connected(4, link=WIRE)
    fixed = simulate_collectives([4096, 1024], topology, trials=8)
    assert fixed.trial_step_s == (fixed.step_s,)
    jitter = Variability(link_jitter_s=0.25)
    late = simulate_collectives([4096, 1024], topology, trials=8, variability=jitter)
    assert len(set(late.trial_step_s)) == 8
    assert min(late.trial_step_s) > fixed.step_s
    assert late == simulate_collectives([4096, 1024], topology, trials=8, variability=jitter, processes=2)


def test_a_slow_type_has_its_own_samples():
    """Devices of a type with a workload of its own draw from that, at the same quantiles."""
    other = chained([measured(name, tuple(2 * t for t in TIMES)) for name in "abcd"], 512)
    topology = chain(2, link=WIRE, devices=[Device(name=""), Device(name="", type="old")])
    lowering = lower(WORK, topology, Plan(dp=2), by_type={"old": other})
    plain = lower(WORK, chain(2, link=WIRE), Plan(dp=2))
    draw = Draw(seed=9, trial=0)
    program = program_of(lowering, draw)
    for ours, theirs in zip(program.tasks, program_of(plain, draw).tasks, strict=True):
        twice = program.streams[ours.streams[0]].device == 1 and ours.kind != "optimizer"
        assert ours.duration_s == (2 if twice else 1) * theirs.duration_s


def test_no_process_is_started_without_a_trial_for_it(monkeypatch):
    started = []

    def pool(processes: int):
        started.append(processes)
        return worker_pool(processes)

    monkeypatch.setitem(trial_steps.__globals__, "worker_pool", pool)
    assert steps(trials=2, processes=100_000) == steps(trials=2)
    assert started == [2]
