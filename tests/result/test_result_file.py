import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpsim.documents import Provenance
from mpsim.errors import MpsimError
from mpsim.result.file import load_result, save_result
from mpsim.result.model import Result, Spans

DATA = Path(__file__).parents[1] / "data"


def test_a_result_comes_back_as_it_was(tmp_path, pipeline):
    save_result(tmp_path / "r.json", pipeline)
    assert load_result(tmp_path / "r.json") == pipeline


def test_spans_can_be_left_out(tmp_path, pipeline):
    save_result(tmp_path / "r.json", pipeline, spans=False)
    kept = load_result(tmp_path / "r.json")
    assert kept == dataclasses.replace(pipeline, spans=Spans())
    assert len(pipeline.spans) == 4 * 8 * 2 + 2 * 3 * 8 + 4


def test_spans_are_columns_in_the_file(tmp_path, pipeline):
    save_result(tmp_path / "r.json", pipeline)
    body = json.loads((tmp_path / "r.json").read_text())
    assert next(iter(body)) == "schema"
    assert body["schema"] == "mpsim.result/7"
    assert {len(column) for column in body["spans"].values()} == {len(pipeline.spans)}


def test_the_golden_file_of_version_1_stays_readable():
    result = load_result(DATA / "result-1.json")
    assert result.plan == "dp=1 pp=2 tp=1 micro-batches=2 gpipe"
    assert result.trial_step_s == (0.01806640625, 0.01904296875, 0.02001953125)
    assert result.provenance == Provenance(made_by="mpsim 0.1.0", command="mpsim simulate pair.json chain:2")
    assert [device.name for device in result.devices] == ["gpu0", "gpu1"]
    assert result.devices[1].memory.timeline_bytes[0] == 96 * 2**20
    assert result.spans.name[:3] == ("0F0", "send 0F0 to 1", "0F1")
    assert result.step_s == max(result.spans.end_s)
    assert result.spans.devices[1] == (0, 1)
    assert result.speedup == 0.0234375 / 0.01904296875


def test_the_golden_file_of_version_2_is_of_a_real_run():
    result = load_result(DATA / "result-2.json")
    assert (result.made_by, result.runtime, result.free_step_s) == ("emulate", "torch-gloo", None)
    assert [device.bubble_s for device in result.devices] == [None, None]
    assert result.communication_overhead_s is None
    assert result.step_s == max(result.spans.end_s)
    assert result.spans.devices[1] == (0, 1)


def test_the_golden_file_of_version_3_says_what_was_chosen_and_what_is_beyond():
    result = load_result(DATA / "result-3.json")
    (count,) = result.traffic
    assert (count.kind, count.algorithm, count.transfers, count.beyond) == ("all_reduce", "ring", 2, 1)
    assert result.step_s == max(result.spans.end_s)


def test_the_golden_file_of_version_4_has_hosts_and_more_holders_of_memory():
    result = load_result(DATA / "result-4.json")
    assert (result.launch, result.step_s, result.steady_s) == ("eager", 2.1895480000000003, 1.9395480000000003)
    first, second = (device.memory for device in result.devices)
    assert result.devices[0].exposed_launch_s > 0
    assert (first.workspace_bytes, first.reserved_bytes) == (64 * 2**20, 68 * 2**20)
    assert (second.master_bytes, second.transients_bytes) == (512, 512)
    assert result.spans.kind[:2] == ("launch", "forward")


def test_the_golden_file_of_version_4_says_what_may_make_it_wrong():
    result = load_result(DATA / "result-4.json")
    assert result.fidelity == "doubtful"
    assert result.caveats == (
        "doubtful: layers sum to 1.12 of the whole step at micro-batch 1",
        result.scalings[0].text,
        f"costs of send were {result.traffic[0].unmeasured}",
    )
    assert (result.scalings[0].low, result.scalings[0].high) == (0.25, 0.75)
    assert result.notes == ("nothing reads parameter b.spare",)


def test_the_golden_file_of_version_5_has_memory_by_holder_over_time():
    """ZB-H1 over two devices: what stage 0 keeps of its two micro-batches is freed with W, not before."""
    first, second = (device.memory for device in load_result(DATA / "result-5.json").devices)
    held = {one.holder: dict(zip(one.time_s, one.bytes, strict=True)) for one in first.by_holder}
    assert held == {
        "parameters": {0.0: 1024},
        "gradients": {0.0: 0, 6.0: 1024, 8.0: 2048, 9.0: 1024, 9.5: 0},
        "optimizer": {0.0: 2048},
        "activations": {0.0: 256, 1.0: 512, 7.0: 256, 9.0: 0},
    }
    assert [one.holder for one in second.by_holder] == ["parameters", "gradients", "optimizer", "activations"]


def test_the_golden_file_of_version_6_has_devices_that_stand_for_others():
    """Two stages by eight replicas, four a node: what is sent to the next node is alike in all."""
    result = load_result(DATA / "result-6.json")
    assert [device.label for device in result.devices] == ["n0.d0 × 8", "n0.d1 × 8"]
    assert (result.n_devices, result.fits) == (16, True)
    assert {(count.axis, count.kind): count.transfers for count in result.traffic} == {
        ("dp", "all_reduce"): 2,
        ("pp", "send"): 32,
    }


