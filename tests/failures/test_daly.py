"""Against Young and Daly where what they assume holds: exponential failures, one pace, restarts that take as long."""

import math

import numpy as np
import pytest

from mpsim.failures.components import Component, Components
from mpsim.failures.daly import daly_s, expected_goodput, young_s
from mpsim.failures.draws import failure_times, generator
from mpsim.failures.lanes import Mode
from mpsim.failures.model import Checkpoints, Failures, Recovery
from mpsim.failures.run import Run, formula_of
from mpsim.failures.trials import Draws

DAY = 86400.0


def runs(mtbf_s, blocked_s, restart_s, horizon_s, trials, seed=0):
    """Trials of something that fails as often, a step of 1 s."""
    things = Components((Component("all", frozenset(), True, mtbf_s),), np.array([mtbf_s]), 1)
    recovery, failures = Recovery(restart_s=restart_s), Failures(mtbf_s=mtbf_s)
    draws = Draws(components=things, failures=failures, recovery=recovery, seed=seed, horizon_s=horizon_s)
    return Run((Mode(1.0, 1.0, blocked_s, 0.0, restart_s),), draws.trials(trials).rows, horizon_s)


@pytest.mark.parametrize(
    ("mtbf_s", "blocked_s", "restart_s", "days", "trials"),
    [(3600.0, 10.0, 60.0, 8, 350), (1000.0, 60.0, 30.0, 3, 250)],
)
def test_waste_and_best_interval_are_theirs(mtbf_s, blocked_s, restart_s, days, trials):
    """Within 2 %, of 50,000 to 70,000 failures.

    What a failure costs varies less than its mean, and failures are a Poisson count: what N of them cost is known to
    1.4/√N of it, 0.6 %, and the waste, of which checkpoints are the half that does not vary, better.
    """
    run = runs(mtbf_s, blocked_s, restart_s, days * DAY, trials)
    assert run.rows.stops.sum() > 50_000
    steps, best, _, _ = run.interval(Checkpoints(write_s=blocked_s), mtbf_s)
    formula = formula_of(steps, run.modes, mtbf_s, Recovery(restart_s=restart_s), Failures(mtbf_s=mtbf_s))
    assert formula.misses == ()
    assert 1 - best.goodput == pytest.approx(1 - formula.goodput, rel=0.02)
    assert best.interval_s == pytest.approx(formula.daly_s, rel=0.02)
    # At intervals that are not the best too.
    for interval in (formula.daly_s / 3, formula.daly_s * 3):
        waste = 1 - run.means(np.array([float(round(interval))]))[0]
        assert waste == pytest.approx(1 - expected_goodput(round(interval), blocked_s, restart_s, mtbf_s), rel=0.02)


def test_the_formulas_at_their_ends():
    """A checkpoint of twice the mean time between failures; none at all; no failures; failures without end."""
    assert daly_s(200.0, 100.0) == 100.0
    assert (young_s(0.0, 100.0), daly_s(0.0, 100.0)) == (0.0, 0.0)
    assert expected_goodput(30.0, 10.0, 5.0, math.inf) == 0.75
    assert expected_goodput(1e6, 10.0, 5.0, 1.0) == 0.0
    # Daly's is the interval with the highest goodput: the derivative of the formula, by differences, is 0 there.
    best = daly_s(2.0, 1000.0)
    each = [expected_goodput(best * factor, 2.0, 10.0, 1000.0) for factor in (0.9, 1.0, 1.1)]
    assert max(each) == each[1]


@pytest.mark.parametrize("shape", [0.7, 1.0, 2.0])
def test_things_fail_as_often_as_they_are_said_to(shape):
    """400 of them for 500 mean times, all new at the start: off by (cv² − 1)/2 each (renewal theory), and by chance."""
    times, things = failure_times(generator(7, 0, 0), np.full(400, 3600.0), shape, 500 * 3600.0)
    assert (np.diff(times) >= 0).all()
    assert set(things.tolist()) == set(range(400))
    cv2 = math.gamma(1 + 2 / shape) / math.gamma(1 + 1 / shape) ** 2 - 1
    expected = 500 + (cv2 - 1) / 2
    assert len(times) / 400 == pytest.approx(expected, abs=5 * math.sqrt(cv2 * 500 / 400))


def test_the_same_seed_gives_the_same_bits_and_more_trials_the_same_first_ones():
    few, more, other = (runs(3600.0, 1.0, 9.0, DAY, n, seed) for n, seed in ((3, 7), (5, 7), (3, 8)))
    assert few.trials(60) == {name: part[:3] for name, part in more.trials(60).items()}
    assert few.trials(60)["useful_s"] != other.trials(60)["useful_s"]
