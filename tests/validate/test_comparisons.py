"""Rows: written and read, summed up, printed, drawn; and run, once, for real."""

import csv
from dataclasses import replace

import pytest

from mpsim.emulate import Emulation
from mpsim.errors import MpsimError
from mpsim.plan.model import Plan
from mpsim.simulation import simulate
from mpsim.topology.spec import parse_topology
from mpsim.validate import LOOPBACK, Case, Comparison, Validation, compare_case, load_rows, save_rows, table
from mpsim.validate.model import summarize
from mpsim.validate.run import validate_emulated
from mpsim.workload.model import Layer, Workload

ROW = Comparison(
    model="mlp", plan="pp=2 micro-batches=4 gpipe", kind="gpipe", wire="loopback", batch=8, processes=2,
    trials=5, fabric="host", compute="replay", latency_s=1e-3, bandwidth_bytes_per_s=1.2e8, predicted_s=1.1,
    ideal_s=0.7, measured_s=1.0, measured_p5_s=0.9, measured_p95_s=1.2, error_fraction=0.1, ideal_error_fraction=-0.3,
    error_in_spreads=1 / 3, compute_fraction=0.02, sends_fraction=0.05, tied_fraction=0.0, dp_fraction=0.0,
    tp_fraction=0.0, idle_fraction=0.03, wall_s=4.5,
)  # fmt: skip


def test_rows_come_back_from_the_file_as_they_were(tmp_path):
    rows = (ROW, replace(ROW, error_in_spreads=None, kind="1f1b"))
    save_rows(tmp_path / "rows.csv", Comparison, rows)
    assert load_rows(tmp_path / "rows.csv", Comparison) == rows


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [("trials", "five", "line 2, trials: 'five' is not"), ("measured_s", "nan", "line 2, measured_s: 'nan' is not")],
)
def test_a_cell_that_was_edited_is_refused(tmp_path, column, text, message):
    path = tmp_path / "rows.csv"
    save_rows(path, Comparison, [ROW])
    cells = next(csv.DictReader(path.open())) | {column: text}
    path.write_text(",".join(cells) + "\n" + ",".join(cells.values()) + "\n")
    with pytest.raises(MpsimError, match=message):
        load_rows(path, Comparison)


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "sweep.csv"
    path.write_text("rank,plan\n1,dp=2\n")
    with pytest.raises(MpsimError, match="not a table that this mpsim validate"):
        load_rows(path, Comparison)


def test_a_run_that_was_made_before_is_compared_and_no_other():
    work = Workload.chain("two", [Layer.given(name, forward_s=1.0, backward_s=2.0) for name in "ab"])
    case = Case(model="two", plan=Plan(pp=2, batch=2, microbatches=2, schedule="gpipe"), wire=LOOPBACK, trials=1)
    links = parse_topology("switch:2,link=1GB/s@0")
    ran = Emulation(result=simulate(work, links, case.plan), links=links, fabric="host", boundaries=(1,))
    row = compare_case(case, work, ran=ran)
    assert (row.measured_s, row.ideal_s, row.ideal_error_fraction) == (9.0, 9.0, 0.0)
    assert row.predicted_s == simulate(work, links, replace(case.plan, runtime="torch-gloo")).step_s
    for other in (replace(case, trials=3), replace(case, plan=replace(case.plan, schedule="1f1b"))):
        with pytest.raises(MpsimError, match="give the case's own run"):
            compare_case(other, work, ran=ran)


def test_errors_are_summed_up_without_their_signs():
    rows = [ROW, replace(ROW, error_fraction=-0.3, ideal_error_fraction=0.5)]
    found = summarize(rows)
    assert (found.count, found.mean_fraction, found.worst_fraction) == (2, pytest.approx(0.2), pytest.approx(0.3))
    assert found.bias_fraction == pytest.approx(-0.1)
    assert (found.ideal_mean_fraction, found.ideal_worst_fraction) == pytest.approx((0.4, 0.5))


