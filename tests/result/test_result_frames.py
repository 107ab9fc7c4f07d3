import json
import subprocess
import sys
from dataclasses import replace

import pytest

from mpsim.result.frames import (
    devices_frame,
    memory_by_holder_frame,
    memory_frame,
    result_to_dict,
    spans_frame,
    summary_row,
    traffic_frame,
    trials_frame,
)
from mpsim.result.model import DeviceUse, Result

MIB = 2**20
PROMISED = {
    "step_s", "speedup", "communication_overhead_fraction", "communication_overhead_s", "throughput_samples_per_s",
    "peak_memory_bytes", "fits", "fidelity", "runtime", "plan", "workload", "topology", "global_batch", "trials",
    "trial_step_s", "deterministic", "bubble_fraction", "baseline", "baseline_step_s", "devices", "traffic",
}  # fmt: skip
PROMISED_OF_DEVICES = {
    "name", "compute_s", "exposed_communication_s", "idle_s", "bubble_s", "peak_memory_bytes", "memory",
    "capacity_bytes", "fits",
}  # fmt: skip


def bare(**given) -> Result:
    return Result(workload="w", topology="t", plan="p", **({"step_s": 0.0, "free_step_s": 0.0} | given))


def test_the_object_has_what_is_promised(pipeline):
    body = result_to_dict(pipeline)
    assert set(body) >= PROMISED
    assert all(set(device) >= PROMISED_OF_DEVICES for device in body["devices"])
    assert json.loads(json.dumps(body, allow_nan=False)) == body


def test_the_object_by_hand(noisy):
    body = result_to_dict(noisy)
    assert body["peak_memory_bytes"] == [192 * MIB, 168 * MIB, 144 * MIB, 120 * MIB]
    assert body["devices"][0]["memory"]["activations_bytes"] == 96 * MIB
    assert body["communication_overhead_s"] == 2**-11
    assert body["baseline_step_s"] == 96 * 2**-10
    assert body["trial_step_s"]["median"] == noisy.step_s
    # 41 trials from 0.95 to 1.05 of the step in steps of 1/400: the third and the third last.
    assert body["trial_step_s"]["p5"] == pytest.approx(noisy.step_s * 0.955, rel=1e-12)
    assert body["trial_step_s"]["p95"] == pytest.approx(noisy.step_s * 1.045, rel=1e-12)
    assert (body["trials"], body["deterministic"]) == (41, False)


def test_fractions_of_the_step_add_up(pipeline):
    row = summary_row(pipeline)
    parts = row["compute_fraction"] + row["exposed_communication_fraction"] + row["idle_fraction"]
    assert parts == pytest.approx(1.0, abs=1e-12)
    # Four devices, each eight forwards and backwards of 3 units and an optimizer of half a unit, of 2**-10 s.
    assert row["compute_fraction"] == 24.5 * 2**-10 / pipeline.step_s


def test_the_row_is_flat_and_agrees_with_the_object(pipeline):
    row, body = summary_row(pipeline), result_to_dict(pipeline)
    assert all(value is None or isinstance(value, str | int | float | bool) for value in row.values())
    assert (row["caveats"], body["caveats"]) == (None, [])
    shared = set(row) & set(body) - {"caveats"}
    assert {key: row[key] for key in shared} == {key: body[key] for key in shared}
    assert row["n_devices"] == 4
    assert row["highest_peak_memory_bytes"] == max(body["peak_memory_bytes"])
    assert row["pp_payload_bytes"] == row["payload_bytes"] == 48 * 4 * MIB
    assert row["dp_payload_bytes"] == row["tp_payload_bytes"] == 0


def test_what_does_not_exist_is_null():
    body = result_to_dict(bare(trial_step_s=(0.0,)))
    for key in ("speedup", "baseline", "baseline_step_s", "throughput_samples_per_s", "fits"):
        assert body[key] is None
    assert result_to_dict(bare(step_s=float("inf"), trial_step_s=(1.0,)))["step_s"] is None
    assert summary_row(bare(trial_step_s=(0.0,)))["compute_fraction"] == 0.0


def test_unknown_capacity_is_null():
    use = DeviceUse(name="a", compute_s=1.0, exposed_communication_s=0.0, idle_s=0.0)
    device = result_to_dict(bare(step_s=1.0, trial_step_s=(1.0,), devices=(use,)))["devices"][0]
    assert device["capacity_bytes"] is None
    assert device["fits"] is None
    frame = devices_frame(bare(step_s=1.0, trial_step_s=(1.0,), devices=(use,)))
    assert frame["capacity_bytes"].isna().all()
    assert frame["fits"].isna().all()


