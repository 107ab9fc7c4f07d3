"""Schedules as text and as literal rows, and what is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.plan.schedules import (
    SCHEDULES,
    check_rows,
    format_rows,
    parse_rows,
    resolve_schedule,
)
from mpsim.plan.shape import most_held, shape_of

LOOPED = ("looped-bfs", "interleaved-1f1b", "interleaved-zb")
GPIPE = """\
0F0 0F1 0F2 0B0 0B1 0B2
1F0 1F1 1F2 1B0 1B1 1B2"""
ONE_F_ONE_B = """\
0F0 0F1 0F2 0B0 0F3 0B1 0F4 0B2 0B3 0B4
1F0 1F1 1B0 1F2 1B1 1F3 1B2 1F4 1B3 1B4
2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3 2F4 2B4"""
FEW = """\
0F0 0F1 0B0 0B1
1F0 1F1 1B0 1B1
2F0 2F1 2B0 2B1
3F0 3B0 3F1 3B1"""


def test_literal_rows():
    assert format_rows(SCHEDULES["gpipe"](2, 3)) == GPIPE
    assert format_rows(SCHEDULES["1f1b"](3, 5)) == ONE_F_ONE_B
    assert format_rows(SCHEDULES["1f1b"](4, 2)) == FEW
    assert format_rows(SCHEDULES["naive"](1, 2)) == "0F0 0B0 0F1 0B1"


LITERAL = {
    ("gpipe-accumulated", 2, 4): """\
0F0 0F1 0B0 0B1 0F2 0F3 0B2 0B3
1F0 1F1 1B0 1B1 1F2 1F3 1B2 1B3""",
    ("eager-1f1b", 3, 4): """\
0F0 0F1 0F2 0F3 0B0 0B1 0B2 0B3
1F0 1F1 1F2 1B0 1F3 1B1 1B2 1B3
2F0 2B0 2F1 2B1 2F2 2B2 2F3 2B3""",
    ("zb-h1", 3, 4): """\
0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
1F0 1F1 1I0 1F2 1I1 1W0 1F3 1I2 1W1 1I3 1W2 1W3
2F0 2I0 2F1 2I1 2F2 2I2 2W0 2F3 2I3 2W1 2W2 2W3""",
    ("zb-h2", 2, 4): """\
0F0 0F1 0F2 0I0 0W0 0F3 0I1 0W1 0I2 0W2 0I3 0W3
1F0 1I0 1F1 1I1 1F2 1I2 1W0 1F3 1I3 1W1 1W2 1W3""",
    ("pipedream", 2, 3): """\
0F0 0F1 0B0 0U0 0F2 0B1 0U1 0B2 0U2
1F0 1B0 1U0 1F1 1B1 1U1 1F2 1B2 1U2""",
    ("looped-bfs", 2, 3): """\
0F0 0F1 0F2 2F0 2F1 2F2 2B2 2B1 2B0 0B2 0B1 0B0
1F0 1F1 1F2 3F0 3F1 3F2 3B2 3B1 3B0 1B2 1B1 1B0""",
    ("interleaved-1f1b", 2, 4): """\
0F0 0F1 2F0 2F1 0F2 2B0 0F3 2B1 2F2 0B0 2F3 0B1 2B2 2B3 0B2 0B3
1F0 1F1 3F0 3B0 3F1 3B1 1F2 1B0 1F3 1B1 3F2 3B2 3F3 3B3 1B2 1B3""",
    ("zb-v", 2, 2): """\
0F0 0F1 3F0 3I0 3W0 3F1 3I1 3W1 0I0 0W0 0I1 0W1
1F0 2F0 1F1 2F1 2I0 2W0 1I0 1W0 2I1 2W1 1I1 1W1""",
    ("chimera", 4, 4): """\
0F0 0F2 7F1 7B1 7F3 7B3 0B0 0B2
1F0 6F1 1F2 6F3 6B1 1B0 6B3 1B2
5F1 2F0 5F3 2F2 2B0 5B1 2B2 5B3
4F1 4F3 3F0 3B0 3F2 3B2 4B1 4B3""",
    ("dualpipe", 2, 4): """\
