"""What is no schedule is refused, with its rows and the cell marked."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.plan.schedules import SCHEDULES, Operation, check_rows, parse_rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0 0B0", "schedule has 1 rows, the plan has 2 pipeline ranks"),
        ("0F0 0B0\n1F0", "the backward of micro-batch 0 on stage 1 is missing"),
        ("0F0 0B0\n1F0 1I0", "the backward of micro-batch 0 on stage 1 is missing or half done"),
        ("0F0 0B0\n1F0 1B0 1I0", "both 'B' and 'I'"),
        ("0F0 0B0\n1F0 1I0 1W0 1B0", "both 'B' and 'I'"),
        ("0F0 0B0\n1F0 1W0 1I0", "1W0 stands before 1I0"),
        ("0F0 0B0\n1B0 1F0", "1B0 stands before 1F0"),
        ("0F0 0B0\n1F0 1F0 1B0", "1F0 stands twice"),
        ("0F0 0B0\n1F0 1B0 1F1 1B1", "1F1 names micro-batch 1, the plan has 1"),
        ("0F0 0B0\n0F0 0B0", "0F0 stands in the row of rank 1, stage 0 lives on rank 0"),
        ("0F0 0B0\n", "schedule has 1 rows"),
        ("0F0 0B0\n2F0 2B0", "there is a stage 2 and no stage 1"),
        ("0F0 0B0 2F0 2B0\n1F0 1B0 3F0", "the backward of micro-batch 0 on stage 3 is missing"),
        ("0F0 0F1 0B0\n1F0 1B0", "0F1 names micro-batch 1, the plan has 1"),
        ("0F0 0B0 0U0 0U0\n1F0 1B0", "0U0 stands twice"),
        ("0F0 0U0 0B0\n1F0 1B0", "0U0 stands before the backward of micro-batch 0"),
        ("0F0 0I0 0U0 0W0\n1F0 1B0", "0U0 stands before the backward of micro-batch 0"),
        ("0F0+0B0\n1F0 1B0", "0F0+0B0 share a cell, and the second needs the first"),
        ("0F0 0I0+0W0\n1F0 1B0", "0I0+0W0 is no pair that can share a cell"),
        (
            "2F0 2B0 0F0 0B0\n1F0 1B0",
            "cannot finish, its ranks wait for each other: 2F0 waits for 1F0, 1F0 waits for 0F0",
        ),
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
    with pytest.raises(MpsimError, match="0X0 is of kind 'X', expected F, B, I, W or U"):
        check_rows(rows, 1, 1)


def test_stages_live_where_the_rows_say():
    check_rows(parse_rows("1F0 1B0\n0F0 0B0"), 2, 1)
    check_rows(parse_rows("0F0 2F0 2B0 0B0\n1F0 1B0"), 2, 1)


def test_directions_are_told_from_a_v():
    """The same homes: a micro-batch that passes all four stages makes it a V."""
    check_rows(parse_rows("0F0 3F1 3B1 0B0\n1F0 1B0 2F1 2B1"), 2, 2)
    check_rows(parse_rows("0F0 0F1 3F0 3B0 3F1 3B1 0B0 0B1\n1F0 2F0 1F1 2F1 2B0 1B0 2B1 1B1"), 2, 2)
    with pytest.raises(MpsimError, match="schedule: 2F0 is missing: every micro-batch passes every stage") as error:
        check_rows(parse_rows("0F0 0F1 0B0 3F1 3B1 0B1\n1F0 1B0 1F1 2F1 2B1 1B1"), 2, 2)
    assert error.value.__notes__[0].endswith("rank 1  1F0 1B0 1F1 2F1 2B1 1B1 [2F0?]")


def test_ranks_that_do_not_meet_are_no_directions():
    with pytest.raises(MpsimError, match="schedule: 1F0 is missing"):
        check_rows(parse_rows("0F0 0B0\n1F1 1B1"), 2, 2)


def test_a_backward_behind_the_last_update_is_refused():
    with pytest.raises(MpsimError, match="0B1 comes after the last update of stage 0: add 0U1"):
        check_rows(parse_rows("0F0 0B0 0U0 0F1 0B1"), 1, 2)


def test_a_shared_cell_at_the_end_is_refused():
    with pytest.raises(MpsimError, match="shares its cell with the next operation, and is the last of its row"):
        check_rows([[Operation(0, "F", 0), Operation(0, "B", 0, overlaps=True)]], 1, 1)


def test_the_cell_is_marked():
    with pytest.raises(MpsimError) as error:
        check_rows(parse_rows("0F0 0F1 0B0 0B1\n1F0 1F1 1B0 1B0"), 2, 2)
    assert str(error.value) == "schedule: 1B0 stands twice in its row"
    assert error.value.__notes__ == ["rank 0  0F0 0F1 0B0 0B1\nrank 1  1F0 1F1 1B0 [1B0]"]


def test_the_grid_of_a_large_schedule_is_bounded():
    rows = SCHEDULES["1f1b"](64, 1000)
    rows[40][700] = rows[40][700]._replace(microbatch=3)
    with pytest.raises(MpsimError, match=r"stands twice in its row") as error:
        check_rows(rows, 64, 1000)
    lines = error.value.__notes__[0].splitlines()
    assert len(lines) == 10
    assert lines[4].startswith("rank 40  ... 40")
    assert "[40" in lines[4]
    assert lines[-1] == "(64 ranks in all)"
    assert max(map(len, lines)) < 120


OPERATIONS = st.builds(Operation, st.integers(-1, 3), st.sampled_from("FBIWUX"), st.integers(-1, 2), st.booleans())


@settings(max_examples=300)
@given(st.lists(st.lists(OPERATIONS, max_size=6), max_size=3))
def test_any_rows_at_all_pass_or_are_refused(found):
    message = ""
    try:
        check_rows(found, 2, 2)
    except MpsimError as error:
        message = str(error)
    assert message.startswith("schedule") or len(found) == 2


@settings(max_examples=300)
@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 6), st.randoms(use_true_random=False))
def test_a_lost_or_doubled_operation_is_refused(name, microbatches, random):
    rows = SCHEDULES[name](4, microbatches)
    row = random.choice(rows)
    place = random.randrange(len(row))
    if random.random() < 0.5:
        row.insert(place, row[place]._replace(overlaps=False))
    elif row[place].kind != "U":
        del row[place]
    else:
        row[place] = row[place]._replace(microbatch=microbatches)
    with pytest.raises(MpsimError, match=r"^schedule"):
        check_rows(rows, 4, microbatches)
