from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.result.statistics import Interval, cdf, interval, quantile, tie

VALUES = st.lists(st.floats(0, 1e3), min_size=1, max_size=50)


def trials(pipeline, *steps):
    return replace(pipeline, trial_step_s=steps, trials=len(steps))


def test_hand_worked_interval(pipeline):
    # 21 trials 0..20: positions 0.05 * 20 = 1, 10 and 19.
    assert interval(trials(pipeline, *map(float, range(20, -1, -1)))) == Interval(low_s=1.0, median_s=10.0, high_s=19.0)


def test_hand_worked_interval_between_trials(pipeline):
    # Two trials: 5 % of the way from 1 to 3, the middle, 95 %.
    over = interval(trials(pipeline, 3.0, 1.0))
    assert (over.low_s, over.median_s, over.high_s) == (1.1, 2.0, 2.9)


def test_one_trial_is_its_own_interval(pipeline):
    assert interval(trials(pipeline, 0.5)) == Interval(low_s=0.5, median_s=0.5, high_s=0.5)
    assert interval(trials(pipeline, 0.5)).width_s == 0.0


@given(VALUES, st.floats(0, 1))
def test_quantiles_are_numpys(values, fraction):
    assert quantile(values, fraction) == pytest.approx(float(np.quantile(values, fraction)), rel=1e-12, abs=1e-300)


@given(VALUES)
def test_quantiles_stay_within_the_values(values):
    assert min(values) == quantile(values, 0.0) <= quantile(values, 0.5) <= quantile(values, 1.0) == max(values)


def test_hand_worked_distribution():
    assert cdf([4.0, 1.0, 2.0, 1.0]) == ((1.0, 2.0, 4.0), (0.5, 0.75, 1.0))


@given(VALUES)
def test_distribution_counts_the_values_at_or_below(values):
    x, fraction = cdf(values)
    assert fraction[-1] == 1.0
    assert list(x) == sorted(set(values))
    assert all(f == sum(v <= at for v in values) / len(values) for at, f in zip(x, fraction, strict=True))


def test_plans_tie_where_their_intervals_overlap(pipeline):
    a = trials(pipeline, *map(float, range(0, 21)))  # 1 to 19
    assert tie(a, trials(pipeline, *map(float, range(18, 39))))  # 19 to 37: they touch
    assert not tie(a, trials(pipeline, *map(float, range(19, 40))))  # 20 to 38
    assert tie(a, trials(pipeline, 5.0))  # inside


def test_plans_without_randomness_tie_only_where_equal(pipeline):
    assert tie(trials(pipeline, 1.0), trials(pipeline, 1.0))
    assert not tie(trials(pipeline, 1.0), trials(pipeline, 1.0000001))


@given(VALUES, VALUES)
def test_tie_is_mutual(pipeline, first, second):
    a, b = trials(pipeline, *first), trials(pipeline, *second)
    assert tie(a, b) == tie(b, a)
    assert tie(a, a)


def test_unequal_batches_are_not_compared(pipeline):
    with pytest.raises(MpsimError, match=r"a global batch of 32 and .* of 64: compare plans on the same batch"):
        tie(pipeline, replace(pipeline, global_batch=64))


def test_no_values_have_no_quantile():
    with pytest.raises(MpsimError, match="at least one trial"):
        quantile([], 0.5)
    with pytest.raises(MpsimError, match="at least one trial"):
        cdf([])
    with pytest.raises(MpsimError, match="outside 0 to 1"):
        quantile([1.0], 5)
