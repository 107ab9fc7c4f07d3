"""What an explanation says, word for word, and why one plan is faster than another."""

import json

import pytest
from hand_explained import FREE, SLOW, work

from mpsim import MpsimError, Plan, explain, parse_topology
from mpsim.explanation.compare import Beside, why

UNLIKE = work((1.0, 2.0), (2.0, 4.0))


def test_a_pipeline_in_words():
    found = explain(UNLIKE, parse_topology(SLOW), Plan(pp=2, microbatches=2), what_ifs=False)
    assert str(found) == WORDS


WORDS = """\
by hand | pp=2 micro-batches=2 1f1b | chain:2,link=1kB/s@0 | batch 2

step            16 s, every time at its median
most lost to    pipeline bubble, 28.1 % of it

where the step goes                  time  of step
computing                             9 s   56.2 %
exposed pp send over 1 kB/s links  1.25 s    7.8 %
pipeline bubble                     4.5 s   28.1 %
imbalance of stages and devices    1.25 s    7.8 %
all of it                            16 s  100.0 %

The step waits for one task after another, 8 in all: backward 62.5 %, forward 31.2 %, pp send over 1 kB/s links 6.2 %.
Longest in one place: d1 (stage 1), 75.0 % of the step: 2 × forward 1F0 and 1F1, 2 × backward 1B0 and 1B1.

critical path   takes  where         what
0 s               1 s  d0 (stage 0)  forward 0F0
1 s            500 ms  d0 → d1       pp send 0F0>1 over 1 kB/s links
1.5 s             2 s  d1 (stage 1)  forward 1F0
3.5 s             4 s  d1 (stage 1)  backward 1B0
7.5 s             2 s  d1 (stage 1)  forward 1F1
9.5 s             4 s  d1 (stage 1)  backward 1B1
13.5 s         500 ms  d1 → d0       pp send 1B1>0 over 1 kB/s links
14 s              2 s  d0 (stage 0)  backward 0B1

full links  kind          of the step  with     from
d0 → d1     1 kB/s links  6.2 %        pp send  1 s for 500 ms, 2 s for 500 ms
d1 → d0     1 kB/s links  6.2 %        pp send  7.5 s for 500 ms, 13.5 s for 500 ms"""


def test_one_plan_against_another():
    found = explain(
        UNLIKE, parse_topology(FREE), Plan(pp=2, microbatches=2), against=Plan(dp=2, batch=2), what_ifs=False
    )
    assert found.why == (
        "B takes 6 s less than A (40.0 %): 4.5 s less pipeline bubble and 1.5 s less imbalance of stages and devices."
    )
    assert [tuple(row) for row in found.beside] == [
        ("computing", 9.0, 9.0), ("pipeline bubble", 4.5, 0.0), ("imbalance of stages and devices", 1.5, 0.0),
    ]  # fmt: skip
    assert found.why in str(found)
    assert "\nWhat follows is of A.\n" in str(found)
    assert [row.a_s for row in found.beside] == [part.seconds for part in found.parts]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [Beside("x", 2.0, 1.0), Beside("y", 0.0, 0.5)],
            "B takes 500 ms less than A (25.0 %): 1 s less x, though 500 ms more y.",
        ),
        (
            [Beside("x", 3.0, 0.0), Beside("y", 0.0, 1.25), Beside("z", 0.0, 1.0), Beside("w", 1.0, 0.75)],
            "B takes 500 ms less than A (25.0 %): 3 s less x, though 1.25 s more y and 1 s more z.",
        ),
        ([Beside("x", 1.0, 2.0), Beside("y", 1.0, 0.0)], "A and B take equally long: A has 1 s less x and 1 s more y."),
        ([Beside("x", 1.0, 1.0)], "A and B take equally long."),
        ([], "A and B take equally long."),
    ],
)
def test_the_sentence(rows, said):
    a_s, b_s = (sum(row[i] for row in rows) for i in (1, 2))
    if said.startswith("B"):
        a_s, b_s = 2.0, 1.5
    assert why(rows, a_s, b_s) == said


def test_plans_of_unlike_batches_are_not_compared():
    with pytest.raises(
        MpsimError, match="the plan's batch is 1, that of the one it is held against 2: give both the same"
    ):
        explain(UNLIKE, parse_topology(SLOW), Plan(pp=2), against=Plan(dp=2))


def test_as_an_object_and_as_a_table():
    found = explain(UNLIKE, parse_topology(SLOW), Plan(pp=2, microbatches=2), against=Plan(dp=2, batch=2))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert sum(part["seconds"] for part in plain["parts"]) == plain["result"]["step_s"] == 16.0
    assert plain["against"]["result"]["plan"] == "dp=2"
    assert plain["why"] == found.why
    assert {one["name"] for one in plain["what_ifs"]} == {one.name for one in found.what_ifs}
    frame = found.to_frame()
    assert frame["takes_s"].sum() == 16.0
    assert list(frame["name"])[:2] == ["0F0", "0F0>1"]


def test_a_step_that_takes_no_time_has_no_parts():
    nothing = explain(work((0.0, 0.0)), parse_topology(SLOW), Plan())
    assert (nothing.parts, nothing.path, nothing.links) == ((), (), ())
    assert "step            0 s" in str(nothing)