def test_one_row_for_each_span_and_device(pipeline):
    frame = spans_frame(pipeline)
    assert frame["span"].nunique() == len(pipeline.spans)
    assert len(frame) == 4 * 8 * 2 + 4 + 2 * 48
    send = frame[frame["name"] == "send 0F0 to 1"]
    assert send["device"].tolist() == ["gpu0", "gpu1"]
    assert send["duration_s"].tolist() == [2**-13, 2**-13]
    assert frame.loc[frame["kind"] == "optimizer", "microbatch"].isna().all()
    assert frame.drop_duplicates("span")["bytes"].sum() == 48 * 4 * MIB


def test_compute_from_spans_is_the_devices_compute(pipeline):
    frame = spans_frame(pipeline)
    computed = frame[frame["axis"] == ""].groupby("device")["duration_s"].sum()
    assert computed.to_dict() == devices_frame(pipeline).set_index("device")["compute_s"].to_dict()


def test_devices_frame(pipeline):
    frame = devices_frame(pipeline)
    assert frame["device"].tolist() == ["gpu0", "gpu1", "gpu2", "gpu3"]
    assert frame["peak_memory_bytes"].tolist() == list(pipeline.peak_memory_bytes)
    holders = [f"{holder}_bytes" for holder in ("parameters", "gradients", "optimizer", "activations", "buffers")]
    assert (frame[holders].sum(axis=1) == frame["peak_memory_bytes"]).all()
    assert frame["fits"].tolist() == [True] * 4


def test_trials_traffic_and_memory_frames(noisy):
    assert trials_frame(noisy)["step_s"].tolist() == list(noisy.trial_step_s)
    assert traffic_frame(noisy).to_dict("records") == [
        {
            "kind": "send",
            "axis": "pp",
            "transfers": 48,
            "payload_bytes": 48 * 4 * MIB,
            "link_bytes": 48 * 4 * MIB,
            "algorithm": "",
            "beyond": 0,
            "unmeasured": "",
        }
    ]
    memory = memory_frame(noisy)
    assert memory.groupby("device")["memory_bytes"].max().tolist() == list(noisy.peak_memory_bytes)
    assert (memory.groupby("device")["time_s"].first() == 0).all()


def test_memory_by_holder_in_long_form(pipeline):
    frame = memory_by_holder_frame(pipeline)
    assert list(frame.columns) == ["device", "holder", "time_s", "bytes"]
    last = frame[frame["device"] == "gpu3"]
    assert last[last["holder"] != "activations"].values.tolist() == [
        ["gpu3", "parameters", 0.0, 16 * MIB],
        ["gpu3", "gradients", 0.0, 16 * MIB],
        ["gpu3", "optimizer", 0.0, 32 * MIB],
        ["gpu3", "buffers", 0.0, 32 * MIB],
    ]
    # The last stage holds one micro-batch at a time.
    assert set(last[last["holder"] == "activations"]["bytes"]) == {0, 24 * MIB}
    assert len(memory_by_holder_frame(bare(trial_step_s=(0.0,)))) == 0


def test_frames_of_a_result_with_nothing_in_it():
    result = bare(trial_step_s=(0.0,))
    assert len(spans_frame(result)) == len(devices_frame(result)) == len(memory_frame(result)) == 0
    assert list(traffic_frame(result).columns) == [
        "kind",
        "axis",
        "transfers",
        "payload_bytes",
        "link_bytes",
        "algorithm",
        "beyond",
        "unmeasured",
    ]


def test_every_number_names_its_unit(pipeline):
    unitless = {"trials", "global_batch", "n_devices", "speedup", "caveats", "deterministic", "fits"}
    endings = ("_s", "_bytes", "_fraction", "_samples_per_s")
    for key, value in summary_row(pipeline).items():
        assert isinstance(value, str) or key in unitless or key.endswith(endings), key


@pytest.mark.parametrize("heavy", ["pandas", "matplotlib", "numpy", "torch", "simpy"])
def test_numbers_and_text_load_nothing_heavy(heavy):
    modules = "mpsim.result.frames, mpsim.result.text, mpsim.result.file, mpsim.result.perfetto"
    program = (
        f"import sys, mpsim; before = set(sys.modules); import {modules}; print('{heavy}' in set(sys.modules) - before)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_replacing_a_number_changes_the_row(pipeline):
    assert summary_row(replace(pipeline, step_s=2 * pipeline.step_s))["speedup"] == pipeline.speedup / 2
