"""Pipelines on an ideal network equal their formula to the bit."""

import pytest
from cases import chained, layer

from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.builders import chain
from mpsim.topology.wire import Wire

# Forward and backward of any ratio: sums of up to 79 x (t_f + t_b) are exact.
TIMES = [(1.0, 2.0), (0.375, 0.6875), (3.0, 0.25)]


def check(schedule: str, stages: int, microbatches: int, forward_s: float, backward_s: float) -> None:
    layers = [layer(f"layer{i}", (forward_s, backward_s / 4, 3 * backward_s / 4)) for i in range(stages)]
    plan = Plan(pp=stages, microbatches=microbatches, schedule=schedule)
    result = simulate(chained(layers, 1024), chain(stages, link=Wire(float("inf"))), plan, spans=False)
    assert result.step_s == (microbatches + stages - 1) * (forward_s + backward_s)
    assert result.free_step_s == result.step_s
    busy_s = microbatches * (forward_s + backward_s)
    assert {device.compute_s for device in result.devices} == {busy_s}
    assert {device.idle_s for device in result.devices} == {result.step_s - busy_s}
    assert {device.bubble_s for device in result.devices} == {result.step_s - busy_s}


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages", [1, 2, 3, 5, 8, 16])
def test_step_is_the_formula(schedule, stages):
    for microbatches in (1, 2, 3, 4, 7, 16):
        check(schedule, stages, microbatches, *TIMES[(stages + microbatches) % 3])


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
@pytest.mark.parametrize("stages", range(1, 17))
def test_step_is_the_formula_everywhere(schedule, stages):
    """Each with its own times, of which there are hundreds of ratios, in sixteenths of a second."""
    for microbatches in range(1, 65):
        place = 64 * stages + microbatches
        check(schedule, stages, microbatches, (1 + 7 * place % 47) / 16, (1 + 11 * place % 61) / 16)


@pytest.mark.parametrize("stages", [1, 2, 5])
def test_naive_is_the_sum(stages):
    layers = [layer(f"layer{i}") for i in range(stages)]
    for microbatches in (1, 3):
        plan = Plan(pp=stages, microbatches=microbatches, schedule="naive")
        result = simulate(chained(layers, 1024), chain(stages, link=Wire(float("inf"))), plan, spans=False)
        assert result.step_s == microbatches * stages * 3.0
