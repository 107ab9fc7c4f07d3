"""Automatic zero-bubble rows: known optima by hand, and what holds for any times, limits and micro-batches."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.plan.automatic import StageTimes, zero_bubble_rows
from mpsim.plan.candidates import grid
from mpsim.plan.flat import zb_h1, zb_h2
from mpsim.plan.greedy import Rules, greedy
from mpsim.plan.placing import Pipeline, in_order
from mpsim.plan.schedules import check_rows, format_rows
from mpsim.plan.timing import row_times

UNIT = StageTimes(1.0, 1.0, 1.0)


def costs_s(rows, stages, message_s=0.0):
    """Return the longest span of a rank and the end of the step, by the timing that schedules are drawn with."""
    seconds = [dict(zip("FIW", stage[:3], strict=True)) for stage in stages]
    times = row_times(rows, lambda operation: seconds[operation.stage][operation.kind], message_s)
    return max(row[-1][1] - row[0][0] for row in times), max(row[-1][1] for row in times)


def most_held(row, stages):
    held = most = 0.0
    for operation in row:
        stage = stages[operation.stage]
        held += {"F": stage.held, "I": stage.kept - stage.held, "W": -stage.kept}[operation.kind]
        most = max(most, held)
    return most


def is_whole(row, microbatches):
    """Return whether a row has F, I and W of each micro-batch on each of its stages once, in this order."""
    at = {operation[:3]: i for i, operation in enumerate(row)}
    stages = {operation.stage for operation in row}
    return len(row) == len(at) == 3 * microbatches * len(stages) and all(
        at[stage, "F", k] < at[stage, "I", k] < at[stage, "W", k] for stage in stages for k in range(microbatches)
    )


def test_two_ranks_by_hand():
    rows = zero_bubble_rows([UNIT] * 2, 4, limits=3)
    assert format_rows(rows) == (
        "0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3\n1F0 1I0 1F1 1I1 1F2 1I2 1W0 1F3 1I3 1W1 1W2 1W3"
    )
    assert costs_s(rows, [UNIT] * 2) == (12.0, 13.0)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("more", [0, 1, 5])
def test_no_bubble_where_memory_allows(ranks, more):
    """Section 2 of the paper: 2p - 1 micro-batches held at the same time are enough where F, I and W take as long."""
    microbatches = 2 * ranks + more
    rows = zero_bubble_rows([UNIT] * ranks, microbatches, limits=2 * ranks - 1)
    assert costs_s(rows, [UNIT] * ranks)[0] == 3 * microbatches


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_in_memory_of_1f1b_the_bubble_is_a_third_of_its(ranks):
    rows = zero_bubble_rows([UNIT] * ranks, 3 * ranks)
    assert costs_s(rows, [UNIT] * ranks)[0] == 9 * ranks + (ranks - 1)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_v_has_no_bubble_in_memory_of_1f1b(ranks):
    stages = [UNIT] * 2 * ranks
    rows = zero_bubble_rows(stages, 2 * ranks + 1, chunks=2)
    assert costs_s(rows, stages)[0] == 6 * (2 * ranks + 1)
    assert max(most_held(row, stages) for row in rows) <= 2 * ranks


def test_a_v_begins_and_ends_on_the_first_rank():
    rows = zero_bubble_rows([UNIT] * 4, 2, chunks=2)
    assert [sorted({operation.stage for operation in row}) for row in rows] == [[0, 3], [1, 2]]


def test_one_microbatch_goes_down_and_back():
    rows = zero_bubble_rows([UNIT] * 3, 1, message_s=0.5)
    assert format_rows(rows) == "0F0 0I0 0W0\n1F0 1I0 1W0\n2F0 2I0 2W0"
    assert costs_s(rows, [UNIT] * 3, 0.5) == (9.0, 9.0)


def test_what_inputs_free_makes_room():
    """The second rank holds one: if W keeps it, W must go before the next F; if I frees it, all W can come last."""
    freeing = [StageTimes(1.0, 1.0, 1.0, held=1.0, kept=0.0)] * 2
    keeping, freed = (zero_bubble_rows(one, 4, limits=[3.0, 1.0]) for one in ([UNIT] * 2, freeing))
    assert format_rows([keeping[1]]) == "1F0 1I0 1W0 1F1 1I1 1W1 1F2 1I2 1W2 1F3 1I3 1W3"
    assert costs_s(keeping, [UNIT] * 2) == (14.0, 14.0)
    assert costs_s(freed, freeing) == (12.0, 13.0)


def test_with_a_barrier_the_step_is_what_counts():
    stages = [StageTimes(2.0, 2.0, 1.0), StageTimes(1.0, 1.0, 3.0), StageTimes(1.0, 1.0, 3.0)]
    either = [costs_s(zero_bubble_rows(stages, 3, message_s=1.0, barrier=one), stages, 1.0) for one in (False, True)]
    assert either == [(19.0, 22.0), (20.0, 20.0)]


times = st.sampled_from([0.0, 0.5, 0.7, 1.0, 1.3, 2.0])


@st.composite
def pipelines(draw, chunks):
    ranks = draw(st.integers(1, 5 if chunks == 1 else 4))
    stages = [
        StageTimes(draw(times), draw(times), draw(times), held, held * draw(st.sampled_from([0.0, 0.4, 1.0])))
        for held in draw(st.lists(st.sampled_from([1.0, 1.5]), min_size=chunks * ranks, max_size=chunks * ranks))
    ]
    needed = 1.5 * chunks
    limits = [needed * draw(st.sampled_from([1.0, 1.5, ranks, 2.0 * ranks])) for _ in range(ranks)]
    return stages, draw(st.integers(1, 9)), draw(st.sampled_from([0.0, 0.1, 1.0])), limits


@given(pipelines(1))
@settings(max_examples=60, deadline=None)
def test_flat_rows_hold_to_the_contract(case):
    stages, microbatches, message_s, limits = case
    rows = zero_bubble_rows(stages, microbatches, message_s=message_s, limits=limits)
    check_rows(rows, len(stages), microbatches)
    assert rows == zero_bubble_rows(stages, microbatches, message_s=message_s, limits=limits)
    for row, limit in zip(rows, limits, strict=True):
        assert most_held(row, stages) <= limit * (1 + 1e-6)
    for handcrafted in (zb_h1, zb_h2):
        known = handcrafted(len(stages), microbatches)
        if all(most_held(row, stages) <= limit for row, limit in zip(known, limits, strict=True)):
            for i, barrier in enumerate((False, True)):
                own = zero_bubble_rows(stages, microbatches, message_s=message_s, limits=limits, barrier=barrier)
                assert costs_s(own, stages, message_s)[i] <= costs_s(known, stages, message_s)[i] * (1 + 1e-6)


@given(pipelines(2))
@settings(max_examples=25, deadline=None)
def test_rows_of_a_v_hold_to_the_contract(case):
    stages, microbatches, message_s, limits = case
    rows = zero_bubble_rows(stages, microbatches, message_s=message_s, limits=limits, chunks=2)
    assert rows == zero_bubble_rows(stages, microbatches, message_s=message_s, limits=limits, chunks=2)
    assert all(is_whole(row, microbatches) for row in rows)
    assert Counter(operation.stage for row in rows for operation in row) == dict.fromkeys(
        range(len(stages)), 3 * microbatches
    )
    work_s = max(microbatches * sum(sum(stages[one][:3]) for one in {op.stage for op in row}) for row in rows)
    assert costs_s(rows, stages, message_s)[0] >= work_s * (1 - 1e-9)
    for row, limit in zip(rows, limits, strict=True):
        assert most_held(row, stages) <= limit * (1 + 1e-6)


@given(pipelines(1), st.sampled_from(sorted(grid(True))))
@settings(max_examples=60, deadline=None)
def test_what_greedy_ranks_expect_is_what_their_rows_take(case, choice):
    stages, microbatches, message_s, limits = case
    pipeline = Pipeline(tuple(stages), tuple(range(len(stages))), microbatches, message_s, tuple(limits))
    placed = greedy(pipeline, Rules((float("inf"),) * len(stages), *choice[1:]))
    assert placed is not None
    assert placed.costs_s() == pytest.approx(costs_s(placed.rows, stages, message_s))
    again = in_order(pipeline, placed.rows)
    assert again is not None
    assert again.costs_s() == placed.costs_s()


def test_rows_that_do_not_fit_are_not_placed():
    pipeline = Pipeline((UNIT,) * 2, (0, 1), 4, 0.0, (1.0, 1.0))
    assert in_order(pipeline, zb_h1(2, 4)) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stages": []}, "0 stages do not lie 1 on each rank"),
        ({"stages": [UNIT] * 3, "chunks": 2}, "3 stages do not lie 2 on each rank: give a multiple of 2"),
        ({"chunks": 3}, "chunks is 3: automatic scheduling has 1 stage a rank, or 2 that lie as a V"),
        ({"microbatches": 0}, "microbatches is 0: give 1 or more"),
        ({"stages": [UNIT, StageTimes(1.0, -1.0, 1.0)]}, "stage 1 has inputs_s -1.0: give 0 or more"),
        ({"stages": [StageTimes(1.0, 1.0, float("nan"))]}, "stage 0 has weights_s nan: give 0 or more"),
        ({"stages": [StageTimes(1.0, 1.0, 1.0, 1.0, 2.0)]}, "stage 0 keeps 2.0 of 1.0 held"),
        ({"message_s": -1.0}, "message_s is -1.0: give seconds of 0 or more"),
        ({"limits": 0.5}, "rank 0 can hold 0.5, one micro-batch on it holds 1: raise its limit"),
        ({"limits": float("nan")}, "rank 0 can hold nan"),
        ({"limits": [2.0]}, "1 limits are given for 2 ranks"),
    ],
)
def test_bad_numbers_are_refused(given, message):
    arguments = {"stages": [UNIT] * 2, "microbatches": 2, **given}
    with pytest.raises(MpsimError) as error:
        zero_bubble_rows(arguments.pop("stages"), arguments.pop("microbatches"), **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
