"""How fast ranks compute, alone and beside communication: what is measured, and what it makes of a topology."""

import pytest

pytest.importorskip("torch")

from mpsim.emulate.pace import Pace, with_paces
from mpsim.lowering.instructions import Compute, Script
from mpsim.topology.builders import ring
from mpsim.topology.wire import Wire

FOUR = ring(4, link=Wire(1e9, 1e-6))


def script(device: int, *computations: Compute) -> Script:
    return Script(device=device, rank=0, steps=computations)


def passes(*seconds: float) -> tuple[Compute, ...]:
    return tuple(Compute(0, "F", i, 0, 1, one) for i, one in enumerate(seconds))


def test_speed_is_what_was_traced_over_what_was_measured_and_the_slowdown_is_of_all():
    update = Compute(0, "U", -1, 0, 1, 9.0)  # Not timed, and so not counted.
    found = with_paces(
        FOUR,
        (script(2, *passes(1.0, 2.0), update), script(0, *passes(4.0))),
        (Pace(alone_s=6.0, beside_s=6.0), Pace(alone_s=2.0, beside_s=4.0)),
    ).devices
    assert [device.speed for device in found] == [2.0, 1.0, 0.5, 1.0]
    assert [device.overlap_slowdown for device in found] == [1.5, 1.0, 1.5, 1.0]


def test_what_gets_faster_beside_communication_is_noise_and_who_computes_nothing_keeps_its_speed():
    found = with_paces(FOUR, (script(0, *passes(1.0)), script(1)), (Pace(1.0, 0.9), Pace(0.001, 0.001))).devices
    assert [(device.speed, device.overlap_slowdown) for device in found[:2]] == [(1.0, 1.0), (1.0, 1.0)]


WORK = """
from mpsim.emulate.pace import measure_pace
done, noted = [], []
pace = measure_pace(lambda: done.append(sum(range(20_000 * (rank + 1)))), 1e9, repeats=3, note=lambda: noted.append(1))
found = pace, len(done), len(noted)
"""


@pytest.mark.slow
def test_ranks_of_unlike_work_measure_at_once_and_end_together(gloo_ranks):
    for pace, done, noted in gloo_ranks(2, WORK, patience_s=120):
        assert pace.alone_s > 0
        assert pace.beside_s > 0
        assert done == noted >= 1 + 2 * 3
