"""Trials drawn many at once: the bits of each drawn and replayed by itself."""

from dataclasses import fields, replace
from functools import partial

import numpy as np
import pytest
from cases import chained, layer
from hypothesis import given, settings
from hypothesis import strategies as st
from random_cases import cases

from mpsim.engine.replay import replay
from mpsim.engine.straight import Straight
from mpsim.errors import MpsimError
from mpsim.lowering.draws import Trials, Variability
from mpsim.lowering.emit import program_of
from mpsim.lowering.lower import lower
from mpsim.lowering.redraw import Redrawn
from mpsim.plan.model import Plan
from mpsim.plan.sharding import Sharding
from mpsim.simulation.trials import drawn_steps, trial_steps
from mpsim.topology.builders import chain, fully_connected
from mpsim.workload.layers import Samples

VARIED = [Variability(), Variability(link_jitter_s=0.125), Variability(straggler_probability=0.5, straggler_factor=2.0)]


def sampled(workload, draw):
    """Return the workload with up to three samples of each time, those of what adding to gradients takes too."""
    layers = []
    for one in workload.layers:
        n = draw(st.integers(1, 3))
        times = st.lists(st.floats(0.0, 4.0, allow_subnormal=False), min_size=n, max_size=n).map(tuple)
        samples = Samples(**{field.name: draw(times) for field in fields(Samples)})
        layers.append(replace(one, costs=tuple(replace(cost, samples=samples) for cost in one.costs)))
    return replace(workload, layers=tuple(layers))


def compared(workload, topology, plan, variability) -> int:
    """Check each trial against the one replayed by itself; return how many were had at once."""
    lowering = lower(workload, topology, plan)
    trials = Trials(count=5, rng=3, variability=variability)
    redrawn, draws = Redrawn(lowering), [trials.draw(trial) for trial in range(5)]
    durations, late = redrawn.durations(draws), redrawn.late(draws)
    for trial, draw in enumerate(draws):
        tasks = program_of(lowering, draw).tasks
        assert [task.duration_s for task in tasks] == durations[:, trial].tolist()
    alone = trial_steps(partial(program_of, lowering), topology, trials)
    assert drawn_steps(redrawn, topology, trials) == alone
    for trial, step_s in enumerate(alone):
        own = None if late is None else late[:, trial].tolist()
        assert replay(redrawn.program, topology, durations=durations[:, trial].tolist(), late=own).step_s == step_s
    if not Straight.applies(redrawn.program, topology):
        return 0
    found = Straight(redrawn.program, topology).play(durations, late).step_s
    had = [(a, b) for a, b in zip(found.tolist(), alone, strict=True) if a == a]
    assert all(a == b for a, b in had)
    return len(had)


@settings(max_examples=40)
@given(st.data(), cases(), st.sampled_from(VARIED), st.integers(0, 3))
def test_many_at_once_are_each_by_itself(data, case, variability, zero):
    plan = replace(case.plan, sharding=Sharding(zero=zero if case.plan.dp > 1 else 0))
    try:
        compared(sampled(case.workload, data.draw), case.topology, plan, variability)
    except MpsimError as error:
        assert str(error).startswith("deadlock")  # noqa: PT017 - of a random schedule


@pytest.mark.parametrize("variability", VARIED)
def test_what_is_alone_on_its_links_is_had_at_once(variability):
    """Two replicas of a pipeline whose links nobody shares."""
    some = Samples(forward_s=(1.0, 2.0), backward_input_s=(1.0, 3.0), backward_weight_s=(0.5, 1.0))
    layers = [layer(name, parameters={f"{name}.w": 64}) for name in "ab"]
    layers = [replace(one, costs=(replace(one.costs[0], samples=some),)) for one in layers]
    plan = Plan(dp=2, pp=2, microbatches=3)
    assert compared(chained(layers, 64), fully_connected(4, link="1000B/s@1ms"), plan, variability) == 5


def test_where_transfers_meet_the_trial_is_replayed():
    """Both replicas send over the link from 1 to 2: what meets there in a trial only its replay knows."""
    some = Samples(forward_s=(1.0, 2.0), backward_input_s=(1.0, 3.0), backward_weight_s=(0.5, 1.0))
    layers = [layer(name) for name in "ab"]
    layers = [replace(one, costs=(replace(one.costs[0], samples=some),)) for one in layers]
    topology = chain(4, link="600B/s@0")
    lowering = lower(chained(layers, 600), topology, Plan(dp=2, pp=2, microbatches=2, devices=(0, 2, 1, 3)))
    trials = Trials(count=40, rng=1)
    redrawn, draws = Redrawn(lowering), [trials.draw(trial) for trial in range(40)]
    known = ~np.isnan(Straight(redrawn.program, topology).play(redrawn.durations(draws), None).step_s)
    assert 0 < known.sum() < 40
    one_by_one = trial_steps(partial(program_of, lowering), topology, trials)
    assert drawn_steps(redrawn, topology, trials) == one_by_one
    assert drawn_steps(redrawn, topology, replace(trials, processes=2)) == one_by_one