def test_orders_are_held_against_each_other_within_one_model_and_link():
    steps = [(1.0, 1.1, 3.0), (2.0, 2.1, 2.0), (3.0, 2.9, 1.0)]
    rows = [replace(ROW, measured_s=a, predicted_s=b, ideal_s=c) for a, b, c in steps]
    found = Validation(rows=(*rows, replace(ROW, wire="other")), planned=4)
    assert found.orders == {("mlp", "loopback"): (3, 1.0, -1.0)}


def test_the_table_names_the_part_that_adds_most():
    text = table(Validation(rows=(ROW,), planned=2, failures=(("other", "rank 1 died"),)))
    assert "1 of 2 cases were run" in text
    assert "not run: other: rank 1 died" in text
    assert "+10.0 %" in text
    assert "sends +5.0 %" in text


def test_every_row_is_drawn_and_its_error_beside_it():
    from mpsim.result import plotting

    frame = Validation(rows=(ROW, replace(ROW, kind="data", predicted_s=1.2 * ROW.measured_s)), planned=2).to_frame()
    absolute, relative = plotting.predicted_and_measured(frame).axes
    labels = [text.get_text() for text in relative.get_legend().get_texts()]
    assert labels == ["equal", "within 10 %", "gpipe", "data"]
    assert len(absolute.containers) == len(relative.containers) == 2
    errors = [100 * (row.predicted_s / row.measured_s - 1) for row in (ROW,)] + [20.0]
    assert [one.lines[0].get_ydata()[0] for one in relative.containers] == pytest.approx(errors)
    assert f"worst {max(errors, key=abs):+.1f} %" in relative.get_title(loc="left")
    assert (relative.get_yscale(), relative.get_xscale()) == ("linear", "log")
    alone = plotting.predicted_and_measured(frame, ax=absolute).axes[0]
    assert alone.get_ylabel() == "predicted step (s)"
    with pytest.raises(MpsimError, match="no column 'kind'"):
        plotting.predicted_and_measured(frame.drop(columns="kind"))


def test_cases_with_a_row_are_not_run_again_and_those_that_fail_say_why():
    layers = [Layer.given(name, forward_s=0.01, backward_s=0.02) for name in "ab"]
    case = Case(model="mlp", plan=Plan(pp=2, batch=4, microbatches=4, schedule="gpipe"), wire=LOOPBACK)
    too_many = replace(case, plan=Plan(pp=3, batch=1))
    kept = []
    row = replace(ROW, plan=case.plan.text, batch=4)
    found = validate_emulated(
        [case, too_many], {"mlp": Workload.chain("two", layers)}, done=[row], keep=lambda rows: kept.append(len(rows))
    )
    assert found.rows == (row,)
    assert found.failures[0][0] == too_many.name
    assert "3" in found.failures[0][1]


@pytest.mark.slow
def test_a_real_run_over_loopback_is_compared_part_by_part():
    layers = [Layer.given(name, forward_s=0.02, backward_s=0.04, microbatch=4) for name in "abcd"]
    workload = Workload.chain("four", layers, activation_bytes=4 * 2**16)
    case = Case(model="four", plan=Plan(pp=2, batch=16, microbatches=4, schedule="gpipe"), wire=LOOPBACK, trials=3)
    (row,) = validate_emulated([case], {"four": workload}).rows
    # (4 + 1) micro-batches of 2 layers, 60 ms each: no less, and on a busy machine more by whatever it is busy with.
    assert row.predicted_s >= 0.6 * (1 - 1e-9)
    assert row.measured_p5_s >= 0.999 * 0.6  # sleeping never ends early
    assert row.error_fraction == pytest.approx(row.predicted_s / row.measured_s - 1)
    fractions = [getattr(row, f"{part}_fraction") for part in ("compute", "sends", "tied", "dp", "tp", "idle")]
    assert sum(fractions) == pytest.approx(row.error_fraction, abs=1e-9)