0F0 3F1 0F2 3B1 3F3+0B0 3B3 0I2 0W2
2F1 1F0 2F3 1B0 1F2+2B1 1B2 2I3 2W3""",
}


@pytest.mark.parametrize(("case", "text"), LITERAL.items())
def test_literal_rows_of_the_others(case, text):
    name, *point = case
    assert format_rows(SCHEDULES[name](*point)) == text


@st.composite
def points(draw):
    """A registered schedule and numbers that it takes."""
    name = draw(st.sampled_from(sorted(SCHEDULES)))
    ranks = draw(st.integers(1, 12))
    if name in ("chimera", "dualpipe"):
        ranks += ranks % 2
    chunks = (draw(st.integers(1, 4)),) if name in LOOPED else ()
    return name, ranks, draw(st.integers(1, 40)), *chunks


@settings(max_examples=300)
@given(points())
def test_rows_are_whole_run_to_their_end_and_can_be_text(point):
    name, ranks, microbatches, *chunks = point
    rows = SCHEDULES[name](ranks, microbatches, *chunks)
    check_rows(rows, ranks, microbatches)
    assert parse_rows(format_rows(rows)) == rows


@settings(max_examples=200)
@given(points())
def test_where_stages_live(point):
    name, ranks, microbatches, *chunks = point
    found = shape_of(SCHEDULES[name](ranks, microbatches, *chunks))
    if name in LOOPED:
        assert found.home == tuple(range(ranks)) * chunks[0]
    elif name in ("zb-v", "v-half", "v-min", "dualpipe-v"):
        assert found.home == (*range(ranks), *reversed(range(ranks)))
    elif name in ("chimera", "dualpipe") and microbatches > 1:
        assert found.home == (*range(ranks), *reversed(range(ranks)))
        assert found.stages == ranks
        assert found.direction == tuple(k % 2 for k in range(microbatches))
    else:
        assert found.home == tuple(range(ranks))


@settings(max_examples=200)
@given(points())
def test_what_ranks_hold_is_bounded(point):
    """1F1B's memory, and what each schedule promises of it."""
    name, ranks, microbatches, *chunks = point
    held = most_held(SCHEDULES[name](ranks, microbatches, *chunks))
    bound = {
        "naive": 1,
        "1f1b": ranks,
        "pipedream": ranks,
        "gpipe-accumulated": ranks,
        "eager-1f1b": 2 * ranks - 1,
        "zb-h1": ranks,
        "zb-h2": 2 * ranks - 1,
        "zb-v": ranks,
        "v-half": ranks / 2 + 2,
        "v-min": ranks / 3 + 4 / 3,
        "dualpipe": ranks + 1,
        "dualpipe-v": ranks + 0.5,
        "chimera": ranks,
    }.get(name, microbatches)
    assert max(held) <= min(bound, microbatches)


@pytest.mark.parametrize("name", ["zb-v", "v-half", "v-min", "dualpipe-v"])
def test_a_v_has_two_stages_a_rank(name):
    assert SCHEDULES[name](2, 4, 2) == SCHEDULES[name](2, 4)
    with pytest.raises(MpsimError, match=f"{name} has 2 stages a rank, 3 were asked for"):
        SCHEDULES[name](2, 4, 3)


@pytest.mark.parametrize("name", ["chimera", "dualpipe"])
def test_directions_need_an_even_number_of_ranks(name):
    with pytest.raises(MpsimError, match=f"{name} pairs each rank with its mirror, 3 ranks leave one alone"):
        SCHEDULES[name](3, 4)


def test_text_may_have_commas_and_empty_cells():
    assert parse_rows("0F0,,0B0\n 1F0 , 1B0,\n") == SCHEDULES["gpipe"](2, 1)


@pytest.mark.parametrize(
    "cell",
    ["F0", "0G0", "0F", "0F-1", "0f0", "00 F0", "0F0B0", "0F0+", "+0F0", "0F0+0B1+0F2", "٣F0", "0F" + "9" * 5000],
)
def test_a_cell_that_is_no_operation_is_refused(cell):
    with pytest.raises(MpsimError, match="is no operation"):
        parse_rows(cell)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(MpsimError, match=r"unknown schedule '1f1B'; did you mean '1f1b'\?"):
        resolve_schedule("1f1B")
