"""A search, a sweep and a result write their own report, with the step that they have."""

import json

import pytest
from reported import found, material, topology, workload

from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.report.page import page
from mpsim.simulation import simulate
from mpsim.sweeps import load_sweep, save_sweep, sweep


def data(path):
    return json.loads(path.read_text().partition('id="timeline-data">')[2].partition("</script>")[0])


def test_a_search_writes_the_page_of_its_answer(tmp_path):
    found().report(tmp_path / "a.html")
    own, wanted = (
        text.partition('id="provenance"')[0] for text in ((tmp_path / "a.html").read_text(), page(material()))
    )
    assert own == wanted


def test_a_sweep_writes_the_step_of_its_best(tmp_path):
    swept = sweep(workload(), topology(), batch=8, processes=1, schedules=["gpipe"])
    swept.report(tmp_path / "a.html", what_ifs=False)
    assert data(tmp_path / "a.html")["end"] == swept.best["step_s"]
    assert "simulated again here" not in (tmp_path / "a.html").read_text()
    save_sweep(tmp_path / "t.csv", swept)
    load_sweep(tmp_path / "t.csv").report(tmp_path / "b.html")
    assert "Not shown: give the workload" in (tmp_path / "b.html").read_text()


def test_a_result_writes_its_step_and_real_runs_beside_it(tmp_path):
    result = simulate(workload(), topology(), Plan(pp=4, microbatches=8))
    result.report(tmp_path / "a.html", real=[result], what_ifs=False)
    assert data(tmp_path / "a.html")["end"] == result.step_s
    assert "predicted over measured" in (tmp_path / "a.html").read_text()
    with pytest.raises(MpsimError, match="top is 0"):
        result.report(tmp_path / "b.html", top=0)
    with pytest.raises(MpsimError, match=r"real has 'run\.json', expected results"):
        result.report(tmp_path / "b.html", real=["run.json"])
    with pytest.raises(MpsimError, match="cannot write"):
        result.report(tmp_path / "none" / "a.html", what_ifs=False)
