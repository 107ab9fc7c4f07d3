"""Closed forms against the same run step by step, exactly; parts that add up; more failures, less done."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from step_by_step import Run

from mpsim.errors import MpsimError
from mpsim.failures.lanes import PARTS, Mode, Rows, play

# Multiples of a quarter, and steps worth a power of two of their length: every sum and share is exact.
quarters = st.integers(0, 20).map(lambda n: n / 4)


@st.composite
def modes(draw, n):
    blocked, written, restart = draw(quarters), draw(quarters), draw(quarters)
    steps = [draw(st.sampled_from([0.5, 1.0, 2.0, 4.0])) for _ in range(n)]
    return [Mode(step, min(step, steps[0]), blocked, written, restart) for step in steps]


@st.composite
def events(draw, n_modes):
    times = sorted(draw(st.lists(st.integers(0, 240).map(lambda n: n / 4), max_size=8, unique=True)))
    row = st.tuples(st.booleans(), st.integers(0, n_modes - 1), quarters, quarters)
    return [(time, *draw(row)) for time in times]


def as_rows(trials):
    most = max(map(len, trials))
    table = np.zeros((5, len(trials), most))
    table[0] = np.inf
    for i, trial in enumerate(trials):
        for j, row in enumerate(trial):
            table[:, i, j] = row
    return Rows(table[0], table[1].astype(bool), table[2].astype(int), table[3], table[4])


@settings(deadline=None, max_examples=120)
@given(modes(3), st.lists(events(3), min_size=1, max_size=2), st.lists(st.integers(1, 9), min_size=1, max_size=2))
def test_every_part_is_what_it_is_step_by_step(modes, trials, every):
    found = play(modes, np.array(every, dtype=float), as_rows(trials), 60.0)
    for i, steps in enumerate(every):
        for j, trial in enumerate(trials):
            assert {name: found[name][i, j] for name in PARTS} == Run(modes, steps, trial, 60.0).play()


@settings(deadline=None, max_examples=50)
@given(st.floats(1e-3, 10.0), st.floats(0.0, 30.0), st.floats(0.0, 30.0), st.floats(0.0, 50.0), st.data())
def test_parts_add_up_to_the_wall_time_whatever_the_times(step_s, blocked_s, written_s, restart_s, data):
    modes = [
        Mode(step_s, step_s, blocked_s, written_s, restart_s),
        Mode(step_s * 1.3, step_s / 1.7, blocked_s, 0.0, 0.0),
    ]
    times = sorted(data.draw(st.lists(st.floats(0.0, 1e4), max_size=8)))
    rows = as_rows([[(time, i % 2, i % 3 % 2, blocked_s, restart_s) for i, time in enumerate(times)]])
    found = play(modes, np.array([1.0, 7.0]), rows, 1e4)
    assert (sum(found[name] for name in PARTS) == 1e4).all()
    assert all((found[name] >= 0).all() for name in PARTS if name != "slowed")


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from([0.5, 1.0, 2.0]), quarters, quarters, st.integers(1, 9), st.data(),
    st.lists(st.integers(1, 799), min_size=1, max_size=10, unique=True),
)  # fmt: skip
def test_more_failures_never_leave_more(step_s, blocked_s, restart_s, every, data, times):
    """With one pace and restarts that take as long each time, whoever fails more is nowhere ahead.

    Where a run stands, between checkpoints that come after so many steps, only grows with time but for failures, which
    take it back to the last checkpoint: a growing function of where it stands. So one that is behind stays behind.
    """
    some = data.draw(st.sets(st.sampled_from(times)))
    modes = [Mode(step_s, step_s, blocked_s, 0.0, restart_s)]
    trials = [[(time / 4, True, 0, 0.25, 0.5) for time in sorted(chosen)] for chosen in (times, some)]
    more, fewer = play(modes, np.array([float(every)]), as_rows(trials), 200.0)["useful"][0]
    assert more <= fewer


def test_a_step_too_short_to_be_told_from_none_is_refused():
    with pytest.raises(MpsimError, match="too short for a run"):
        play([Mode(1e-9, 1e-9, 0.0, 0.0, 0.0)], np.array([1.0]), as_rows([[]]), 1e7)
