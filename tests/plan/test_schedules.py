"""Schedules as text and as literal rows, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.plan.schedules import (
    SCHEDULES,
    Operation,
    check_rows,
    format_rows,
    parse_rows,
    resolve_schedule,
)

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


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 16), st.integers(1, 40))
def test_text_there_and_back(name, stages, microbatches):
    rows = SCHEDULES[name](stages, microbatches)
    check_rows(rows, stages, microbatches)
    assert parse_rows(format_rows(rows)) == rows


def test_text_may_have_commas_and_empty_cells():
    assert parse_rows("0F0,,0B0\n 1F0 , 1B0,\n") == SCHEDULES["gpipe"](2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0 0B0", "schedule has 1 rows, the plan has 2 stages"),
        ("0F0 0B0\n1F0", "the backward of micro-batch 0 on stage 1 is missing"),
        ("0F0 0B0\n1F0 1I0", "the backward of micro-batch 0 on stage 1 is missing or half done"),
        ("0F0 0B0\n1F0 1B0 1I0", "both 'B' and 'I'"),
        ("0F0 0B0\n1F0 1I0 1W0 1B0", "both 'B' and 'I'"),
        ("0F0 0B0\n1F0 1W0 1I0", "1W0 stands before 1I0"),
        ("0F0 0B0\n1B0 1F0", "1B0 stands before 1F0"),
        ("0F0 0B0\n1F0 1F0 1B0", "1F0 stands twice"),
        ("0F0 0B0\n1F0 1B0 1F1 1B1", "1F1 names micro-batch 1, the plan has 1"),
        ("0F0 0B0\n0F0 0B0", "0F0 stands in the row of stage 1"),
        ("0F0 0B0\n", "schedule has 1 rows"),
        ("1F0 1B0\n0F0 0B0", "1F0 stands in the row of stage 0"),
    ],
)
def test_bad_rows_are_refused_by_name(text, message):
    with pytest.raises(MpsimError) as error:
        check_rows(parse_rows(text), 2, 1)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rows", [None, "0F0 0B0", 7, ["0F0 0B0"], [["0F0", "0B0"]], [[(0, "F", 0), (0, "B", 0)]]])
def test_what_is_no_list_of_operations_is_refused(rows):
    with pytest.raises(MpsimError, match="schedule"):
        check_rows(rows, 1, 1)


def test_an_unknown_kind_is_refused():
    rows = [[Operation(0, "F", 0), Operation(0, "B", 0), Operation(0, "X", 0)]]
    with pytest.raises(MpsimError, match="0X0 is of kind 'X', expected F, B, I or W"):
        check_rows(rows, 1, 1)


@pytest.mark.parametrize("cell", ["F0", "0G0", "0F", "0F-1", "0f0", "00 F0", "0F0B0"])
def test_a_cell_that_is_no_operation_is_refused(cell):
    with pytest.raises(MpsimError, match="is no operation"):
        parse_rows(cell)


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(MpsimError, match=r"unknown schedule '1f1B'; did you mean '1f1b'\?"):
        resolve_schedule("1f1B")
