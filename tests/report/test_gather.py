"""A report is of one question, and of what was given beside it: what does not belong together is refused."""

from dataclasses import replace

import pytest
from reported import given, material, study, topology, workload

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.report.gather import Given, gather, rows_of_results
from mpsim.report.material import Material
from mpsim.report.tables import real_table
from mpsim.result.model import Result
from mpsim.simulation import simulate
from mpsim.sweeps.question import ask


def with_question(what, **parts):
    """Return the study with rows that answer a question of other parts."""
    own = study()
    asked = {"workload": own.workload, "topology": own.topology, "options": (), "batch": 8, "grid": ()} | parts
    text = ask(**asked).text
    sweep = replace(what.sweep, rows=tuple(row | {"question": f"{text}:{i}"} for i, row in enumerate(what.sweep.rows)))
    return replace(what, sweep=sweep)


def test_the_best_plans_step_is_that_of_the_table():
    found = material()
    assert found.result.step_s == found.best["step_s"] == found.explanation.result.step_s
    assert sum(part.seconds for part in found.explanation.parts) == found.best["step_s"]
    assert not found.doubts


def test_rows_of_another_workload_or_topology_are_refused():
    with pytest.raises(MpsimError, match="is of workload 'four', 'five' was given"):
        gather(replace(given(), workload=workload("five")))
    other = replace(workload(), layers=workload().layers[:3], tensors=workload().tensors[:3])
    with pytest.raises(MpsimError, match="made of another workload 'four' than the one given"):
        gather(with_question(given(), workload=other))
    devices = tuple(replace(device, memory_bytes=1) for device in topology().devices)
    with pytest.raises(MpsimError, match="made of another topology"):
        gather(with_question(given(), topology=replace(topology(), devices=devices)))


def test_rows_of_another_mpsim_are_said_to_be(monkeypatch):
    asked = with_question(given())
    monkeypatch.setattr("mpsim.report.gather.code_digest", lambda: "0" * 64)
    assert gather(asked, what_ifs=False).caveats[0].startswith("best.csv was made by another mpsim")


def test_of_several_batches_one_is_named():
    rows = given().sweep.rows
    sweep = replace(given().sweep, rows=(*rows, *(row | {"global_batch": 16} for row in rows)))
    with pytest.raises(MpsimError, match="rows of 2 workloads, topologies and batches"):
        gather(Given(sweep=sweep, table="best.csv"))
    assert gather(Given(sweep=sweep, table="best.csv"), batch=16).about["global_batch"] == 16
    with pytest.raises(MpsimError, match=r"--batch is 9, best\.csv has rows of 8, 16"):
        gather(Given(sweep=sweep, table="best.csv"), batch=9)


def test_a_table_alone_says_what_the_rest_needs():
    found = gather(Given(sweep=given().sweep, table="best.csv"))
    assert found.plan is None
    assert "mpsim report best.csv WORKLOAD TOPOLOGY" in found.missing["step"]


def test_a_result_is_a_study_of_one_plan():
    result = simulate(workload(), topology(), Plan(pp=4, microbatches=8))
    found = gather(Given(results=[result]))
    assert found.result is result
    assert found.best["step_s"] == result.step_s


def test_real_runs_stand_beside_what_was_predicted_for_them():
    predicted = simulate(workload(), topology(), Plan(pp=4, microbatches=8))
    ran = {"made_by": "emulate", "trial_step_s": (30.0, 32.0, 34.0), "step_s": 32.0, "trials": 3, "free_step_s": None}
    real = replace(predicted, **ran, plan=f"{predicted.plan} stages=1,2,3", devices=())
    elsewhere = replace(real, topology="other")
    unknown = replace(real, plan="dp=3 pp=1 tp=1 micro-batches=1")
    table = real_table(Material(sweep=rows_of_results([predicted]), real=(real, elsewhere, unknown)))
    assert [row[4].text for row in table.rows] == [
        f"+{round(100 * (predicted.step_s / 32 - 1), 1)} %", "ran on other: not comparable", "no such plan here",
    ]  # fmt: skip
    assert table.rows[1][1].text == ""
    assert table.rows[0][5].text == "ideal, 3 steps"
    other = real_table(Material(sweep=rows_of_results([predicted]), real=(replace(real, runtime="torch-gloo"),)))
    assert other.rows[0][5].text == "torch-gloo, 3 steps; predicted for ideal"


def test_a_run_with_other_stages_is_another_plans():
    predicted = simulate(workload(), topology(), Plan(pp=2, microbatches=8, boundaries=(1,)))
    real = replace(predicted, made_by="emulate", plan=predicted.plan.replace("stages=1", "stages=2"))
    assert real_table(Material(sweep=rows_of_results([predicted]), real=(real,))).rows[0][4].text == "no such plan here"


def test_nothing_that_fits_is_a_report_too():
    rows = tuple(row | {"fits": False, "rank": None} for row in given().sweep.rows)
    found = gather(replace(given(), sweep=replace(given().sweep, rows=rows)))
    assert found.best is None
    assert "no plan fits" in found.missing["step"]


def test_no_rows_are_no_report():
    with pytest.raises(MpsimError, match="has no rows"):
        gather(Given(sweep=replace(given().sweep, rows=()), table="empty.csv"))


def test_a_result_without_devices_is_reported():
    result = Result(workload="mlp", topology="pair", plan="pp=2", step_s=2.0, trial_step_s=(2.0,), free_step_s=1.5)
    assert gather(Given(results=[result])).result is result