def test_the_golden_file_of_version_7_knows_tokens_and_flops():
    """Two samples of 16 tokens in half a second; 10 GFLOP each over two devices that could do 100 GFLOP/s."""
    result = load_result(DATA / "result-7.json")
    assert (result.throughput_tokens_per_s, result.device_flops_per_s, result.mfu_fraction) == (64.0, 20e9, 0.2)
    assert load_result(DATA / "result-6.json").throughput_tokens_per_s is None


def test_older_files_know_no_steady_step():
    assert load_result(DATA / "result-3.json").steady_s is None


@given(
    steps=st.lists(st.floats(0, 1e6), min_size=1, max_size=4),
    names=st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=8),
)
def test_any_times_and_names_come_back(tmp_path_factory, steps, names):
    result = Result(
        workload=names, topology="t", plan=names, step_s=steps[0], trial_step_s=tuple(steps), free_step_s=steps[-1]
    )
    path = tmp_path_factory.mktemp("result") / "r.json"
    save_result(path, result)
    assert load_result(path) == result


def device(body: dict) -> dict:
    return body["devices"][0]


def holder(body: dict) -> dict:
    return device(body)["memory"]["by_holder"][0]


def edited(tmp_path, pipeline, change) -> Path:
    path = tmp_path / "r.json"
    save_result(path, pipeline)
    body = json.loads(path.read_text())
    change(body)
    path.write_text(json.dumps(body))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda body: body.update(step_s=-1.0), r"step_s holds -1.0, expected seconds, zero or more"),
        (lambda body: body.update(free_step_s="inf"), r"free_step_s holds inf, expected seconds"),
        (lambda body: body.update(trial_step_s=[]), r"trial_step_s is empty, expected at least one step"),
        (lambda body: body["spans"]["start_s"].pop(), r"spans have 116 names and 115 entries in 'start_s'"),
        (lambda body: body["spans"]["devices"].__setitem__(0, [4]), r"span '0F0' is on device 4, the result has 4"),
        (lambda body: body["spans"]["devices"].__setitem__(0, [-2]), r"span '0F0' is on device -2, the result has 4"),
        (lambda body: body["spans"]["end_s"].__setitem__(0, -1.0), r"span '0F0' runs from 0.0 s to -1.0 s"),
        (lambda body: body.update(fidelity="foo"), r"unknown fidelity 'foo'; known: analytical, doubtful, given"),
        (lambda body: body.update(global_batch=-1), r"global_batch is -1 and trials \d+, expected 0 and 1 or more"),
        (lambda body: device(body).update(compute_s=9.0), r"device 'gpu0' add up to .* s, the step is .* s"),
        (lambda body: device(body).update(bubble_s=-1.0), r"device 'gpu0' holds -1.0, expected seconds"),
        (lambda body: device(body)["memory"].update(parameters_bytes=-5), r"parameters_bytes holds -5, expected zero"),
        (lambda body: device(body)["memory"].update(timeline_s=[0.0], timeline_bytes=[]), r"1 times and 0 totals"),
        (
            lambda body: device(body)["memory"].update(timeline_s=[1.0, 0.0], timeline_bytes=[1, 1]),
            r"the times do not ascend",
        ),
        (lambda body: holder(body).update(holder="parameter"), r"unknown holder of memory 'parameter'; did you mean"),
        (lambda body: holder(body).update(holder="gradients"), r"'gpu0' has two timelines of gradients: keep one"),
        (
            lambda body: holder(body).update(bytes=[]),
            r"parameters of device 'gpu0' have 1 times and 0 numbers of bytes",
        ),
        (lambda body: holder(body).update(bytes=[-1]), r"'gpu0': parameters holds -1, expected zero or more"),
        (
            lambda body: holder(body).update(time_s=[1.0, 0.0], bytes=[1, 1]),
            r"'gpu0': the times of parameters do not ascend",
        ),
        (
            lambda body: holder(body).update(bytes=[1]),
            r"'gpu0' at 0.0 s: its holders add up to 83886081 bytes, the total is 100663296",
        ),
        (lambda body: body.update(step="x"), r"unknown field 'step'; did you mean 'step_s'\?"),
        (lambda body: body.update(schema="mpsim.workload/1"), r"is a workload .*, expected a result"),
        (lambda body: body.update(schema="mpsim.result/8"), r"reads up to mpsim.result/7: upgrade mpsim"),
    ],
)
def test_a_file_that_no_result_can_have_made_is_refused(tmp_path, pipeline, change, message):
    path = edited(tmp_path, pipeline, change)
    with pytest.raises(MpsimError, match=message) as error:
        load_result(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_a_truncated_file_is_refused(tmp_path, pipeline):
    path = tmp_path / "r.json"
    save_result(path, pipeline)
    path.write_text(path.read_text()[:-200])
    with pytest.raises(MpsimError, match="not whole JSON"):
        load_result(path)


def test_nothing_is_left_behind_where_nothing_can_be_written(tmp_path, pipeline):
    with pytest.raises(MpsimError, match="cannot write"):
        save_result(tmp_path / "nowhere" / "r.json", pipeline)
    assert list(tmp_path.iterdir()) == []
