"""Schedules as CSV files, and as rows of one's own."""

import pickle

import pytest

from mpsim.errors import MpsimError
from mpsim.plan.schedule_file import microbatches_of, read_schedule, rows_schedule, write_schedule
from mpsim.plan.schedules import SCHEDULES, format_rows, parse_rows
from mpsim.testing import check_schedule


def written(tmp_path, text):
    path = tmp_path / "mine.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_there_and_back(tmp_path, name):
    rows = SCHEDULES[name](4, 9)
    write_schedule(tmp_path / "one.csv", rows)
    assert read_schedule(tmp_path / "one.csv") == rows


def test_the_text_is_torchs(tmp_path):
    write_schedule(tmp_path / "one.csv", parse_rows("0F0 0F1+0B0 0B1\n1F0 1B0 1F1 1B1"))
    assert (tmp_path / "one.csv").read_text() == "0F0,(0F1;0B0)OVERLAP_F_B,0B1\n1F0,1B0,1F1,1B1\n"


def test_what_is_no_computation_is_skipped(tmp_path):
    text = "0UNSHARD,0F0,0SEND_F0, ,0RECV_B0,0I0,0W0,0REDUCE_GRAD,0RESHARD\r\n,1RECV_F0,1F0,1B0,1SEND_B0\r\n"
    assert format_rows(read_schedule(written(tmp_path, text))) == "0F0 0I0 0W0\n1F0 1B0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0,0B0\n1F0,1", "mine.csv, line 2, cell 2: '1' is no operation"),
        ("0F0,0B0\n1F0,1B0,hello\n", "mine.csv, line 2, cell 3: 'hello' is no operation"),
        ("0F0,(0F1;0B0\n", "mine.csv, line 1, cell 2: '(0F1;0B0' is no operation"),
        ("0F0,(0F1;0B0)OVERLAP_B_F\n", "mine.csv, line 1, cell 2: '(0F1;0B0)OVERLAP_B_F' is no operation"),
        ('0F0,"0B0\n1F0,1B0\n', "mine.csv, line 1: unexpected end of data"),
        ("0F0,0B0\n1F0\n", "mine.csv: schedule: the backward of micro-batch 0 on stage 1 is missing"),
        ("0F0,0B0\n\n1F0,1B0\n", "mine.csv: schedule: rank 1 runs nothing"),
        ("", "mine.csv: schedule: rank 0 runs nothing"),
        ("0F0 0B0\n", "mine.csv, line 1, cell 1: '0F0 0B0' is no operation"),
        (b"\x00\xff\xfe", "it is not text"),
        (b"0F0,\x000B0\n", "mine.csv, line 1"),
        ("rank,operations\n0,0F0\n", "mine.csv, line 1, cell 1: 'rank' is no operation"),
    ],
)
def test_a_torn_file_is_told_where(tmp_path, text, message):
    with pytest.raises(MpsimError) as error:
        read_schedule(written(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_file(tmp_path):
    with pytest.raises(MpsimError, match=r"cannot read .*none.csv.*: No such file"):
        read_schedule(tmp_path / "none.csv")


def test_rows_are_a_schedule_for_their_numbers_alone():
    rows = SCHEDULES["interleaved-1f1b"](2, 4)
    mine = rows_schedule(rows)
    assert mine(2, 4) == mine(2, 4, 2) == rows
    assert mine == rows_schedule(rows)
    assert hash(mine) == hash(pickle.loads(pickle.dumps(mine)))
    with pytest.raises(MpsimError, match="are for 2 ranks and 4 micro-batches, not for 4 and 4: change the plan"):
        mine(4, 4)
    with pytest.raises(MpsimError, match="have 4 stages on 2 ranks, not 3 a rank"):
        mine(2, 4, 3)
    check_schedule(mine, grid=[(2, 4), (2, 4, 2)])


@pytest.mark.parametrize("rows", [None, "0F0", [], [[]], [["0F0"]], [[(0, "F", 0)]]])
def test_what_are_no_rows_is_no_schedule(rows):
    with pytest.raises(MpsimError, match=r"^schedule"):
        rows_schedule(rows)


def test_rows_name_their_number_of_microbatches():
    assert microbatches_of(parse_rows("0F0 0F7")) == 8
    assert microbatches_of([[]]) == 0
