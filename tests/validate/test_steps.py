"""Measured steps beside what their own units predict, and files that are none of such steps."""

import json
from dataclasses import replace

import pytest

from mpsim import MpsimError
from mpsim.validate.steps import summarize_steps, validate_steps
from mpsim.validate.steps_file import COMMITTED, load_steps
from mpsim.validate.steps_workload import accumulate_s, step_of_one, workload_of

ROWS = load_steps()
FOUND = validate_steps(ROWS)


def test_every_row_is_predicted_with_one_and_four_microbatches():
    assert len(ROWS) == 16
    assert len(FOUND) == 32
    assert {one.microbatches for one in FOUND} == {1, 4}


def test_errors_by_what_binds_a_step():
    """What was reached; the worst device-bound row is the bf16 Llama, whose units ran with pauses between."""
    found = {one.name: one for one in summarize_steps(FOUND)}
    assert found["device-bound, back to back"].mean_fraction < 0.013
    assert found["device-bound, one step"].mean_fraction < 0.013
    assert found["launch-bound, back to back"].mean_fraction < 0.11
    assert found["launch-bound, one step"].mean_fraction < 0.07
    assert found["peak allocated above 1 GiB"].worst_fraction < 0.025


def test_device_bound_float32_steps_are_within_a_fiftieth():
    bound = [one for one in FOUND if one.bound == "device" and "bf16" not in one.model]
    assert len(bound) >= 11
    assert max(abs(one.steady_error_fraction) for one in bound) < 0.015
    assert max(abs(one.step_error_fraction) for one in bound) < 0.015


def test_truths_are_not_among_what_is_predicted_from():
    """Steps twice as long, and peaks twice as high, are predicted the same."""
    other = [
        replace(
            row,
            steps=tuple(
                replace(
                    one,
                    wall_s=2 * one.wall_s,
                    back_to_back_s=2 * one.back_to_back_s,
                    peak_bytes=2 * one.peak_bytes,
                    reserved_bytes=2 * one.reserved_bytes,
                )
                for one in row.steps
            ),
        )
        for row in ROWS
    ]
    ours = [(one.steady_s, one.step_s, one.peak_bytes, one.reserved_bytes) for one in FOUND]
    assert [(one.steady_s, one.step_s, one.peak_bytes, one.reserved_bytes) for one in validate_steps(other)] == ours


def test_a_phase_takes_the_host_what_the_plain_step_took_it():
    row = ROWS[0]
    work = workload_of(row)
    hosts = [cost.host for layer in work.layers for cost in layer.costs]
    step = step_of_one(row)
    assert sum(host.forward_s[0] for host in hosts) == pytest.approx(step.host_forward_s)
    backward = sum(host.backward_input_s[0] + host.backward_weight_s[0] for host in hosts)
    assert backward == pytest.approx(step.host_backward_s)
    assert sum(host.optimizer_s[0] for host in hosts) == pytest.approx(step.host_optimizer_s)
    devices = [cost.samples for layer in work.layers for cost in layer.costs]
    assert sum(one.optimizer_s[0] for one in devices) == pytest.approx(row.optimizer_whole[1])


def test_a_device_that_the_catalog_lacks_adds_for_nothing():
    assert accumulate_s("Abacus 3", 10**9) == 0.0
    assert accumulate_s("NVIDIA H100 80GB HBM3", 10**9) > accumulate_s("NVIDIA H200", 10**9) > 0


def write(tmp_path, text):
    path = tmp_path / "steps.json"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no file of measured steps"),
        ("[]", "it has no list of rows, each with units and steps"),
        ("{}", "it has no list of rows"),
        ('{"rows": []}', "it has no list of rows"),
        ('{"schema": "mpsim.workload/1", "name": "w", "layers": []}', "it has no list of rows"),
        ('{"rows": [{"model": "x"}]}', "row 0: field 'microbatch' is missing"),
        ('{"rows": [3]}', "row 0: expected an object"),
        ('{"rows": [{"failed": "out of memory"}]}', "all of its 1 rows failed"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(MpsimError, match=message) as error:
        load_steps(write(tmp_path, text))
    assert "\n" not in str(error.value)


def test_no_file():
    with pytest.raises(MpsimError, match=r"no file 'none\.json': name one of measured steps"):
        load_steps("none.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row["units"][0].update(forward=[1.0]), r"row 0.units\[0\].forward: expected 2 items, found 1"),
        (lambda row: row["units"][0].update(forward=[-1.0, 1.0]), "row 0: a time that is no number of seconds"),
        (lambda row: row.update(steps=[]), "row 0: .* 0 steps, expected one or more"),
        (lambda row: row["steps"][0].update(wall_s=0.0), "row 0: a step of no time"),
        (lambda row: row["steps"][0].update(microbatches=0), "row 0: .* below 1"),
        (lambda row: row.update(microbatch="four"), "row 0.microbatch: expected a whole number"),
    ],
)
def test_rows_that_no_run_could_have_given(tmp_path, change, message):
    body = json.loads(COMMITTED.read_text())
    change(body["rows"][0])
    with pytest.raises(MpsimError, match=message):
        load_steps(write(tmp_path, json.dumps(body)))


def test_rows_that_failed_are_left_out_and_others_may_say_more(tmp_path):
    body = json.loads(COMMITTED.read_text())
    body["rows"][0]["failed"] = "out of memory"
    body["rows"][1]["remark"] = "a warm day"
    assert load_steps(write(tmp_path, json.dumps(body))) == ROWS[1:]
