"""``mpsim plot --schedule``: any schedule, by name or from a file."""

from pathlib import Path

import pytest

from mpsim.plan.schedules import SCHEDULES


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_each_is_drawn(mpsim, name) -> None:
    result = mpsim("plot", "--schedule", name, "--stages", "4", "--microbatches", "8", "-o", "x.svg")
    assert (result.exit_code, result.stderr) == (0, "wrote x.svg\n")
    assert "<svg" in Path("x.svg").read_text()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "words", [("--stages", "1"), ("--stages", "1", "--chunks", "8"), ("--stages", "8", "--chunks", "4")]
)
def test_a_legend_longer_than_the_ranks_are_high_has_room(mpsim, words) -> None:
    drawn = mpsim("plot", "--schedule", "interleaved-zb", *words, "--microbatches", "8", "-o", "x.svg")
    assert (drawn.exit_code, drawn.stderr) == (0, "wrote x.svg\n")


def test_a_file_is_drawn(mpsim) -> None:
    Path("mine.csv").write_text("0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n")
    for more in ((), ("--stages", "2", "--microbatches", "2"), ("--chunks", "1")):
        assert mpsim("plot", "--schedule", "mine.csv", *more, "-o", "x.png").exit_code == 0
    refused = mpsim("plot", "--schedule", "mine.csv", "--stages", "3", "-o", "y.png")
    assert refused.exit_code == 2
    assert "the schedule's rows are for 2 ranks and 2 micro-batches, not for 3 and 2" in refused.stderr
    assert not Path("y.png").exists()


def test_a_bad_file_is_told_in_a_line_and_shown_below(mpsim) -> None:
    Path("mine.csv").write_text("0F0,0F1,0B0,0B1\n1F0,1B0,1B1,1F1\n")
    refused = mpsim("plot", "--schedule", "mine.csv", "-o", "x.png")
    assert refused.exit_code == 2
    assert refused.stderr.splitlines() == [
        "mpsim: error: mine.csv: schedule: 1B1 stands before 1F1, which it needs: change the order of rank 1",
        "rank 0  0F0 0F1 0B0 0B1",
        "rank 1  1F0 1B0 [1B1] 1F1",
    ]
    assert not Path("x.png").exists()
