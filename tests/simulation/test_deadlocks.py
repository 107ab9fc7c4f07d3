"""Rows in any order: they are refused by name, or they run, or they are a deadlock that says where."""

import re

import pytest
from cases import chained, layer
from hypothesis import given, settings
from hypothesis import strategies as st

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.plan.schedules import Operation, Rows, check_rows, parse_rows
from mpsim.simulation import simulate
from mpsim.topology.builders import chain
from mpsim.topology.wire import Wire


@st.composite
def rows(draw) -> Rows:
    """One forward and backward of each micro-batch a stage, each row in an order of its own that its stage allows."""
    stages, microbatches = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    found = []
    for stage in range(stages):
        order = draw(st.permutations([k for k in range(microbatches) for _ in "FB"]))
        begun: set[int] = set()
        row = []
        for k in order:
            row.append(Operation(stage, "B" if k in begun else "F", k))
            begun.add(k)
        found.append(row)
    return found


def can_run(found: Rows) -> bool:
    """Run what heads a row and has its input, until all is done or nothing can."""
    at, done = [0] * len(found), set()
    moved = True
    while moved:
        moved = False
        for stage, row in enumerate(found):
            while at[stage] < len(row):
                _, kind, k, _ = row[at[stage]]
                before = stage - 1 if kind == "F" else stage + 1
                if 0 <= before < len(found) and (before, kind, k) not in done:
                    break
                done.add((stage, kind, k))
                at[stage] += 1
                moved = True
    return all(place == len(row) for place, row in zip(at, found, strict=True))


def run(found: Rows, runtime: str = "ideal"):
    stages, microbatches = len(found), len(found[0]) // 2
    work = chained([layer(f"layer{i}") for i in range(stages)], 16)
    plan = Plan(pp=stages, microbatches=microbatches, schedule=lambda *_: found, runtime=runtime)
    return simulate(work, chain(stages, link=Wire(64.0, 0.25)), plan)


@settings(max_examples=200)
@given(rows(), st.sampled_from(["ideal", "blocking"]))
def test_rows_run_exactly_when_their_inputs_come_in_time(found, runtime):
    if can_run(found):
        check_rows(found, len(found), len(found[0]) // 2)
        assert run(found, runtime).step_s > 0
        return
    with pytest.raises(MpsimError) as error:
        run(found, runtime)
    text = str(error.value)
    assert re.fullmatch(r"schedule cannot finish, its ranks wait for each other: \d\w\d waits for .+", text)
    assert len(text) < 1000
    assert len(error.value.__notes__[0].splitlines()) == len(found)


def test_the_heads_are_named():
    """Stage 0 waits for the gradient of micro-batch 0, which stage 1 makes after micro-batch 1."""
    found = parse_rows("0F0 0B0 0F1 0B1\n1F1 1B1 1F0 1B0")
    with pytest.raises(MpsimError) as error:
        run(found)
    assert str(error.value) == (
        "schedule cannot finish, its ranks wait for each other: 0B0 waits for 1B0, 1F1 waits for 0F1: change the order"
    )
    assert error.value.__notes__ == ["rank 0  0F0 [0B0] 0F1 0B1\nrank 1  [1F1] 1B1 1F0 1B0"]


@settings(max_examples=100)
@given(st.lists(st.lists(st.builds(Operation, st.integers(-1, 2), st.sampled_from("FBIWX"), st.integers(-1, 2)))))
def test_any_rows_at_all_run_or_get_one_line(found):
    work = chained([layer("a"), layer("b")], 16)
    plan = Plan(pp=2, microbatches=2, schedule=lambda *_: found)
    message = ""
    try:
        simulate(work, chain(2, link=Wire(64.0)), plan)
    except MpsimError as error:
        message = str(error)
    assert "\n" not in message
