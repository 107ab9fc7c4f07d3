"""The grid is what it is said to be, and every case of it can be simulated from the stored traces."""

from dataclasses import replace
from pathlib import Path

import pytest

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.validate.cases import GRID, LINKS, QUICK, Case
from mpsim.workload.file import load_workload

TRACES = Path(__file__).parents[2] / "workloads"
KINDS = {"naive", "gpipe", "1f1b", "data", "tensor", "hybrid"}


def test_the_grid_has_the_cases_that_were_asked_for():
    assert len(GRID) >= 60
    assert len({case.name for case in GRID}) == len(GRID)
    assert len({case.model for case in GRID}) == 3
    assert {case.plan.strategy for case in GRID} == KINDS
    assert {case.plan.ranks for case in GRID} == {2, 4}
    assert {case.wire.text for case in GRID} == set(LINKS)
    assert any((case.plan.dp, case.plan.pp) == (2, 2) for case in GRID)


def test_the_quick_grid_has_each_kind_of_plan():
    assert {case.plan.strategy for case in QUICK} == KINDS
    assert set(QUICK) <= set(GRID)


def test_every_case_is_predicted_from_measured_costs_alone():
    workloads = {model: load_workload(TRACES / f"{model}.cpu.json") for model in {case.model for case in GRID}}
    for case in GRID:
        plan = replace(case.plan, runtime="torch-gloo")
        result = simulate(workloads[case.model], case.wire.topology(plan.ranks), plan, spans=False)
        assert result.fidelity in ("measured", "scaled"), case.name
        assert result.step_s < 5.0, case.name


def test_plans_of_one_model_and_link_run_one_batch():
    batches = {}
    for case in GRID:
        batches.setdefault((case.model, case.wire), set()).add(case.plan.batch)
    assert all(len(found) == 1 for found in batches.values())


def test_an_even_number_of_trials_is_refused():
    with pytest.raises(MpsimError, match="trials is 4, expected an odd number"):
        Case(model="mnist-mlp", plan=Plan(pp=2), wire=LINKS["1Gbit/s@0ms"], trials=4)
